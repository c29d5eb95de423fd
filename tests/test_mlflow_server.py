"""The MLflow image at its start: secrets from files and never as arguments, and a readable list of what is missing."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

SERVE = Path(__file__).parents[1] / "infra" / "mlflow" / "serve.py"
SETTINGS = {
    "MLFLOW_POSTGRES_HOST": "postgres",
    "MLFLOW_POSTGRES_DATABASE": "mlflow",
    "MLFLOW_POSTGRES_USER": "readmit_mlflow",
    "MLFLOW_S3_ENDPOINT_URL": "http://s3:8333",
}


def serve(folder: Path, settings: dict[str, str], **secrets: str) -> subprocess.CompletedProcess[str]:
    """Start the script with an `mlflow` on PATH that prints what it was given."""
    program = folder / "mlflow"
    program.write_text(
        f"#!{sys.executable}\nimport json, os, sys\nprint(json.dumps([sys.argv[1:], dict(os.environ)]))\n"
    )
    program.chmod(0o755)
    for name, text in secrets.items():
        (folder / name).write_text(text)
    environment = {**settings, "PATH": str(folder), "READMIT_SECRETS_DIR": str(folder)}
    return subprocess.run([sys.executable, SERVE], env=environment, capture_output=True, text=True, check=False)


def test_what_is_missing_is_listed(tmp_path: Path) -> None:
    ended = serve(tmp_path, {"MLFLOW_POSTGRES_HOST": "postgres"}, AWS_ACCESS_KEY_ID="k")
    assert ended.returncode == 2
    for name in ("MLFLOW_POSTGRES_PASSWORD", "AWS_SECRET_ACCESS_KEY", "MLFLOW_S3_ENDPOINT_URL"):
        assert name in ended.stderr
    assert "AWS_ACCESS_KEY_ID" not in ended.stderr
    assert "Traceback" not in ended.stderr


def test_secrets_come_from_files_and_are_no_arguments(tmp_path: Path) -> None:
    secrets = {"MLFLOW_POSTGRES_PASSWORD": "p@ss/word\n", "AWS_ACCESS_KEY_ID": "k", "AWS_SECRET_ACCESS_KEY": "file"}
    started = serve(tmp_path, SETTINGS | {"AWS_SECRET_ACCESS_KEY": "variable"}, **secrets)
    assert started.returncode == 0, started.stderr
    arguments, environment = json.loads(started.stdout)
    assert environment["MLFLOW_BACKEND_STORE_URI"] == (
        "postgresql+psycopg2://readmit_mlflow:p%40ss%2Fword@postgres:5432/mlflow"
    )
    assert environment["AWS_ACCESS_KEY_ID"] == "k"
    assert environment["AWS_SECRET_ACCESS_KEY"] == "variable"
    assert arguments[:2] == ["server", "--host"]
    assert not any("p@ss" in argument or "variable" in argument for argument in arguments)
