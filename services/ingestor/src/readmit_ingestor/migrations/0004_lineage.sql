-- Where a version comes from and how it was made; quarantined rows that can be looked at, corrected and replayed.

ALTER TABLE raw_data.ingestions
    ADD COLUMN batch_order text NOT NULL DEFAULT 'encounter' CHECK (batch_order IN ('encounter', 'shuffled')),
    ADD COLUMN quarantined_by jsonb NOT NULL DEFAULT '{}',
    ADD COLUMN changes jsonb NOT NULL DEFAULT '{}';
CREATE INDEX ingestions_by_time ON raw_data.ingestions (requested_at DESC);

-- Rows of one version lie together, in the order of the source: a block range index of some pages finds them.
DROP INDEX raw_data.diabetes_version;
CREATE INDEX diabetes_version ON raw_data.diabetes USING brin (dataset_version, line);

ALTER TABLE raw_data.quarantine
    DROP CONSTRAINT quarantine_pkey,
    ADD COLUMN id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    ADD COLUMN part text NOT NULL DEFAULT '',
    ADD COLUMN part_line bigint,
    ADD COLUMN status text NOT NULL DEFAULT 'open' CHECK (status IN ('open', 'corrected', 'dropped', 'replayed')),
    ADD COLUMN corrected jsonb,
    ADD COLUMN note text,
    ADD COLUMN replayed_in integer,
    ADD COLUMN changed_at timestamptz,
    ADD CONSTRAINT quarantine_line UNIQUE (dataset_version, line),
    ADD CONSTRAINT quarantine_corrected CHECK (status NOT IN ('corrected', 'replayed') OR corrected IS NOT NULL);
CREATE INDEX quarantine_by_status ON raw_data.quarantine (status, id);

-- The same bytes are the same version, unless other rules read them or they are batched otherwise.
ALTER TABLE clean_data.datasets
    DROP CONSTRAINT datasets_content_sha256_key,
    ADD COLUMN batch_order text NOT NULL DEFAULT 'encounter',
    ADD COLUMN batch_rows integer NOT NULL DEFAULT 15000,
    ADD COLUMN request_id uuid,
    ADD COLUMN previous_version integer REFERENCES clean_data.datasets,
    ADD COLUMN replay_of integer REFERENCES clean_data.datasets,
    ADD COLUMN parts jsonb NOT NULL DEFAULT '[]',
    ADD COLUMN changes jsonb NOT NULL DEFAULT '{}',
    ADD CONSTRAINT datasets_content UNIQUE (content_sha256, schema_sha256, batch_order, batch_rows);

ALTER TABLE clean_data.batch_info
    ADD COLUMN origin text NOT NULL DEFAULT 'source' CHECK (origin IN ('source', 'feedback')),
    ADD COLUMN intervened integer NOT NULL DEFAULT 0,
    ADD COLUMN positive_share double precision GENERATED ALWAYS AS (positives::float8 / rows) STORED,
    ADD COLUMN schema_sha256 text,
    ADD COLUMN first_encounter_id bigint,
    ADD COLUMN last_encounter_id bigint,
    ADD CONSTRAINT batch_info_rows CHECK (rows > 0 AND positives BETWEEN 0 AND rows AND intervened BETWEEN 0 AND rows),
    ADD CONSTRAINT batch_info_version FOREIGN KEY (dataset_version) REFERENCES clean_data.datasets
        DEFERRABLE INITIALLY DEFERRED;
UPDATE clean_data.batch_info AS b SET schema_sha256 = d.schema_sha256
    FROM clean_data.datasets AS d WHERE d.version = b.dataset_version;
ALTER TABLE clean_data.batch_info ALTER COLUMN schema_sha256 SET NOT NULL;

