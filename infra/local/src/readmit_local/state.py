"""The state directory: everything that outlives one `readmit up`."""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from readmit_local.database import ROLES
from readmit_local.errors import LocalError
from readmit_local.process_identity import is_ours

#: Everybody who signs requests to the object store or logs in to PostgreSQL has a secret of their own.
SECRET_NAMES = (
    "postgres/postgres", *(f"postgres/{role}" for role in ROLES),
    "s3/kafka", "s3/mlflow", "s3/trainer", "s3/promoter", "s3/inference",
    "pseudonyms/inference",
    "promoter/operator",
)  # fmt: skip


#: Who commands a stack on this machine, as the ledger names them.
OPERATOR = "operator"


@dataclass(frozen=True, slots=True)
class State:
    """Paths below one state directory."""

    root: Path

    @property
    def logs(self) -> Path:
        """One file per part."""
        return self.root / "logs"

    @property
    def buckets(self) -> Path:
        """What the object store serves: a bucket is a directory."""
        return self.root / "s3"

    @property
    def promoter_keys(self) -> Path:
        """Who may command the promoter: digests of keys, by id and role."""
        return self.root / "promoter_api_keys.json"

    def log_file(self, part: str) -> Path:
        """Where a part's output goes."""
        return self.logs / f"{part}.log"

    def prepare(self) -> None:
        """Make the directories. Others on this machine may pass through, not look."""
        try:
            self.root.mkdir(parents=True, exist_ok=True)
            self.root.chmod(0o711)
            self.logs.mkdir(mode=0o700, exist_ok=True)
            self.buckets.mkdir(mode=0o700, exist_ok=True)
        except OSError as error:
            raise LocalError(
                f"state directory {self.root}: {error.strerror}; choose another with --state-dir"
            ) from error

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the state for this process. Raises `LocalError` when another `readmit up` holds it."""
        with (self.root / "lock").open("w") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                raise LocalError(
                    f"another `readmit up` runs on {self.root}; "
                    "stop it with `readmit down`, or choose another --state-dir"
                ) from error
            yield

    def secrets(self) -> dict[str, str]:
        """The secrets of this state, generated once; the file is for the owner's eyes only."""
        path = self.root / "secrets.json"
        known: dict[str, str] = json.loads(path.read_text()) if path.exists() else {}
        if any(name not in known for name in SECRET_NAMES):
            known = {name: secrets.token_hex(24) for name in SECRET_NAMES} | known
            write_json(path, known)
        return known

    def list_operator(self) -> None:
        """Put the operator's key on the promoter's list as an admin's; keys of others on it stay.

        Raises `LocalError` where the list cannot be read.
        """
        digest = hashlib.sha256(self.secrets()["promoter/operator"].encode()).hexdigest()
        mine = {"id": OPERATOR, "sha256": digest, "scopes": ["admin"]}
        try:
            listed = json.loads(self.promoter_keys.read_text())["keys"] if self.promoter_keys.exists() else []
            others = [entry for entry in listed if entry["id"] != OPERATOR]
        except (ValueError, KeyError, TypeError) as error:
            raise LocalError(f"{self.promoter_keys} is no list of API keys; mend it, or move it away") from error
        write_json(self.promoter_keys, {"keys": [mine, *others]})

    def stack(self) -> dict[str, Any]:
        """What the last `readmit up` wrote about itself: ports, urls, pids; empty when there was none."""
        path = self.root / "stack.json"
        stack: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {}
        return stack

    def is_running(self) -> bool:
        """Whether the `readmit up` that wrote `stack.json` still runs."""
        up = self.stack().get("up")
        return up is not None and is_ours(up["pid"], up["started"])

    def running_stack(self) -> dict[str, Any]:
        """`stack()` of a running `readmit up`. Raises `LocalError` when there is none."""
        if not self.is_running():
            raise LocalError(f"nothing runs on {self.root}; start it with `readmit up`, or name its --state-dir")
        return self.stack()

    def write_stack(self, stack: dict[str, Any]) -> None:
        """Replace it in one step: a reader sees the old or the new one."""
        write_json(self.root / "stack.json", stack)

    def last_line(self, part: str) -> str:
        """The last line that a part logged, to explain why it died."""
        log_file = self.log_file(part)
        lines = log_file.read_text(errors="replace").strip().splitlines() if log_file.exists() else []
        return lines[-1][:300] if lines else "it logged nothing"


def cache_dir() -> Path:
    """What any state may share: downloads and libraries, no data of a run."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "readmit"


def s3_key(user: str, secret: str) -> str:
    """Access key id of a user: the server refuses short ones."""
    return f"readmit-{user}-{hashlib.sha256(secret.encode()).hexdigest()[:8]}"


def write_json(path: Path, value: dict[str, Any]) -> None:
    """Replace a file of the state in one step; it is for the owner's eyes only."""
    scratch = path.with_suffix(".tmp")
    scratch.touch(mode=0o600)
    scratch.write_text(json.dumps(value, indent=2) + "\n")
    scratch.replace(path)
