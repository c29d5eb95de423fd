-- Who else reads, table by table: the monitor compares what it sees with what was trained on, the analyst explores what
-- may be explored. Neither sees the test split. (The viewer's rights on whole schemas are made with the database.)
-- Roles are made with the database too; a database of a test may lack them.
DO $$
BEGIN
    IF EXISTS (SELECT FROM pg_roles WHERE rolname = 'readmit_monitor') THEN
        GRANT USAGE ON SCHEMA clean_data TO readmit_monitor;
        GRANT SELECT ON clean_data.datasets, clean_data.batch_info, clean_data.diabetes_train TO readmit_monitor;
    END IF;
    IF EXISTS (SELECT FROM pg_roles WHERE rolname = 'readmit_analyst') THEN
        GRANT USAGE ON SCHEMA clean_data TO readmit_analyst;
        GRANT SELECT ON clean_data.datasets, clean_data.batch_info, clean_data.diabetes_train,
            clean_data.diabetes_validation TO readmit_analyst;
    END IF;
END
$$;
