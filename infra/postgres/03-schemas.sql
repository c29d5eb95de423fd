-- Schemas of the database `readmit`, each owned by the one service that writes it. Tables come with that service's
-- migrations, and so do grants to readers (the trainer reads training and validation rows, never the test split).
-- Safe to run again.
REVOKE ALL ON DATABASE readmit, mlflow, postgres, template1 FROM PUBLIC;
GRANT CONNECT, TEMPORARY ON DATABASE readmit TO readmit_ingestor, readmit_trainer, readmit_promoter;
REVOKE ALL ON SCHEMA public FROM PUBLIC;

CREATE SCHEMA IF NOT EXISTS raw_data AUTHORIZATION readmit_ingestor;
CREATE SCHEMA IF NOT EXISTS clean_data AUTHORIZATION readmit_ingestor;
CREATE SCHEMA IF NOT EXISTS training AUTHORIZATION readmit_trainer;
CREATE SCHEMA IF NOT EXISTS governance AUTHORIZATION readmit_promoter;
