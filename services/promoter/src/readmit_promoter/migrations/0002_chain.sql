-- The ledger as a chain of digests. A row is its document; the other columns are read out of it by the database, so that
-- they cannot say anything else, and a row that does not follow the last one is refused.
ALTER TABLE governance.decisions RENAME TO decisions_unchained;
ALTER INDEX governance.decisions_by_time RENAME TO decisions_unchained_by_time;
ALTER INDEX governance.decisions_pkey RENAME TO decisions_unchained_pkey;
DROP TRIGGER append_only ON governance.decisions_unchained;

CREATE TABLE governance.decisions (
    sequence bigint PRIMARY KEY CHECK (sequence >= 1),
    document text NOT NULL,
    previous_sha256 text NOT NULL UNIQUE,
    sha256 text NOT NULL UNIQUE,
    at timestamptz NOT NULL,
    entry_id uuid NOT NULL UNIQUE GENERATED ALWAYS AS (((document::jsonb) ->> 'entry_id')::uuid) STORED,
    kind text NOT NULL GENERATED ALWAYS AS ((document::jsonb) ->> 'kind') STORED,
    by text NOT NULL GENERATED ALWAYS AS ((document::jsonb) ->> 'by') STORED,
    epoch integer UNIQUE GENERATED ALWAYS AS (((document::jsonb) #>> '{fact,epoch}')::integer) STORED,
    revision integer UNIQUE GENERATED ALWAYS AS (((document::jsonb) #>> '{fact,revision}')::integer) STORED,
    promotion_epoch integer UNIQUE GENERATED ALWAYS AS (((document::jsonb) #>> '{fact,promotion_epoch}')::integer) STORED,
    judgement_id uuid GENERATED ALWAYS AS (((document::jsonb) #>> '{fact,judgement_id}')::uuid) STORED,
    candidate_name text GENERATED ALWAYS AS ((document::jsonb) #>> '{fact,decision,case,event,model,name}') STORED,
    candidate_version text GENERATED ALWAYS AS ((document::jsonb) #>> '{fact,decision,case,event,model,version}') STORED,
    UNIQUE (candidate_name, candidate_version),
    CHECK (sequence = ((document::jsonb) ->> 'sequence')::bigint),
    CHECK (at = ((document::jsonb) ->> 'at')::timestamptz),
    CONSTRAINT digest_covers_entry CHECK (sha256 = encode(sha256(convert_to(previous_sha256 || E'\n' || document, 'UTF8')), 'hex')),
    CHECK (kind <> 'promotion' OR epoch IS NOT NULL),
    CHECK (kind <> 'rollback' OR epoch IS NOT NULL),
    CHECK (kind <> 'judgement' OR candidate_version IS NOT NULL)
);
CREATE INDEX decisions_by_kind ON governance.decisions (kind, sequence DESC);
CREATE INDEX decisions_by_judgement ON governance.decisions (judgement_id);

CREATE FUNCTION governance.refuse_unchained() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
    last record;
BEGIN
    SELECT sequence, sha256 INTO last FROM governance.decisions ORDER BY sequence DESC LIMIT 1;
    IF NEW.sequence <> coalesce(last.sequence, 0) + 1 OR NEW.previous_sha256 <> coalesce(last.sha256, repeat('0', 64)) THEN
        RAISE EXCEPTION 'governance.decisions is a chain: entry % does not follow entry %', NEW.sequence, coalesce(last.sequence, 0);
    END IF;
    RETURN NEW;
END
$$;
CREATE TRIGGER chained BEFORE INSERT ON governance.decisions FOR EACH ROW EXECUTE FUNCTION governance.refuse_unchained();
CREATE TRIGGER append_only
    BEFORE UPDATE OR DELETE OR TRUNCATE ON governance.decisions
    FOR EACH STATEMENT EXECUTE FUNCTION governance.refuse_change();

-- Candidates that wait for their judgement, in the order in which they came.
CREATE TABLE governance.candidates (
    place bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    name text NOT NULL,
    version text NOT NULL,
    event jsonb NOT NULL,
    headers jsonb NOT NULL,
    queued_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    UNIQUE (name, version)
);

-- What pods say: when we heard of each last, whether it has left, and its word on a challenger.
ALTER TABLE governance.pods
    ADD COLUMN heard_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    ADD COLUMN has_left boolean NOT NULL DEFAULT false,
    ADD COLUMN occasion text NOT NULL DEFAULT 'load';
CREATE TABLE governance.challenger_pods (
    pod_id text NOT NULL,
    rollout_revision integer NOT NULL,
    outcome text NOT NULL CHECK (outcome IN ('serving', 'refused')),
    reason text,
    at timestamptz NOT NULL,
    PRIMARY KEY (pod_id, rollout_revision)
);

-- The first word of each pod on each promotion.
CREATE TABLE governance.arrivals (
    epoch integer NOT NULL,
    pod_id text NOT NULL,
    at timestamptz NOT NULL,
    heard_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    refused text,
    PRIMARY KEY (epoch, pod_id)
);

-- What both models of a trial said of the same encounter: the newest stage's, as many as its policy asks for.
CREATE TABLE governance.trial_answers (
    prediction_id uuid PRIMARY KEY,
    rollout_id uuid NOT NULL,
    stage text NOT NULL CHECK (stage IN ('shadow', 'canary')),
    by_challenger boolean NOT NULL,
    champion_risk double precision,
    challenger_risk double precision,
    decision_differs boolean,
    score_ms double precision
);
CREATE INDEX trial_answers_by_stage ON governance.trial_answers (rollout_id, stage);
