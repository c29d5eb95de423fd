"""Pure decisions: sources, ports, environments, who is who."""

from __future__ import annotations

import json
import os
import re
import socket
import subprocess
import sys
from importlib import resources
from pathlib import Path

import pytest
from typer.testing import CliRunner

from readmit_local.assets import asset
from readmit_local.cli import app
from readmit_local.conditional_writes import may_write
from readmit_local.database import ROLES
from readmit_local.errors import LocalError
from readmit_local.kafka import new_cluster_id
from readmit_local.part import child_env
from readmit_local.policy import usable_policy
from readmit_local.ports import DEFAULT_PORTS, HOST, choose_ports, parse_overrides
from readmit_local.process_identity import identity, is_ours
from readmit_local.secret_files import secret_file
from readmit_local.services import service_part
from readmit_local.source import resolve_source
from readmit_local.state import State

SERVICES = ("ingestor", "trainer", "promoter", "monitor", "inference", "ui")


@pytest.mark.parametrize("text", ["uci", "sample", "sample:20000", "https://example.org/data.zip"])
def test_a_source_that_is_no_path_is_passed_on(text: str) -> None:
    assert resolve_source(text) == text


@pytest.mark.parametrize("text", ["sample:", "sample:0", "sample:many", "sample:-5", "ftp://example.org/data.csv"])
def test_a_mistyped_source_is_wrong_usage(text: str) -> None:
    with pytest.raises(ValueError, match=r"sample|http"):
        resolve_source(text)


def test_a_path_is_made_absolute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "data.csv").write_text("x")
    monkeypatch.chdir(tmp_path)
    assert resolve_source("data.csv") == str(tmp_path / "data.csv")


def test_a_missing_source_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(LocalError, match=r"nothing\.csv: no such file"):
        resolve_source(str(tmp_path / "nothing.csv"))


def test_free_ports_are_all_different() -> None:
    ports = choose_ports("free", {}, pods=3, observe=True)
    assert set(ports) == {*DEFAULT_PORTS, "inference-2", "inference-3"}
    assert len(set(ports.values())) == len(ports)


def test_a_chosen_port_is_kept_and_not_given_twice() -> None:
    free = choose_ports("free", {})["ui"]
    ports = choose_ports("free", {"ui": free})
    assert ports["ui"] == free
    with pytest.raises(LocalError, match=f"port {free} is given to both"):
        choose_ports("free", {"ui": free, "trainer": free})


