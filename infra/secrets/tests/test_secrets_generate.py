"""`make secrets`: complete, kept, never shown, never where git would take them."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

DERIVED = {"s3_identities.json", "inference_api_keys.json", "promoter_api_keys.json"}
#: Not for containers.
FOR_PEOPLE = {"operator_promoter_api_key"}
SCRIPT = Path(__file__).parents[1] / "generate.py"


def generate(folder: Path, *options: str, code: int = 0) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(
        [sys.executable, "-I", SCRIPT, "--directory", folder, *options], capture_output=True, text=True, check=False
    )
    assert done.returncode == code, done.stderr
    return done


def values(folder: Path) -> dict[str, str]:
    return {path.name: path.read_text() for path in folder.iterdir()}


def names() -> set[str]:
    return set(subprocess.check_output([sys.executable, "-I", SCRIPT, "--names"], text=True).split())


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    generate(tmp_path / "secrets")
    return tmp_path / "secrets"


def test_every_secret_is_made_different_long_and_on_one_line(folder: Path) -> None:
    made = values(folder)
    assert set(made) == names() | FOR_PEOPLE
    assert not names() & FOR_PEOPLE, "a deployment is not given what people show"
    random = [value for name, value in made.items() if name not in {"alert_webhook_url", *DERIVED}]
    assert len(set(random)) == len(random)
    assert all(len(value) >= 20 and value.isalnum() for value in random)
    assert made["alert_webhook_url"] == ""


def test_the_folder_is_the_owners_and_the_files_can_be_read_in_containers(folder: Path) -> None:
    assert folder.stat().st_mode & 0o777 == 0o700
    modes = {path.name: path.stat().st_mode & 0o777 for path in folder.iterdir()}
    assert {mode for name, mode in modes.items() if name not in FOR_PEOPLE} == {0o444}
    assert {modes[name] for name in FOR_PEOPLE} == {0o400}, "and those of people cannot"


def test_what_is_there_is_kept(folder: Path) -> None:
    (folder / "alert_webhook_url").chmod(0o644)
    (folder / "alert_webhook_url").write_text("https://example.com/hook")
    before = values(folder)
    (folder / "redis_password").unlink()
    done = generate(folder)
    after = values(folder)
    assert after.pop("redis_password") != before.pop("redis_password")
    assert after == before
    assert "redis_password: made" in done.stdout


def test_rotation_replaces_one_secret_and_what_is_made_of_it(folder: Path) -> None:
    before = values(folder)
    done = generate(folder, "--rotate", "trainer_s3_secret_key")
    after = values(folder)
    assert {name for name in before if before[name] != after[name]} == {"trainer_s3_secret_key", "s3_identities.json"}
    assert after["trainer_s3_secret_key"] in after["s3_identities.json"]
    assert "trainer_s3_secret_key: replaced" in done.stdout


def test_a_name_that_is_no_secret_is_wrong_usage(folder: Path) -> None:
    assert "trainer_password" in generate(folder, "--rotate", "trainer_password", code=2).stderr


def test_no_value_is_printed(tmp_path: Path) -> None:
    done = generate(tmp_path / "secrets")
    said = done.stdout + done.stderr
    assert not [name for name, value in values(tmp_path / "secrets").items() if value and value in said]


def test_only_the_admin_may_do_everything_and_each_other_user_only_what_it_must_with_the_models(folder: Path) -> None:
    found = json.loads((folder / "s3_identities.json").read_text())["identities"]
    actions = {identity["name"]: set(identity["actions"]) for identity in found}
    models = "mlflow-artifacts"
    assert actions == {
        "admin": {"Admin"},
        "mlflow": {f"Read:{models}", f"Write:{models}", f"List:{models}"},
        "trainer": {f"Write:{models}"},
        "promoter": {f"Read:{models}"},
        "inference": {f"Read:{models}"},
    }
    for identity in found:
        (credentials,) = identity["credentials"]
        assert credentials["accessKey"] == (folder / f"{identity['name']}_s3_access_key").read_text()
        assert credentials["secretKey"] == (folder / f"{identity['name']}_s3_secret_key").read_text()


def api_keys(folder: Path) -> list[dict[str, str]]:
    keys: list[dict[str, str]] = json.loads((folder / "inference_api_keys.json").read_text())["keys"]
    return keys


def digest(folder: Path, client: str) -> str:
    return hashlib.sha256((folder / f"{client}_inference_api_key").read_bytes()).hexdigest()


def test_our_own_clients_of_inference_are_in_its_list_of_keys_by_digest(folder: Path) -> None:
    assert {entry["id"]: entry["sha256"] for entry in api_keys(folder)} == {
        client: digest(folder, client) for client in ("ui", "locust", "jupyter")
    }


def test_a_rotated_key_stays_valid_for_a_day_then_goes_and_what_was_added_by_hand_stays(folder: Path) -> None:
    def written(entries: list[dict[str, Any]]) -> None:
        (folder / "inference_api_keys.json").chmod(0o644)
        (folder / "inference_api_keys.json").write_text(json.dumps({"keys": entries}))

    by_hand = {"id": "ehr", "sha256": "ab" * 32, "requests_per_s": 5}
    ui = next(entry for entry in api_keys(folder) if entry["id"] == "ui")
    limited = ui | {"requests_per_s": 9, "scopes": ["predict"]}
    written([by_hand, limited])
    generate(folder, "--rotate", "ui_inference_api_key")
    entries = api_keys(folder)
    assert entries[0] == by_hand
    old, new = [entry for entry in entries if entry["id"] == "ui"]
    assert old["sha256"] == ui["sha256"]
    assert timedelta(hours=23) < datetime.fromisoformat(old["expires"]) - datetime.now(UTC) < timedelta(hours=25)
    assert new == limited | {"sha256": digest(folder, "ui")}, "the new key may do what the old one could"

    before = (folder / "inference_api_keys.json").read_text()
    generate(folder)
    assert (folder / "inference_api_keys.json").read_text() == before
    written([by_hand, old | {"expires": "2020-01-01T00:00:00+00:00"}, new])
    generate(folder)
    assert [entry["sha256"] for entry in api_keys(folder) if entry["id"] == "ui"] == [new["sha256"]]


def test_the_operator_is_the_promoters_admin_and_stays_it_with_another_key(folder: Path) -> None:
    def listed() -> list[dict[str, Any]]:
        keys: list[dict[str, Any]] = json.loads((folder / "promoter_api_keys.json").read_text())["keys"]
        return keys

    def mine() -> dict[str, Any]:
        digest = hashlib.sha256((folder / "operator_promoter_api_key").read_bytes()).hexdigest()
        return {"id": "operator", "sha256": digest, "scopes": ["admin"]}

    assert listed() == [mine()]
    generate(folder, "--rotate", "operator_promoter_api_key")
    old, new = listed()
    assert new == mine()
    assert old["sha256"] != new["sha256"]
    assert "expires" in old


@pytest.mark.parametrize("content", ["", "[]", '{"keys": [{"id": "ui"}]}'])
def test_a_list_of_keys_that_cannot_be_read_is_not_written_over(folder: Path, content: str) -> None:
    (folder / "inference_api_keys.json").chmod(0o644)
    (folder / "inference_api_keys.json").write_text(content)
    assert "inference_api_keys.json" in generate(folder, code=1).stderr
    assert (folder / "inference_api_keys.json").read_text() == content


@pytest.fixture
def work_tree(tmp_path: Path) -> Path:
    subprocess.run(["git", "init", "--quiet", tmp_path], check=True)
    (tmp_path / ".gitignore").write_text("/secrets/\n")
    return tmp_path


def test_in_a_work_tree_only_an_ignored_folder_is_taken(work_tree: Path) -> None:
    generate(work_tree / "secrets")
    done = generate(work_tree / "elsewhere", code=1)
    assert "git does not ignore" in done.stderr
    assert not (work_tree / "elsewhere").exists()


def test_a_folder_with_files_that_git_keeps_is_refused(work_tree: Path) -> None:
    (work_tree / "secrets").mkdir()
    (work_tree / "secrets" / "postgres_password").write_text("kept")
    subprocess.run(["git", "-C", work_tree, "add", "--force", "secrets/postgres_password"], check=True)
    assert "files that git keeps" in generate(work_tree / "secrets", code=1).stderr
    assert (work_tree / "secrets" / "postgres_password").read_text() == "kept"


def test_the_projects_own_secrets_are_ignored_and_its_generator_is_not() -> None:
    root = SCRIPT.parents[2]

    def ignored(path: str) -> bool:
        done = subprocess.run(["git", "-C", root, "check-ignore", "--quiet", path], check=False)
        return done.returncode == 0

    if not (root / ".git").exists():
        pytest.skip("not a work tree of git")
    assert ignored("secrets/postgres_password")
    assert not ignored("infra/secrets/generate.py")
