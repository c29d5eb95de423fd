#!/usr/bin/env python3
# ruff: noqa: T201  a command prints
"""Make the secrets of a deployment as files, one per secret: `make secrets`. Needs nothing but Python.

What is there is kept, so it is safe to run again; only `--rotate NAME` replaces. Values are never printed. The folder
is open to its owner alone. The files in it are open to all but for the keys of people, because Compose mounts each into
containers whose users are not the owner.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import secrets
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
BUCKET = "mlflow-artifacts"

#: What each user of the object store may do, in SeaweedFS's words. Nobody but `admin` may make or delete a bucket.
S3_ACTIONS: Mapping[str, tuple[str, ...]] = {
    "admin": ("Admin",),
    "mlflow": (f"Read:{BUCKET}", f"List:{BUCKET}", f"Write:{BUCKET}"),
    "trainer": (f"Write:{BUCKET}",),
    "promoter": (f"Read:{BUCKET}",),
    "inference": (f"Read:{BUCKET}",),
}
POSTGRES_USERS = ("ingestor", "trainer", "promoter", "monitor", "mlflow", "airflow", "viewer", "analyst")
#: Made of the keys above; follows them when one is rotated.
S3_IDENTITIES = "s3_identities.json"
#: Who asks inference for predictions here. Other clients' keys are added to the list by hand, and stay there.
API_CLIENTS = ("ui", "locust", "jupyter")
API_KEYS = "inference_api_keys.json"
#: Who may command the promoter, by role. Other people's keys are added to the list by hand, and stay there.
PROMOTER_ROLES: Mapping[str, tuple[str, ...]] = {"operator": ("admin",)}
PROMOTER_KEYS = "promoter_api_keys.json"
#: How long a rotated key of theirs is still valid: until everybody who shows it has the new one.
API_KEY_OVERLAP = timedelta(days=1)


def _hex(size_bytes: int) -> Callable[[], str]:
    return lambda: secrets.token_hex(size_bytes)


def _empty() -> str:
    return ""


#: Each secret, and how a new one is made.
MAKERS: Mapping[str, Callable[[], str]] = {
    "postgres_password": _hex(24),
    **{f"{user}_postgres_password": _hex(24) for user in POSTGRES_USERS},
    **{f"{user}_s3_access_key": _hex(10) for user in S3_ACTIONS},
    **{f"{user}_s3_secret_key": _hex(24) for user in S3_ACTIONS},
    "s3_console_password": _hex(16),
    "kafka_console_password": _hex(16),
    "grafana_admin_password": _hex(16),
    "pgadmin_password": _hex(16),
    "jupyter_token": _hex(24),
    "airflow_admin_password": _hex(16),
    "airflow_secret_key": _hex(32),
    "flower_password": _hex(16),
    "redis_password": _hex(24),
    # Patients' pseudonyms depend on it: with another key, predictions logged before can't be linked to those after.
    "inference_pseudonym_key": _hex(32),
    **{f"{client}_inference_api_key": _hex(32) for client in API_CLIENTS},
    # Written by hand: where alerts are posted. Empty: nowhere.
    "alert_webhook_url": _empty,
}
#: Shown by people: no container is given them, and the file is for its owner's eyes only.
FOR_PEOPLE: Mapping[str, Callable[[], str]] = {f"{person}_promoter_api_key": _hex(32) for person in PROMOTER_ROLES}
#: What a deployment is given.
NAMES = (*MAKERS, S3_IDENTITIES, API_KEYS, PROMOTER_KEYS)


class Refused(Exception):  # noqa: N818  named for what is the case
    """Secrets must not be written there."""


def generate(folder: Path, rotate: frozenset[str] = frozenset()) -> list[str]:
    """Make what is missing and what is to be rotated; the names of what was written. Raises `Refused`, `OSError`."""
    refuse_what_git_would_keep(folder)
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    folder.chmod(0o700)
    written = []
    for name, make in {**MAKERS, **FOR_PEOPLE}.items():
        if name in rotate or not (folder / name).exists():
            _write(folder / name, make(), mode=0o400 if name in FOR_PEOPLE else 0o444)
            written.append(name)
    now = datetime.now(UTC)
    clients = {client: (folder / f"{client}_inference_api_key").read_text() for client in API_CLIENTS}
    people = {person: (folder / f"{person}_promoter_api_key").read_text() for person in PROMOTER_ROLES}
    derived = {
        S3_IDENTITIES: s3_identities({name: (folder / name).read_text() for name in MAKERS if "_s3_" in name}),
        API_KEYS: api_keys(_listed(folder / API_KEYS), clients, now),
        PROMOTER_KEYS: api_keys(_listed(folder / PROMOTER_KEYS), people, now, PROMOTER_ROLES),
    }
    for name, text in derived.items():
        path = folder / name
        if not path.exists() or path.read_text() != text:
            _write(path, text)
            written.append(name)
    return written


def s3_identities(keys: Mapping[str, str]) -> str:
    """SeaweedFS's table of users, their keys and rights. There is no anonymous one."""
    identities = [
        {
            "name": user,
            "credentials": [{"accessKey": keys[f"{user}_s3_access_key"], "secretKey": keys[f"{user}_s3_secret_key"]}],
            "actions": list(actions),
        }
        for user, actions in S3_ACTIONS.items()
    ]
    return json.dumps({"identities": identities}, indent=2) + "\n"


