#!/usr/bin/env bash
# Runs in the database container only, after the roles exist: gives each role the password of its secret.
set -euo pipefail
for role in ingestor trainer promoter mlflow; do
    variable="READMIT_${role^^}_PASSWORD"
    psql -v ON_ERROR_STOP=1 -U "$POSTGRES_USER" -d "$POSTGRES_DB" -v role="readmit_$role" -v password="${!variable}" \
        <<<"ALTER ROLE :\"role\" PASSWORD :'password';"
done
