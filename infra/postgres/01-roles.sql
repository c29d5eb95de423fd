-- Roles, none of them a superuser: one per program that keeps state, and two that only read. Passwords are set by
-- whoever runs this (`readmit up`, `readmit database`): never here. Safe to run again.
DO $$
DECLARE
    role text;
BEGIN
    FOREACH role IN ARRAY ARRAY[
        'readmit_ingestor', 'readmit_trainer', 'readmit_promoter', 'readmit_monitor', 'readmit_mlflow',
        'readmit_airflow', 'readmit_viewer', 'readmit_analyst'
    ] LOOP
        IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = role) THEN
            EXECUTE format('CREATE ROLE %I LOGIN NOSUPERUSER NOCREATEDB NOCREATEROLE NOREPLICATION NOBYPASSRLS', role);
        END IF;
    END LOOP;
END
$$;

-- Whoever only reads says so from the start; a session can lift it, and then still has no right to write.
ALTER ROLE readmit_viewer SET default_transaction_read_only = on;
ALTER ROLE readmit_analyst SET default_transaction_read_only = on;
