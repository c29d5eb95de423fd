-- The ledger of decisions. Rows are only ever added: who governs a model must be able to show what was decided, when,
-- and on which evidence.
CREATE TABLE governance.decisions (
    decision_id uuid PRIMARY KEY,
    model_name text NOT NULL,
    model_version text NOT NULL,
    outcome text NOT NULL CHECK (outcome IN ('promoted', 'rejected')),
    reason text NOT NULL,
    detail text NOT NULL,
    auroc double precision,
    auroc_low double precision,
    auroc_high double precision,
    difference double precision,
    difference_low double precision,
    difference_high double precision,
    common_rows integer,
    epoch integer UNIQUE CHECK (epoch >= 1),
    champion_before jsonb,
    evidence_sha256 text NOT NULL,
    champion_evidence_sha256 text,
    policy jsonb NOT NULL,
    event jsonb NOT NULL,
    decided_at timestamptz NOT NULL,
    UNIQUE (model_name, model_version),
    CHECK ((outcome = 'promoted') = (epoch IS NOT NULL))
);
CREATE INDEX decisions_by_time ON governance.decisions (decided_at DESC);

CREATE FUNCTION governance.refuse_change() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION 'governance.% is append-only: % refused', TG_TABLE_NAME, TG_OP;
END
$$;

CREATE TRIGGER append_only
    BEFORE UPDATE OR DELETE OR TRUNCATE ON governance.decisions
    FOR EACH STATEMENT EXECUTE FUNCTION governance.refuse_change();

-- The last word of each pod on what it serves.
CREATE TABLE governance.pods (
    pod_id text PRIMARY KEY,
    outcome text NOT NULL CHECK (outcome IN ('serving', 'refused')),
    epoch integer NOT NULL,
    model jsonb NOT NULL,
    sha256 text NOT NULL,
    load_ms double precision NOT NULL,
    reason text,
    at timestamptz NOT NULL
);
