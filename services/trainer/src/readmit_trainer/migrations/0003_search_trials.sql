-- Trials of searches, so that one that was cut off goes on where it stopped. They go with their job.
CREATE TABLE training.search_trials (
    job_id              uuid REFERENCES training.jobs ON DELETE CASCADE,
    feature_spec_sha256 text,
    number              integer,
    params              jsonb NOT NULL,
    losses              double precision[] NOT NULL,  -- mean log loss of each held-out fold that was scored, nats
    state               text NOT NULL CHECK (state IN ('complete', 'pruned')),
    seconds             double precision NOT NULL,
    settled             jsonb NOT NULL,
    PRIMARY KEY (job_id, feature_spec_sha256, number)
);
