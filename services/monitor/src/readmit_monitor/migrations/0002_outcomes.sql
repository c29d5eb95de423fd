-- Predictions and what became of them, in one row, whichever of the two is heard first. Bounded by age; no features.
CREATE TABLE monitoring.answers (
    prediction_id uuid PRIMARY KEY,
    since timestamptz NOT NULL,  -- what its age counts from: the prediction, or as long as that is unknown the outcome
    at timestamptz,
    epoch integer,
    risk double precision,
    patient_key text,
    readmitted boolean,
    intervened boolean,
    recorded_at timestamptz,
    CHECK (num_nulls(at, epoch, risk) IN (0, 3)),
    CHECK (num_nulls(readmitted, recorded_at) IN (0, 2))
);
CREATE INDEX answers_by_age ON monitoring.answers (since);
CREATE INDEX answers_with_outcome ON monitoring.answers (epoch, at DESC)
    WHERE risk IS NOT NULL AND readmitted IS NOT NULL;

-- Who was champion in each epoch, and what its promotion measured on validation patients.
CREATE TABLE monitoring.champions (
    epoch integer PRIMARY KEY,
    model_name text NOT NULL,
    model_version text NOT NULL,
    model_family text NOT NULL,
    synthetic boolean NOT NULL,
    validation_auroc double precision
);

-- The last judgement on outcomes; what was degraded by then is what has been announced.
CREATE TABLE monitoring.performance (
    only_one boolean PRIMARY KEY DEFAULT true CHECK (only_one),
    figures jsonb NOT NULL,
    degraded text[] NOT NULL
);
