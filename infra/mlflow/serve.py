"""Start MLflow's server as its image does: runs in PostgreSQL, artefacts in S3, secrets from files.

A secret is a file of its variable's name in /run/secrets (elsewhere: READMIT_SECRETS_DIR); a variable of that name
wins. What is missing is said on stderr, exit code 2. Arguments go to `mlflow server`. Needs nothing but Python.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from pathlib import Path
from urllib.parse import quote

SECRETS = ("MLFLOW_POSTGRES_PASSWORD", "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY")
REQUIRED = (
    "MLFLOW_POSTGRES_HOST", "MLFLOW_POSTGRES_DATABASE", "MLFLOW_POSTGRES_USER", "MLFLOW_S3_ENDPOINT_URL", *SECRETS,
)  # fmt: skip
#: Names by which others call this server, with any port: MLflow answers 403 to a Host header that it does not expect.
#: `/health` is exempt, so probes may call it as they like.
NAMES = (
    "mlflow", "mlflow.mlops-project", "mlflow.mlops-project.svc", "mlflow.mlops-project.svc.cluster.local",
    "localhost", "127.0.0.1", "[[]::1]",
)  # fmt: skip
PRIVATE_NETWORKS = ("10.*", "192.168.*", *(f"172.{second}.*" for second in range(16, 32)))
DEFAULTS = {
    "MLFLOW_SERVER_ALLOWED_HOSTS": ",".join([*NAMES, *(f"{name}:*" for name in NAMES), *PRIVATE_NETWORKS]),
    "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",  # nine processes that nobody needs here
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "AWS_DEFAULT_REGION": "us-east-1",
    # S3 servers know the checksums of signatures, not all of them the newer ones that boto3 adds unasked.
    "AWS_REQUEST_CHECKSUM_CALCULATION": "when_required",
    "AWS_RESPONSE_CHECKSUM_VALIDATION": "when_required",
}
COMMAND = (
    "mlflow", "server", "--host", "0.0.0.0", "--port", "5000", "--workers", "1",  # noqa: S104  a container's own
    "--serve-artifacts", "--artifacts-destination", "s3://mlflow-artifacts/mlflow",
)  # fmt: skip


def with_secret_files(environ: Mapping[str, str], folder: Path) -> dict[str, str]:
    """The environment and, where it lacks one, the secret that is a file of the variable's name."""
    files = {
        name: (folder / name).read_text(encoding="utf-8").removesuffix("\n")
        for name in SECRETS
        if name not in environ and (folder / name).is_file()
    }
    return {**files, **environ}


def server_environment(given: Mapping[str, str]) -> dict[str, str]:
    """`given`, which has all that is required, and what MLflow reads."""
    user, password, database = (
        quote(given[f"MLFLOW_POSTGRES_{part}"], safe="") for part in ("USER", "PASSWORD", "DATABASE")
    )
    address = f"{given['MLFLOW_POSTGRES_HOST']}:{given.get('MLFLOW_POSTGRES_PORT') or 5432}"
    # The driver is spelled out because SQLAlchemy would take another one. Not an argument: `ps` shows those.
    store = {"MLFLOW_BACKEND_STORE_URI": f"postgresql+psycopg2://{user}:{password}@{address}/{database}"}
    return {**DEFAULTS, **given, **store}


def main() -> None:
    """Entry point; becomes MLflow."""
    folder = Path(os.environ.get("READMIT_SECRETS_DIR", "/run/secrets"))
    given = with_secret_files(os.environ, folder)
    if missing := [name for name in REQUIRED if not given.get(name)]:
        lines = [f"{name}: not set" + (f", and no file {folder / name}" if name in SECRETS else "") for name in missing]
        sys.stderr.write("\n  ".join(["The environment does not describe this server:", *lines]) + "\n")
        sys.exit(2)
    os.execvpe(COMMAND[0], [*COMMAND, *sys.argv[1:]], server_environment(given))  # noqa: S606  no shell between


if __name__ == "__main__":
    main()
