-- The way back in: what happened after a prediction, and what it takes to make a training row of the two.

-- `set_aside`: why the prediction can never become a row, whatever its outcome. Those kept before this file came without
-- the patient's split.
ALTER TABLE raw_data.predictions
    ADD COLUMN seq bigint GENERATED ALWAYS AS IDENTITY,
    ADD COLUMN split text CHECK (split IN ('train', 'validation', 'test')),
    ADD COLUMN set_aside text DEFAULT 'no_patient';
ALTER TABLE raw_data.predictions ALTER COLUMN set_aside DROP DEFAULT;

-- Finding what waits for the next batch reads the index alone, not 1.7 KB a row.
ALTER TABLE raw_data.predictions
    DROP CONSTRAINT predictions_pkey,
    ADD PRIMARY KEY (prediction_id) INCLUDE (seq, split, set_aside, synthetic);

-- One row per prediction that was followed up; the prediction itself may still be on its way. A row is used once: in one
-- batch of one dataset version, whichever split its patient belongs to. No foreign keys: the sides come in any order.
CREATE TABLE raw_data.outcomes (
    prediction_id uuid PRIMARY KEY,
    readmitted boolean NOT NULL,
    intervened boolean,
    observed_at timestamptz,
    recorded_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    corrections integer NOT NULL DEFAULT 0,
    set_aside text,
    used_in_version integer,
    used_in_batch integer,
    CHECK ((used_in_version IS NULL) = (used_in_batch IS NULL)),
    CHECK (used_in_version IS NULL OR set_aside IS NULL)
);
CREATE INDEX outcomes_waiting ON raw_data.outcomes (prediction_id)
    WHERE used_in_version IS NULL AND set_aside IS NULL;

-- Whether somebody acted on the prediction that a row of feedback comes from; NULL: a row of a source, or nobody said.
ALTER TABLE clean_data.diabetes_train ADD COLUMN intervened boolean;
ALTER TABLE clean_data.diabetes_validation ADD COLUMN intervened boolean;
ALTER TABLE clean_data.diabetes_test ADD COLUMN intervened boolean;
ALTER TABLE clean_data.diabetes_excluded ADD COLUMN intervened boolean;

-- The monitor judges served models on what happened. The role is made with the database; a database of a test may lack it.
DO $$
BEGIN
    IF EXISTS (SELECT FROM pg_roles WHERE rolname = 'readmit_monitor') THEN
        GRANT USAGE ON SCHEMA raw_data TO readmit_monitor;
        GRANT SELECT ON raw_data.outcomes TO readmit_monitor;
    END IF;
END
$$;
