-- Who asked for training, and which jobs each of them waits for: its own, and those that others had asked for before.
CREATE TABLE training.requests (
    request_id      uuid PRIMARY KEY,
    reason          text NOT NULL,
    requested_by    text NOT NULL,
    requested_at    timestamptz NOT NULL,
    force           boolean NOT NULL,
    code_version    text NOT NULL,
    headers         jsonb NOT NULL,  -- the request's envelope: what training.finished is caused by
    status          text NOT NULL DEFAULT 'running' CHECK (status IN ('running', 'done', 'unchanged', 'failed')),
    dataset_version integer,         -- what is trained on; NULL: nothing was found
    models          jsonb NOT NULL DEFAULT '[]',  -- as training.finished says
    error           text,
    received_at     timestamptz NOT NULL DEFAULT clock_timestamp(),
    finished_at     timestamptz
);
CREATE INDEX requests_by_time ON training.requests (received_at);

-- A job that a request forced stands beside the one that the batch gave rise to.
ALTER TABLE training.jobs ADD COLUMN request_id uuid REFERENCES training.requests;
ALTER TABLE training.jobs DROP CONSTRAINT jobs_dataset_version_batch_family_code_version_key;
CREATE UNIQUE INDEX jobs_once ON training.jobs (dataset_version, batch, family, code_version, request_id)
    NULLS NOT DISTINCT;

CREATE TABLE training.request_jobs (
    request_id uuid REFERENCES training.requests,
    job_id     uuid REFERENCES training.jobs,
    PRIMARY KEY (request_id, job_id)
);
CREATE INDEX request_jobs_by_job ON training.request_jobs (job_id);
