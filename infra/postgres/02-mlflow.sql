-- MLflow's own database; run once (CREATE DATABASE knows no IF NOT EXISTS). Its access is closed in 03-schemas.sql.
CREATE DATABASE mlflow OWNER readmit_mlflow;