-- What a clean row may be, as the encounter schema says it (`readmit_contracts.encounter_sql.check`; a test holds the two
-- together): should cleaning and tables ever disagree, nothing is committed.
ALTER TABLE clean_data.diabetes_train ADD CONSTRAINT encounter_schema CHECK (
    encounter_id >= 1
    AND patient_nbr >= 1
    AND race IN ('Caucasian', 'AfricanAmerican', 'Hispanic', 'Asian', 'Other')
    AND gender IN ('Female', 'Male', 'Unknown/Invalid')
    AND age IN ('[0-10)', '[10-20)', '[20-30)', '[30-40)', '[40-50)', '[50-60)', '[60-70)', '[70-80)', '[80-90)', '[90-100)')
    AND weight IN ('[0-25)', '[25-50)', '[50-75)', '[75-100)', '[100-125)', '[125-150)', '[150-175)', '[175-200)', '>200')
    AND admission_type_id BETWEEN 1 AND 8
    AND discharge_disposition_id BETWEEN 1 AND 30
    AND admission_source_id BETWEEN 1 AND 26 AND admission_source_id <> 16
    AND time_in_hospital BETWEEN 1 AND 14
    AND num_lab_procedures BETWEEN 0 AND 132
    AND num_procedures BETWEEN 0 AND 6
    AND num_medications BETWEEN 0 AND 81
    AND number_outpatient BETWEEN 0 AND 42
    AND number_emergency BETWEEN 0 AND 76
    AND number_inpatient BETWEEN 0 AND 21
    AND number_diagnoses BETWEEN 0 AND 16
    AND max_glu_serum IN ('None', 'Norm', '>200', '>300')
    AND a1cresult IN ('None', 'Norm', '>7', '>8')
    AND change IN ('No', 'Ch')
    AND diabetesmed IN ('No', 'Yes')
    AND readmitted IN ('NO', '>30', '<30')
    AND readmitted_30d = (readmitted = '<30')
    AND discharge_disposition_id NOT IN (11, 13, 14, 19, 20, 21)
);
ALTER TABLE clean_data.diabetes_validation ADD CONSTRAINT encounter_schema CHECK (
    encounter_id >= 1
    AND patient_nbr >= 1
    AND race IN ('Caucasian', 'AfricanAmerican', 'Hispanic', 'Asian', 'Other')
    AND gender IN ('Female', 'Male', 'Unknown/Invalid')
    AND age IN ('[0-10)', '[10-20)', '[20-30)', '[30-40)', '[40-50)', '[50-60)', '[60-70)', '[70-80)', '[80-90)', '[90-100)')
    AND weight IN ('[0-25)', '[25-50)', '[50-75)', '[75-100)', '[100-125)', '[125-150)', '[150-175)', '[175-200)', '>200')
    AND admission_type_id BETWEEN 1 AND 8
    AND discharge_disposition_id BETWEEN 1 AND 30
    AND admission_source_id BETWEEN 1 AND 26 AND admission_source_id <> 16
    AND time_in_hospital BETWEEN 1 AND 14
    AND num_lab_procedures BETWEEN 0 AND 132
    AND num_procedures BETWEEN 0 AND 6
    AND num_medications BETWEEN 0 AND 81
    AND number_outpatient BETWEEN 0 AND 42
    AND number_emergency BETWEEN 0 AND 76
    AND number_inpatient BETWEEN 0 AND 21
    AND number_diagnoses BETWEEN 0 AND 16
    AND max_glu_serum IN ('None', 'Norm', '>200', '>300')
    AND a1cresult IN ('None', 'Norm', '>7', '>8')
    AND change IN ('No', 'Ch')
    AND diabetesmed IN ('No', 'Yes')
    AND readmitted IN ('NO', '>30', '<30')
    AND readmitted_30d = (readmitted = '<30')
    AND discharge_disposition_id NOT IN (11, 13, 14, 19, 20, 21)
);
ALTER TABLE clean_data.diabetes_test ADD CONSTRAINT encounter_schema CHECK (
    encounter_id >= 1
    AND patient_nbr >= 1
    AND race IN ('Caucasian', 'AfricanAmerican', 'Hispanic', 'Asian', 'Other')
    AND gender IN ('Female', 'Male', 'Unknown/Invalid')
    AND age IN ('[0-10)', '[10-20)', '[20-30)', '[30-40)', '[40-50)', '[50-60)', '[60-70)', '[70-80)', '[80-90)', '[90-100)')
    AND weight IN ('[0-25)', '[25-50)', '[50-75)', '[75-100)', '[100-125)', '[125-150)', '[150-175)', '[175-200)', '>200')
    AND admission_type_id BETWEEN 1 AND 8
    AND discharge_disposition_id BETWEEN 1 AND 30
    AND admission_source_id BETWEEN 1 AND 26 AND admission_source_id <> 16
    AND time_in_hospital BETWEEN 1 AND 14
    AND num_lab_procedures BETWEEN 0 AND 132
    AND num_procedures BETWEEN 0 AND 6
    AND num_medications BETWEEN 0 AND 81
    AND number_outpatient BETWEEN 0 AND 42
    AND number_emergency BETWEEN 0 AND 76
    AND number_inpatient BETWEEN 0 AND 21
    AND number_diagnoses BETWEEN 0 AND 16
    AND max_glu_serum IN ('None', 'Norm', '>200', '>300')
    AND a1cresult IN ('None', 'Norm', '>7', '>8')
    AND change IN ('No', 'Ch')
    AND diabetesmed IN ('No', 'Yes')
    AND readmitted IN ('NO', '>30', '<30')
    AND readmitted_30d = (readmitted = '<30')
    AND discharge_disposition_id NOT IN (11, 13, 14, 19, 20, 21)
);
ALTER TABLE clean_data.diabetes_excluded ADD CONSTRAINT encounter_schema CHECK (
    encounter_id >= 1
    AND patient_nbr >= 1
    AND race IN ('Caucasian', 'AfricanAmerican', 'Hispanic', 'Asian', 'Other')
    AND gender IN ('Female', 'Male', 'Unknown/Invalid')
    AND age IN ('[0-10)', '[10-20)', '[20-30)', '[30-40)', '[40-50)', '[50-60)', '[60-70)', '[70-80)', '[80-90)', '[90-100)')
    AND weight IN ('[0-25)', '[25-50)', '[50-75)', '[75-100)', '[100-125)', '[125-150)', '[150-175)', '[175-200)', '>200')
    AND admission_type_id BETWEEN 1 AND 8
    AND discharge_disposition_id BETWEEN 1 AND 30
    AND admission_source_id BETWEEN 1 AND 26 AND admission_source_id <> 16
    AND time_in_hospital BETWEEN 1 AND 14
    AND num_lab_procedures BETWEEN 0 AND 132
    AND num_procedures BETWEEN 0 AND 6
    AND num_medications BETWEEN 0 AND 81
    AND number_outpatient BETWEEN 0 AND 42
    AND number_emergency BETWEEN 0 AND 76
    AND number_inpatient BETWEEN 0 AND 21
    AND number_diagnoses BETWEEN 0 AND 16
    AND max_glu_serum IN ('None', 'Norm', '>200', '>300')
    AND a1cresult IN ('None', 'Norm', '>7', '>8')
    AND change IN ('No', 'Ch')
    AND diabetesmed IN ('No', 'Yes')
    AND readmitted IN ('NO', '>30', '<30')
    AND readmitted_30d = (readmitted = '<30')
);
