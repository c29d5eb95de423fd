"""The S3 server: rclone on a directory of the state. A bucket is a directory, an object a file."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

from readmit_local.errors import LocalError
from readmit_local.part import Part, child_env, listens
from readmit_local.ports import HOST
from readmit_local.state import State, s3_key

REGION = "us-east-1"
BUCKETS = ("mlflow-artifacts", "kafka")
_USERS = ("kafka", "mlflow", "trainer", "promoter", "inference")


def store_part(state: State, port: int, secrets: dict[str, str]) -> Part:
    """The server, with one key for each of its users."""
    for bucket in BUCKETS:
        (state.buckets / bucket).mkdir(exist_ok=True)
    keys = ",".join(f'"{s3_key(user, secrets[f"s3/{user}"])},{secrets[f"s3/{user}"]}"' for user in _USERS)
    argv = (_rclone(), "serve", "s3", str(state.buckets), "--addr", f"{HOST}:{port}", "--config", "/dev/null")
    return Part("s3", argv, child_env({"RCLONE_AUTH_KEY": keys}), listens(port))


def gate_part(state: State, port: int, store_port: int) -> Part:
    """What makes conditional writes work for the embedded broker; see `conditional_writes`."""
    argv = (
        sys.executable, "-m", "readmit_local.conditional_writes", str(port), str(store_port), str(state.buckets),
    )  # fmt: skip
    return Part("s3-gate", argv, child_env({}), listens(port))


def aws_env(user: str, secrets: dict[str, str]) -> dict[str, str]:
    """The variables by which AWS clients know their key."""
    secret = secrets[f"s3/{user}"]
    return {
        "AWS_ACCESS_KEY_ID": s3_key(user, secret),
        "AWS_SECRET_ACCESS_KEY": secret,
        "AWS_REGION": REGION,
        "AWS_DEFAULT_REGION": REGION,
    }


def _rclone() -> str:
    beside = Path(sys.executable).parent / "rclone"  # where its wheel puts it
    found = str(beside) if beside.exists() else shutil.which("rclone")
    if found is None:
        raise LocalError("rclone is not installed; install readmit-local with its extra: readmit-local[stack]")
    return found
