"""The MLflow server: tables in PostgreSQL, artefacts in the object store. It takes its time to start."""

from __future__ import annotations

import sys
from urllib.parse import quote

from readmit_local.object_store import aws_env
from readmit_local.part import Part, answers, child_env
from readmit_local.ports import HOST


def mlflow_part(ports: dict[str, int], secrets: dict[str, str]) -> Part:
    """One worker, no job runners, no telemetry: half a gigabyte instead of two."""
    password = quote(secrets["postgres/readmit_mlflow"], safe="")
    env = {
        **aws_env("mlflow", secrets),
        # In the environment, not in the arguments: `ps` shows those to everybody. The driver is spelled out because
        # SQLAlchemy would take another one.
        "MLFLOW_BACKEND_STORE_URI": (
            f"postgresql+psycopg2://readmit_mlflow:{password}@{HOST}:{ports['postgres']}/mlflow"
        ),
        "MLFLOW_S3_ENDPOINT_URL": f"http://{HOST}:{ports['s3']}",
        # The store knows the checksums of S3 signatures, not the newer ones that boto3 adds unasked.
        "AWS_REQUEST_CHECKSUM_CALCULATION": "when_required",
        "AWS_RESPONSE_CHECKSUM_VALIDATION": "when_required",
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
        "MLFLOW_DISABLE_TELEMETRY": "true",
    }
    argv = (
        sys.executable, "-m", "mlflow", "server", "--host", HOST, "--port", str(ports["mlflow"]), "--workers", "1",
        "--serve-artifacts", "--artifacts-destination", "s3://mlflow-artifacts/mlflow",
    )  # fmt: skip
    return Part("mlflow", argv, child_env(env), answers(f"http://{HOST}:{ports['mlflow']}/health"))
