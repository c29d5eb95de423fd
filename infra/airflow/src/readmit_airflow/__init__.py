"""Readmit seen from Airflow: requests and their answers on Kafka, and the start of Airflow's own processes."""
