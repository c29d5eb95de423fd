-- Raw rows as received, clean rows by split, and what was asked for. The columns are those of the encounter schema; a
-- test holds this file against it.

CREATE TABLE raw_data.ingestions (
    request_id uuid PRIMARY KEY,
    source text NOT NULL,
    requested_by text NOT NULL,
    headers jsonb,
    status text NOT NULL DEFAULT 'requested'
        CHECK (status IN ('requested', 'running', 'done', 'unchanged', 'failed')),
    stage text,
    attempts integer NOT NULL DEFAULT 0,
    bytes_done bigint,
    bytes_total bigint,
    rows_read bigint NOT NULL DEFAULT 0,
    rows_total bigint,
    rows_quarantined bigint NOT NULL DEFAULT 0,
    rows_excluded bigint NOT NULL DEFAULT 0,
    batches_written integer NOT NULL DEFAULT 0,
    dataset_version integer,
    synthetic boolean,
    error_code text,
    error_message text,
    requested_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    finished_at timestamptz
);
CREATE INDEX ingestions_open ON raw_data.ingestions (requested_at) WHERE status IN ('requested', 'running');

CREATE TABLE raw_data.diabetes (
    dataset_version integer NOT NULL,
    line bigint NOT NULL,
    encounter_id text,
    patient_nbr text,
    race text,
    gender text,
    age text,
    weight text,
    admission_type_id text,
    discharge_disposition_id text,
    admission_source_id text,
    time_in_hospital text,
    payer_code text,
    medical_specialty text,
    num_lab_procedures text,
    num_procedures text,
    num_medications text,
    number_outpatient text,
    number_emergency text,
    number_inpatient text,
    diag_1 text,
    diag_2 text,
    diag_3 text,
    number_diagnoses text,
    max_glu_serum text,
    a1cresult text,
    metformin text,
    repaglinide text,
    nateglinide text,
    chlorpropamide text,
    glimepiride text,
    acetohexamide text,
    glipizide text,
    glyburide text,
    tolbutamide text,
    pioglitazone text,
    rosiglitazone text,
    acarbose text,
    miglitol text,
    troglitazone text,
    tolazamide text,
    examide text,
    citoglipton text,
    insulin text,
    glyburide_metformin text,
    glipizide_metformin text,
    glimepiride_pioglitazone text,
    metformin_rosiglitazone text,
    metformin_pioglitazone text,
    change text,
    diabetesmed text,
    readmitted text
);
CREATE INDEX diabetes_version ON raw_data.diabetes (dataset_version);

CREATE TABLE raw_data.quarantine (
    dataset_version integer NOT NULL,
    line bigint NOT NULL,
    row jsonb NOT NULL,
    reasons jsonb NOT NULL,
    PRIMARY KEY (dataset_version, line)
);

CREATE TABLE clean_data.datasets (
    version integer PRIMARY KEY,
    content_sha256 text NOT NULL UNIQUE,
    schema_sha256 text NOT NULL,
    source text NOT NULL,
    synthetic boolean NOT NULL,
    rows_raw bigint NOT NULL,
    rows_quarantined bigint NOT NULL,
    rows_excluded bigint NOT NULL,
    batches_total integer NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now()
);

CREATE TABLE clean_data.batch_info (
    dataset_version integer NOT NULL,
    batch_id integer NOT NULL,
    rows integer NOT NULL,
    positives integer NOT NULL,
    sha256 text NOT NULL,
    synthetic boolean NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (dataset_version, batch_id)
);

CREATE TABLE clean_data.diabetes_test (
    dataset_version integer NOT NULL,
    encounter_id bigint NOT NULL,
    patient_nbr bigint NOT NULL,
    race text,
    gender text,
    age text,
    weight text,
    admission_type_id integer NOT NULL,
    discharge_disposition_id integer NOT NULL,
    admission_source_id integer NOT NULL,
    time_in_hospital integer NOT NULL,
    payer_code text,
    medical_specialty text,
    num_lab_procedures integer NOT NULL,
    num_procedures integer NOT NULL,
    num_medications integer NOT NULL,
    number_outpatient integer NOT NULL,
    number_emergency integer NOT NULL,
    number_inpatient integer NOT NULL,
    diag_1 text,
    diag_2 text,
    diag_3 text,
    number_diagnoses integer NOT NULL,
    max_glu_serum text,
    a1cresult text,
    metformin text,
    repaglinide text,
    nateglinide text,
    chlorpropamide text,
    glimepiride text,
    acetohexamide text,
    glipizide text,
    glyburide text,
    tolbutamide text,
    pioglitazone text,
    rosiglitazone text,
    acarbose text,
    miglitol text,
    troglitazone text,
    tolazamide text,
    examide text,
    citoglipton text,
    insulin text,
    glyburide_metformin text,
    glipizide_metformin text,
    glimepiride_pioglitazone text,
    metformin_rosiglitazone text,
    metformin_pioglitazone text,
    change text,
    diabetesmed text,
    readmitted text,
    readmitted_30d boolean NOT NULL
);
CREATE TABLE clean_data.diabetes_validation (LIKE clean_data.diabetes_test INCLUDING ALL);
CREATE TABLE clean_data.diabetes_train (LIKE clean_data.diabetes_test INCLUDING ALL, batch_id integer NOT NULL);
CREATE TABLE clean_data.diabetes_excluded (LIKE clean_data.diabetes_test INCLUDING ALL, reason text NOT NULL);

CREATE UNIQUE INDEX ON clean_data.diabetes_test (dataset_version, encounter_id);
CREATE UNIQUE INDEX ON clean_data.diabetes_validation (dataset_version, encounter_id);
CREATE UNIQUE INDEX ON clean_data.diabetes_train (dataset_version, batch_id, encounter_id);

-- The trainer reads what it trains and validates on, never the test split. The role is made with the database; a
-- database of a test may lack it.
DO $$
BEGIN
    IF EXISTS (SELECT FROM pg_roles WHERE rolname = 'readmit_trainer') THEN
        GRANT USAGE ON SCHEMA clean_data TO readmit_trainer;
        GRANT SELECT ON clean_data.datasets, clean_data.batch_info, clean_data.diabetes_train,
            clean_data.diabetes_validation TO readmit_trainer;
    END IF;
END
$$;
