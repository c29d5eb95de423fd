CREATE TABLE training.jobs (
    job_id          uuid PRIMARY KEY DEFAULT gen_random_uuid(),
    dataset_version integer NOT NULL,
    batch           integer NOT NULL,
    family          text NOT NULL,
    family_rank     integer NOT NULL,
    code_version    text NOT NULL,
    event           jsonb NOT NULL,  -- the batch.ready that asked for it
    headers         jsonb NOT NULL,  -- its envelope: what the candidate's event is caused by
    status          text NOT NULL DEFAULT 'queued' CHECK (status IN ('queued', 'running', 'done', 'failed')),
    attempts        integer NOT NULL DEFAULT 0,
    not_before      timestamptz NOT NULL DEFAULT now(),
    lease_token     uuid,
    lease_until     timestamptz,
    fit_seconds     double precision,
    auroc           double precision,
    model_version   text,
    error           text,
    created_at      timestamptz NOT NULL DEFAULT now(),
    started_at      timestamptz,
    finished_at     timestamptz,
    UNIQUE (dataset_version, batch, family, code_version)
);
CREATE INDEX jobs_open ON training.jobs (dataset_version, batch, family_rank) WHERE status IN ('queued', 'running');