def api_keys(
    listed: list[dict[str, Any]], keys: Mapping[str, str], now: datetime, scopes: Mapping[str, tuple[str, ...]] = {}
) -> str:
    """A service's list of keys (services/inference/README.md) with these keys by their ids; all others stay.

    `scopes`: of a key that is new to the list. A rotated key stays valid for a while, so that no client is refused
    before it has the new one, and then goes.
    """
    kept = []
    for entry in listed:
        entry = dict(entry)  # noqa: PLW2901  a copy
        if entry["id"] in keys and entry["sha256"] != _digest(keys[entry["id"]]):
            entry.setdefault("expires", (now + API_KEY_OVERLAP).isoformat(timespec="seconds"))
            if datetime.fromisoformat(entry["expires"]) <= now:
                continue
        kept.append(entry)
    there = {(entry["id"], entry["sha256"]) for entry in kept}
    for client, key in keys.items():
        if (client, _digest(key)) not in there:
            same = next((entry for entry in kept if entry["id"] == client), {})
            rights = {name: value for name, value in same.items() if name in {"requests_per_s", "burst", "scopes"}}
            first = {"scopes": list(scopes[client])} if client in scopes and not same else {}
            kept.append({"id": client, "sha256": _digest(key), **first, **rights})
    return json.dumps({"keys": kept}, indent=2) + "\n"


def _listed(path: Path) -> list[dict[str, Any]]:
    if not path.exists():
        return []
    try:
        listed = json.loads(path.read_text())["keys"]
        return [{**entry, "id": entry["id"], "sha256": entry["sha256"]} for entry in listed]
    except (ValueError, KeyError, TypeError) as error:
        raise Refused(f"{path} is no list of API keys; mend it, or move it away") from error


def _digest(key: str) -> str:
    return hashlib.sha256(key.encode()).hexdigest()


def refuse_what_git_would_keep(folder: Path) -> None:
    """Raise `Refused` when the folder is in a work tree of git that does not ignore it, or holds tracked files."""
    inside = next((parent for parent in (folder, *folder.parents) if parent.is_dir()), None)
    if inside is None or shutil.which("git") is None:
        return

    def git(*arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            ["git", "-C", str(inside), *arguments], capture_output=True, text=True, check=False
        )  # fmt: skip

    if git("rev-parse", "--is-inside-work-tree").stdout.strip() != "true":
        return
    if git("ls-files", "--", str(folder)).stdout:
        raise Refused(f"{folder} holds files that git keeps; choose another folder with --directory")
    if git("check-ignore", "--quiet", str(folder / "postgres_password")).returncode != 0:
        raise Refused(f"git does not ignore {folder}; choose another folder with --directory")


def _write(path: Path, text: str, mode: int = 0o444) -> None:
    scratch = path.with_name(f".{path.name}.tmp")
    scratch.unlink(missing_ok=True)
    scratch.touch(mode=0o600)
    scratch.write_text(text, encoding="utf-8")
    scratch.chmod(mode)
    scratch.replace(path)  # complete, or as before


def main(arguments: list[str] | None = None) -> int:
    """Entry point; 0, or 1 with one line, or 2 for wrong usage."""
    parser = argparse.ArgumentParser(description="Make the secrets of a deployment as files; what is there is kept.")
    parser.add_argument("--directory", type=Path, default=ROOT / "secrets", help="where (default: secrets)")
    parser.add_argument(
        "--rotate", action="append", default=[], metavar="NAME", choices=(*MAKERS, *FOR_PEOPLE), help="replace this one"
    )
    parser.add_argument("--names", action="store_true", help="only say what a deployment is given")
    options = parser.parse_args(arguments)
    if options.names:
        print(*NAMES, sep="\n")
        return 0
    folder = options.directory.absolute()
    try:
        written = generate(folder, frozenset(options.rotate))
    except (Refused, OSError) as error:
        print(f"secrets: {error}", file=sys.stderr)
        return 1
    for name in written:
        print(f"{name}: {'replaced' if name in options.rotate else 'made'}")
    print(f"{len(NAMES) + len(FOR_PEOPLE)} secrets in {folder}, {len(written)} of them new")
    return 0


if __name__ == "__main__":
    sys.exit(main())
