-- What was predicted in service, as it was answered: the data that the model's later life is judged on. No identifier of
-- a patient stands here; `patient_key` is a keyed hash, and `features` are cleaned values by key of the encounter schema.
CREATE TABLE raw_data.predictions (
    prediction_id uuid PRIMARY KEY,
    at timestamptz NOT NULL,
    pod_id text NOT NULL,
    model_name text NOT NULL,
    model_version text NOT NULL,
    sha256 text NOT NULL,
    epoch integer NOT NULL,
    synthetic boolean NOT NULL,
    risk double precision NOT NULL,
    threshold double precision NOT NULL,
    readmitted boolean NOT NULL,
    latency_ms double precision NOT NULL,
    patient_key text,
    features jsonb NOT NULL,
    stored_at timestamptz NOT NULL DEFAULT clock_timestamp()
);
CREATE INDEX predictions_by_time ON raw_data.predictions (at);
