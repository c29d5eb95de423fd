-- What served patients are compared with: one row per dataset version, counts by bin for each feature.
CREATE TABLE monitoring.references (
    dataset_version integer PRIMARY KEY,
    synthetic boolean NOT NULL,
    rows integer NOT NULL,
    features jsonb NOT NULL,
    computed_at timestamptz NOT NULL DEFAULT clock_timestamp()
);

-- What a model's risks are compared with: the first full window of its epoch.
CREATE TABLE monitoring.risk_references (
    epoch integer PRIMARY KEY,
    rows integer NOT NULL,
    risks jsonb NOT NULL,
    until timestamptz NOT NULL,
    computed_at timestamptz NOT NULL DEFAULT clock_timestamp()
);

-- The newest predictions, pruned as they age: what a window needs, and nothing that names a patient.
CREATE TABLE monitoring.predictions (
    prediction_id uuid PRIMARY KEY,
    at timestamptz NOT NULL,
    model_name text NOT NULL,
    model_version text NOT NULL,
    model_family text NOT NULL,
    epoch integer NOT NULL,
    synthetic boolean NOT NULL,
    risk double precision NOT NULL,
    readmitted boolean NOT NULL,
    features jsonb NOT NULL
);
CREATE INDEX predictions_by_time ON monitoring.predictions (at);
CREATE INDEX predictions_by_epoch ON monitoring.predictions (epoch, at);

-- The last evaluation; what had drifted by then is what has been announced.
CREATE TABLE monitoring.evaluation (
    only_one boolean PRIMARY KEY DEFAULT true CHECK (only_one),
    figures jsonb NOT NULL,
    drifted text[] NOT NULL
);
