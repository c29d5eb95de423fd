"""The MLflow image at its start: secrets from files and never as arguments, and a readable list of what is missing."""

from __future__ import annotations

import json
import os
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
#: Prints what MLflow thinks of hosts (the arguments) by its variable, and by its own default.
JUDGE = """
import json, sys
from mlflow.server import security_utils as security
for allowed in (security.get_allowed_hosts_from_env(), security.get_default_allowed_hosts()):
    print(json.dumps([security.is_allowed_host_header(allowed, host) for host in sys.argv[1:]]))
"""
SECRETS = {"MLFLOW_POSTGRES_PASSWORD": "p", "AWS_ACCESS_KEY_ID": "k", "AWS_SECRET_ACCESS_KEY": "s"}


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


def test_a_variable_wins_over_a_default_and_an_empty_secret_is_missing(tmp_path: Path) -> None:
    own = {"MLFLOW_POSTGRES_PORT": "6000", "MLFLOW_SERVER_ALLOWED_HOSTS": "mlflow.here"}
    started = serve(tmp_path, SETTINGS | own, **SECRETS)
    assert started.returncode == 0, started.stderr
    _, environment = json.loads(started.stdout)
    assert ":6000/" in environment["MLFLOW_BACKEND_STORE_URI"]
    assert environment["MLFLOW_SERVER_ALLOWED_HOSTS"] == "mlflow.here"
    ended = serve(tmp_path, SETTINGS, **SECRETS | {"AWS_ACCESS_KEY_ID": ""})
    assert ended.returncode == 2
    assert str(tmp_path / "AWS_ACCESS_KEY_ID") in ended.stderr


def test_mlflow_answers_to_the_platforms_names_and_to_what_it_answers_to_by_itself_but_not_to_any(
    tmp_path: Path,
) -> None:
    started = serve(tmp_path, SETTINGS, **SECRETS)
    _, environment = json.loads(started.stdout)
    ours = ["mlflow:5000", "mlflow", "mlflow.mlops-project.svc.cluster.local:5000"]
    own = ["localhost:30500", "127.0.0.1:5000", "[::1]:5000", "10.1.2.3:5000", "192.168.0.7:30500", "172.20.0.5:5000"]
    foreign = ["evil.example", "mlflow.evil.example:5000", "172.32.0.1:5000", "localhost.evil.example"]
    judged = subprocess.run(
        [sys.executable, "-c", JUDGE, *ours, *own, *foreign], capture_output=True, text=True, check=True,
        env={**os.environ, "MLFLOW_SERVER_ALLOWED_HOSTS": environment["MLFLOW_SERVER_ALLOWED_HOSTS"]},
    )  # fmt: skip
    with_ours, by_itself = (json.loads(line) for line in judged.stdout.splitlines())
    assert with_ours == [True] * len(ours) + [True] * len(own) + [False] * len(foreign)
    assert by_itself == [False] * len(ours) + [True] * len(own) + [False] * len(foreign)
