-- How far a running job is, why one failed, and jobs that a newer batch of the same dataset has made needless.
ALTER TABLE training.jobs ADD COLUMN stage text;
ALTER TABLE training.jobs ADD COLUMN stage_done integer NOT NULL DEFAULT 0;
ALTER TABLE training.jobs ADD COLUMN stage_total integer NOT NULL DEFAULT 0;
ALTER TABLE training.jobs ADD COLUMN error_code text;
ALTER TABLE training.jobs DROP CONSTRAINT jobs_status_check;
ALTER TABLE training.jobs ADD CONSTRAINT jobs_status_check
    CHECK (status IN ('queued', 'running', 'done', 'failed', 'superseded'));