def test_a_port_in_use_names_the_part_and_the_way_out() -> None:
    with socket.socket() as taken:
        taken.bind((HOST, 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(LocalError, match=f"port {port} for ui .* --port ui=N"):
            choose_ports("free", {"ui": port})


@pytest.mark.parametrize("text", ["ui", "ui=", "ui=abc", "ui=70000", "nobody=80"])
def test_a_mistyped_port_is_wrong_usage(text: str) -> None:
    with pytest.raises(ValueError, match="--port"):
        parse_overrides([text])


def test_no_service_is_told_anothers_secrets(state: State) -> None:
    secrets, ports = state.secrets(), choose_ports("free", {})
    for service in SERVICES:
        told = service_part(service, service, state, ports, secrets, idempotent=False).env.values()
        own = {f"postgres/readmit_{service}", f"s3/{service}", f"pseudonyms/{service}"}
        known = {name for name, secret in secrets.items() if any(secret in value for value in told)}
        assert known <= own, service


def test_a_service_gets_the_callers_settings_of_its_own_prefix_only(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRAINER_THREADS", "1")
    monkeypatch.setenv("INGESTOR_BATCH_ROWS", "500")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "mine")
    env = child_env({"TRAINER_PORT": "1"}, "TRAINER_")
    assert env["TRAINER_THREADS"] == "1"
    assert not {"INGESTOR_BATCH_ROWS", "AWS_SECRET_ACCESS_KEY"} & set(env)


def test_a_policy_is_the_promoters_alone(state: State) -> None:
    ports, secrets = choose_ports("free", {}), state.secrets()
    for service in SERVICES:
        part = service_part(service, service, state, ports, secrets, idempotent=True, policy=Path("/own.yaml"))
        told = {name: value for name, value in part.env.items() if value == "/own.yaml"}
        assert told == ({"PROMOTER_POLICY_FILE": "/own.yaml"} if service == "promoter" else {})


def test_a_policy_that_is_none_is_refused_before_anything_starts(tmp_path: Path) -> None:
    shipped = resources.files("readmit_promoter") / "policies" / "default.yaml"
    good, bad, state_dir = tmp_path / "good.yaml", tmp_path / "bad.yaml", tmp_path / "state"
    good.write_text(shipped.read_text())
    bad.write_text(shipped.read_text().replace("max_error: 0.03", "max_error: 7"))
    assert usable_policy(good) == good
    for options, env in ((["--policy", str(bad)], {}), ([], {"PROMOTER_POLICY_FILE": str(bad)})):
        done = CliRunner().invoke(app, ["up", "--state-dir", str(state_dir), *options], env=env)
        assert isinstance(done.exception, LocalError)
        assert str(done.exception) == (
            f"{bad}: gates.calibration.max_error: 7: Input should be less than or equal to 1"
        )
    assert not state_dir.exists()
    with pytest.raises(LocalError, match=r"absent\.yaml: cannot be read \(No such file or directory\)"):
        usable_policy(tmp_path / "absent.yaml")


def test_secrets_are_made_once_and_are_for_the_owner_only(state: State) -> None:
    first = state.secrets()
    assert state.secrets() == first
    assert len(set(first.values())) == len(first)
    assert (state.root / "secrets.json").stat().st_mode & 0o777 == 0o600


def test_the_state_belongs_to_one_process_at_a_time(state: State) -> None:
    with state.locked(), pytest.raises(LocalError, match="another `readmit up`"), state.locked():
        pass


def test_a_process_is_known_by_its_start_not_by_its_pid_alone() -> None:
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    mine = identity(child.pid)
    assert mine is not None
    assert is_ours(child.pid, mine)
    assert not is_ours(os.getpid(), mine)
    child.communicate(b"\n")
    assert not is_ours(child.pid, mine)


@pytest.mark.parametrize(
    ("current", "if_none_match", "if_match", "allowed"),
    [
        (None, None, None, True),
        ("a", None, None, True),
        (None, "*", None, True),
        ("a", "*", None, False),
        ("a", None, '"a"', True),
        ("b", None, '"a"', False),
        (None, None, '"a"', False),
    ],
)
def test_a_conditional_write_happens_only_when_its_condition_holds(
    current: str | None, if_none_match: str | None, if_match: str | None, *, allowed: bool
) -> None:
    assert may_write(current, if_none_match, if_match) is allowed


def test_the_sql_holds_no_password() -> None:
    files = sorted(asset("postgres").glob("*.sql"))
    assert [file.name for file in files] == ["01-roles.sql", "02-schemas.sql"]
    statements = [line for file in files for line in file.read_text().splitlines() if not line.startswith("--")]
    assert not [line for line in statements if "PASSWORD" in line.upper()]


def test_every_role_that_logs_in_is_one_that_the_sql_makes() -> None:
    assert set(re.findall(r"'(readmit_\w+)'", asset("postgres/01-roles.sql").read_text())) == set(ROLES)


def test_a_state_of_before_a_role_gets_a_secret_for_it_and_keeps_the_others(state: State) -> None:
    first = state.secrets()
    older = {name: secret for name, secret in first.items() if name != "postgres/readmit_viewer"}
    (state.root / "secrets.json").write_text(json.dumps(older))
    now = state.secrets()
    assert set(now) == set(first)
    assert older.items() <= now.items()


def test_a_secret_file_is_read_without_its_last_line_break_and_named_when_it_is_empty(tmp_path: Path) -> None:
    (tmp_path / "given").write_text("a b\n")
    (tmp_path / "empty").write_text("\n")
    assert secret_file(tmp_path, "given") == "a b"
    with pytest.raises(LocalError, match=r"secret empty: .* is empty"):
        secret_file(tmp_path, "empty")
    with pytest.raises(LocalError, match=r"secret missing: .*make secrets"):
        secret_file(tmp_path, "missing")


def test_no_name_of_a_cluster_reads_as_an_option() -> None:
    names = {new_cluster_id() for _ in range(2_000)}
    assert len(names) == 2_000
    assert not [name for name in names if name.startswith("-")]
