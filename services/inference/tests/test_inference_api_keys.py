"""API keys: which are valid when, what a file may hold, and the command that makes them."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from readmit_chassis.access.api_keys import ApiKeys, parse_key_file
from readmit_chassis.access.client import Limit
from readmit_chassis.access.watched_file import Unusable
from readmit_inference.access.scopes import SCOPES

NOW = datetime(2026, 1, 1, tzinfo=UTC)


def entry(key: str, **more: Any) -> dict[str, Any]:
    return {"id": "ward", "sha256": hashlib.sha256(key.encode()).hexdigest()} | more


def key_file(*entries: dict[str, Any]) -> bytes:
    return json.dumps({"keys": entries}).encode()


def keys(*entries: dict[str, Any], now: datetime = NOW, default_limit: Limit | None = None) -> ApiKeys:
    made = ApiKeys(SCOPES, default_limit, now=now.timestamp)
    made.use(key_file(*entries))
    return made


def test_a_key_is_known_by_its_digest_and_says_what_its_client_may() -> None:
    known = keys(entry("one", requests_per_s=2.5, scopes=["model"]), entry("two", id="lab"))
    ward, lab = known.client_of(b"one"), known.client_of(b"two")
    assert ward is not None
    assert lab is not None
    assert (ward.label, ward.scopes, ward.limit) == ("ward", {"model"}, Limit(2.5, 3))
    assert (lab.label, lab.scopes, lab.limit) == ("lab", SCOPES.default, None)
    assert known.client_of(b"three") is None


@given(st.binary())
def test_nothing_else_is_a_key(key: bytes) -> None:
    assert (keys(entry("one")).client_of(key) is None) == (key != b"one")


def test_a_digest_that_only_begins_as_a_known_one_is_no_key() -> None:
    digest = hashlib.sha256(b"one").hexdigest()
    assert keys(entry("one", sha256=digest[:-1] + ("0" if digest[-1] != "0" else "1"))).client_of(b"one") is None


@pytest.mark.parametrize(
    ("times", "valid"),
    [
        ({"expires": NOW}, False),
        ({"expires": NOW + timedelta(seconds=1)}, True),
        ({"not_before": NOW}, True),
        ({"not_before": NOW + timedelta(seconds=1)}, False),
        ({"not_before": NOW - timedelta(days=2), "expires": NOW - timedelta(days=1)}, False),
    ],
)
def test_a_key_is_valid_from_and_until(times: dict[str, datetime], valid: bool) -> None:
    known = keys(entry("one", **{name: at.isoformat() for name, at in times.items()}))
    assert (known.client_of(b"one") is not None) == valid


def test_two_keys_of_a_client_are_one_client_with_one_limit() -> None:
    known = keys(entry("old", requests_per_s=1), entry("new", requests_per_s=1))
    assert known.client_of(b"old") == known.client_of(b"new")


def test_keys_without_a_limit_have_the_default_one() -> None:
    client = keys(entry("one"), default_limit=Limit(7, 9)).client_of(b"one")
    assert client is not None
    assert client.limit == Limit(7, 9)


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", "Invalid JSON"),
        (b'{"keys": [', "Invalid JSON"),
        (b"[]", "file"),
        (b'{"keys": {}}', "keys"),
        (b"\xff\xfe", "Invalid JSON"),
        (key_file({"id": "ward"}), "sha256"),
        (key_file(entry("one", id="Ward 3")), "keys.0.id"),
        (key_file(entry("one", sha256="readmit_s3cret")), "keys.0.sha256"),
        (key_file(entry("one", sha256="A" * 64)), "keys.0.sha256"),
        (key_file(entry("one", expires="2026-01-01T00:00:00")), "timezone"),
        (key_file(entry("one", not_before="2026-01-02T00:00:00Z", expires="2026-01-01T00:00:00Z")), "expires"),
        (key_file(entry("one", requests_per_s=0)), "requests_per_s"),
        (key_file(entry("one", burst=4)), "burst without"),
        (key_file(entry("one", scopes=["admin"])), "scopes"),
        (key_file(entry("one", expiry="2026-01-01T00:00:00Z")), "expiry"),
        (key_file(entry("one"), entry("one", id="lab")), "listed twice"),
        (key_file(entry("one", requests_per_s=1), entry("two", requests_per_s=2)), "different limits"),
    ],
)
def test_a_wrong_file_is_refused_with_the_place_and_without_a_value_and_the_keys_stay(
    content: bytes, says: str
) -> None:
    known = keys(entry("kept"))
    with pytest.raises(Unusable, match=says) as refused:
        known.use(content)
    assert "s3cret" not in str(refused.value)
    assert known.client_of(b"kept") is not None


def test_a_list_without_keys_lets_nobody_in() -> None:
    assert keys().client_of(b"") is None


def command(*arguments: str | Path, code: int = 0) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(
        [sys.executable, "-m", "readmit_inference", "keys", "new", *arguments],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == code, done.stderr
    return done


def test_the_command_shows_a_key_once_and_keeps_its_digest(tmp_path: Path) -> None:
    file = tmp_path / "keys.json"
    first = command("--id", "ward", "--file", file, "--requests-per-s", "5", "--scope", "predict").stdout.strip()
    assert file.stat().st_mode & 0o777 == 0o600
    file.chmod(0o444)
    second = command("--id", "ward", "--file", file, "--days", "30").stdout.strip()
    assert len(first) >= 48
    assert first != second
    assert first not in file.read_text()
    assert file.stat().st_mode & 0o777 == 0o444
    known = ApiKeys(SCOPES)
    known.use(file.read_bytes())
    old, new = known.client_of(first.encode()), known.client_of(second.encode())
    assert old is not None
    assert new is not None
    assert (old.limit, old.scopes) == (Limit(5, 5), {"predict"})
    assert (new.limit, new.scopes) == (Limit(5, 5), {"predict"}), "the second follows the first"
    (_, expiring) = parse_key_file(file.read_bytes(), SCOPES).keys
    assert expiring.expires is not None
    assert timedelta(days=29) < expiring.expires - datetime.now(UTC) < timedelta(days=31)


def test_without_a_file_the_command_prints_the_entry_to_put_into_one() -> None:
    done = command("--id", "ward")
    known = ApiKeys(SCOPES)
    known.use(key_file(json.loads(done.stderr)))
    assert known.client_of(done.stdout.strip().encode()) is not None


def test_the_command_leaves_a_file_that_it_does_not_understand_as_it_was(tmp_path: Path) -> None:
    file = tmp_path / "keys.json"
    file.write_text('{"keys": [{"id": "ward"}]}')
    assert "sha256" in command("--id", "lab", "--file", file, code=1).stderr
    assert file.read_text() == '{"keys": [{"id": "ward"}]}'
    assert "id" in command("--id", "Not An Id", code=1).stderr
    assert list(tmp_path.iterdir()) == [file]
