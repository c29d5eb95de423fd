-- Roles: one per service that keeps state, none of them a superuser. Passwords are set by whoever runs this
-- (`readmit up`, a Compose secret): never here. Safe to run again.
DO $$
DECLARE
    role text;
BEGIN
    FOREACH role IN ARRAY ARRAY['readmit_ingestor', 'readmit_trainer', 'readmit_promoter', 'readmit_mlflow'] LOOP
        IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = role) THEN
            EXECUTE format('CREATE ROLE %I LOGIN NOSUPERUSER NOCREATEDB NOCREATEROLE NOREPLICATION NOBYPASSRLS', role);
        END IF;
    END LOOP;
END
$$;
