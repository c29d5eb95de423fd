-- Schemas of the database `readmit`, each owned by the one service that writes it. Tables come with that service's
-- migrations, and so do grants by table: the trainer, the monitor and the analyst never read the test split.
-- Safe to run again.
REVOKE ALL ON DATABASE readmit, mlflow, airflow, postgres, template1 FROM PUBLIC;
GRANT CONNECT, TEMPORARY ON DATABASE readmit TO readmit_ingestor, readmit_trainer, readmit_promoter, readmit_monitor;
GRANT CONNECT ON DATABASE readmit TO readmit_viewer, readmit_analyst;
REVOKE ALL ON SCHEMA public FROM PUBLIC;

CREATE SCHEMA IF NOT EXISTS raw_data AUTHORIZATION readmit_ingestor;
CREATE SCHEMA IF NOT EXISTS clean_data AUTHORIZATION readmit_ingestor;
CREATE SCHEMA IF NOT EXISTS training AUTHORIZATION readmit_trainer;
CREATE SCHEMA IF NOT EXISTS governance AUTHORIZATION readmit_promoter;
CREATE SCHEMA IF NOT EXISTS monitoring AUTHORIZATION readmit_monitor;

-- pgAdmin shows all of both data schemas, whichever tables migrations add.
GRANT USAGE ON SCHEMA raw_data, clean_data TO readmit_viewer;
GRANT SELECT ON ALL TABLES IN SCHEMA raw_data, clean_data TO readmit_viewer;
ALTER DEFAULT PRIVILEGES FOR ROLE readmit_ingestor IN SCHEMA raw_data, clean_data
    GRANT SELECT ON TABLES TO readmit_viewer;
