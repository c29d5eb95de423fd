"""`python -m SERVICE keys new`: make a key. It is shown once; what is kept is its digest."""

from __future__ import annotations

import argparse
import hashlib
import json
import secrets
import sys
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any

from readmit_chassis.access.api_keys import KeyEntry, parse_key_file
from readmit_chassis.access.client import Scopes
from readmit_chassis.access.watched_file import Unusable

#: Lets scanners of sources and logs find a key that has got lost there.
_PREFIX = "readmit_"
_RANDOM_BYTES = 32


def add_keys_command(commands: Any, scopes: Scopes, *, variable: str) -> None:
    """`keys new` to a parser's subcommands. `variable`: the one that names the service's file of keys."""
    keys = commands.add_parser("keys", help="keys of clients").add_subparsers(required=True)
    new = keys.add_parser("new", help="make a key, print it once, and keep its digest", description=__doc__)
    new.add_argument("--id", required=True, help="the client's name; a second key of one id follows the first")
    new.add_argument("--file", type=Path, help=f"{variable}; without it, the entry is printed too")
    new.add_argument("--days", type=float, help="how long it is valid; without it, until it is taken out of the file")
    new.add_argument(
        "--scope",
        action="append",
        choices=sorted(scopes.allowed),
        help=f"may be repeated; else as before, or {', '.join(sorted(scopes.default))}",
    )
    new.add_argument("--requests-per-s", type=float, help="limit of the client")
    new.add_argument("--burst", type=int, help="how many at once after a pause")
    new.set_defaults(run=partial(new_key, scopes=scopes))


def new_key(options: argparse.Namespace, scopes: Scopes) -> int:
    """Exit code: 0, or 1 with one line that says why not."""
    key = _PREFIX + secrets.token_urlsafe(_RANDOM_BYTES)
    entry: dict[str, Any] = {"id": options.id, "sha256": hashlib.sha256(key.encode()).hexdigest()}
    if options.days is not None:
        entry["expires"] = (datetime.now(UTC) + timedelta(days=options.days)).isoformat(timespec="seconds")
    if options.scope:
        entry["scopes"] = sorted(set(options.scope))
    entry |= {
        name: value
        for name, value in (("requests_per_s", options.requests_per_s), ("burst", options.burst))
        if value is not None
    }
    try:
        if options.file is None:
            parse_key_file(json.dumps({"keys": [entry]}).encode(), scopes)
            sys.stderr.write(json.dumps(entry) + "\n")
        else:
            _append(options.file, entry, scopes)
    except (Unusable, OSError) as error:
        sys.stderr.write(f"keys: {error}\n")
        return 1
    sys.stdout.write(key + "\n")
    return 0


def _append(path: Path, entry: dict[str, Any], scopes: Scopes) -> None:
    """Add an entry to the file, complete or not at all; what stood there is kept.

    A client's next key may do as much as the one before, where nothing else is said.
    """
    known: list[KeyEntry] = []
    mode = 0o600
    if path.exists():
        known, mode = list(parse_key_file(path.read_bytes(), scopes).keys), path.stat().st_mode & 0o777
    predecessor = next((_written(other) for other in known if other.id == entry["id"]), {})
    if {"requests_per_s", "burst"} & set(entry):
        predecessor = {"scopes": predecessor.get("scopes", sorted(scopes.default))}
    inherited = {name: predecessor[name] for name in ("requests_per_s", "burst", "scopes") if name in predecessor}
    entry = inherited | entry
    kept = [_written(other) for other in known]
    content = json.dumps({"keys": [*kept, entry]}, indent=2) + "\n"
    parse_key_file(content.encode(), scopes)
    scratch = path.with_name(f".{path.name}.tmp")
    scratch.unlink(missing_ok=True)
    scratch.touch(mode=0o600)
    scratch.write_text(content, encoding="utf-8")
    scratch.chmod(mode)
    scratch.replace(path)


def _written(entry: KeyEntry) -> dict[str, Any]:
    written = entry.model_dump(mode="json", exclude_unset=True)
    return written | ({"scopes": sorted(entry.scopes)} if entry.scopes else {})
