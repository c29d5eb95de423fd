"""The operator's command against a running platform: what it shows, and one line for whatever cannot be."""

from __future__ import annotations

import csv
import json
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from readmit_contracts.encounter import example_encounter

from .conftest import Platform

pytestmark = [pytest.mark.stack, pytest.mark.timeout(420)]


def readmit(*arguments: str, stdin: str = "") -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "readmit_local", *arguments],
        input=stdin, capture_output=True, text=True, check=False, timeout=120,
    )  # fmt: skip


def on(platform: Platform, *arguments: str, stdin: str = "") -> subprocess.CompletedProcess[str]:
    return readmit(*arguments, "--state-dir", str(platform.state_dir), stdin=stdin)


def one_line_error(done: subprocess.CompletedProcess[str]) -> str:
    """The error, after checking that it is one line and that the exit code says so."""
    assert done.returncode == 1, done
    lines = done.stderr.strip().splitlines()
    assert len(lines) == 1, done.stderr
    return lines[0]


def test_status_names_every_part_and_the_champion(platform: Platform) -> None:
    def shown() -> dict[str, Any]:
        found: dict[str, Any] = json.loads(on(platform, "status", "--json").stdout)
        return found

    def all_up() -> bool:  # after a restart, MLflow takes its time
        return {part["state"] for part in shown()["parts"].values()} == {"up"}

    platform.wait(all_up, "parts that are up")
    parts = {"postgres", "s3", "kafka", "mlflow", "ingestor", "trainer", "promoter", "inference", "inference-2", "ui"}
    assert parts <= set(shown()["parts"])
    assert shown()["champion"]["epoch"] >= 1
    assert "champion" in on(platform, "status").stdout


def test_an_encounter_is_answered_from_standard_input(platform: Platform) -> None:
    done = on(platform, "predict", "-", stdin=json.dumps(example_encounter()))
    assert done.returncode == 0, done.stderr
    assert 0 < json.loads(done.stdout)["risk"] < 1


def test_a_refused_encounter_shows_the_field_and_what_is_allowed(platform: Platform) -> None:
    done = on(platform, "predict", "-", stdin=json.dumps({**example_encounter(), "insulin": "Sideways"}))
    assert done.returncode == 1
    assert "insulin" in done.stderr
    assert "Steady" in done.stderr


def test_a_file_of_encounters_is_answered_row_by_row(platform: Platform, tmp_path: Path) -> None:
    sample, answers = tmp_path / "sample.csv", tmp_path / "risks.csv"
    assert readmit("sample", "300", "-o", str(sample)).returncode == 0
    done = on(platform, "predict-batch", str(sample), "-o", str(answers))
    assert done.returncode == 0, done.stderr
    with answers.open(newline="") as file:
        risks = [float(row["risk"]) for row in csv.DictReader(file)]
    assert len(risks) == 300
    assert all(0 < risk < 1 for risk in risks)
    empty = tmp_path / "empty.csv"
    empty.touch()
    assert "refused with 400" in on(platform, "predict-batch", str(empty)).stderr
    assert "name it .csv" in on(platform, "predict-batch", str(tmp_path / "sample.xls")).stderr


@pytest.fixture(scope="module")
def web() -> Iterator[str]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(404 if self.path == "/missing.zip" else 200)
            self.send_header("content-type", "text/html")
            self.end_headers()
            self.wfile.write(b"<!doctype html><p>not data")

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002  the base class's name
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield f"http://127.0.0.1:{server.server_address[1]}"
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.mark.parametrize(
    ("source", "said"),
    [
        ("{web}/missing.zip", "404"),
        ("{web}/page", "HTML"),
        ("http://127.0.0.1:1/data.zip", "not reachable"),
        ("{folder}/nowhere.csv", "no such file"),
        ("{folder}/lacking.csv", "lacks the column(s) insulin"),
        ("{folder}/empty.csv", "empty"),
    ],
)
def test_a_source_that_cannot_be_ingested_is_one_line_and_leaves_nothing(
    source: str, said: str, platform: Platform, web: str, tmp_path: Path
) -> None:
    tmp_path.chmod(0o755)
    (tmp_path / "empty.csv").touch()
    header = readmit("sample", "1").stdout.splitlines()[0]
    (tmp_path / "lacking.csv").write_text(header.replace(",insulin", "") + "\n")
    before = platform.get("ingestor", "/datasets")
    error = one_line_error(on(platform, "ingest", source.format(web=web, folder=tmp_path)))
    assert said in error
    assert platform.get("ingestor", "/datasets") == before


def test_a_second_up_on_the_same_state_is_refused(platform: Platform) -> None:
    assert "readmit down" in one_line_error(on(platform, "up", "--ports", "free"))


def test_a_port_in_use_is_named_with_the_way_out(platform: Platform, tmp_path: Path) -> None:
    taken = platform.stack["ports"]["inference"]
    error = one_line_error(
        readmit("up", "--state-dir", str(tmp_path / "s"), "--ports", "free", "--port", f"inference={taken}",
                "--source", "sample:1000")
    )  # fmt: skip
    assert str(taken) in error
    assert "--port inference=" in error
    assert not (tmp_path / "s" / "postgres").exists()


def test_a_missing_source_is_refused_before_anything_starts(tmp_path: Path) -> None:
    state = tmp_path / "s"
    error = one_line_error(readmit("up", "--state-dir", str(state), "--source", str(tmp_path / "nowhere.zip")))
    assert "nowhere.zip: no such file" in error
    assert not state.exists()


def test_logs_of_a_part_that_does_not_exist_name_those_that_do(platform: Platform) -> None:
    assert "trainer" in one_line_error(on(platform, "logs", "trainor"))
    assert "fit" in on(platform, "logs", "trainer", "-n", "200").stdout


def decisions(platform: Platform) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(on(platform, "decisions", "list", "--json").stdout)
    return found


def test_a_decision_is_shown_derived_again_and_tried_under_another_policy(platform: Platform, tmp_path: Path) -> None:
    newest = decisions(platform)[0]["decision_id"]
    shown = on(platform, "decisions", "show", newest[:8]).stdout
    for gate in ("discrimination", "calibration", "subgroups", "latency"):
        assert gate in shown
    assert decisions(platform)[0]["evidence_sha256"] in shown
    replayed = on(platform, "decisions", "replay")
    assert replayed.returncode == 0, replayed.stderr
    assert f"{len(decisions(platform))} same, 0 differs" in replayed.stdout
    policy = tmp_path / "policy.yaml"
    policy.write_text("gates: {nonsense: {}}")
    assert "unknown gate" in on(platform, "decisions", "try", str(policy)).stderr


def test_who_was_champion_and_that_the_ledger_is_whole(platform: Platform) -> None:
    first = json.loads(on(platform, "models", "--json").stdout)
    assert first["epoch"] >= 1
    assert "no model was champion then" in on(platform, "models", "--as-of", "2020-01-01T00:00Z").stdout
    assert on(platform, "models", "--as-of", "yesterday").returncode == 2
    assert "each as it was written" in on(platform, "ledger", "check").stdout
    assert "promotion" in on(platform, "ledger", "list", "--limit", "500").stdout


def test_the_operator_freezes_and_unfreezes_and_what_is_denied_is_one_line(platform: Platform) -> None:
    assert on(platform, "freeze", "--reason", "to see it").returncode == 0
    try:
        assert "frozen already" in one_line_error(on(platform, "freeze", "--reason", "to see it"))
        assert "promotions are frozen" in on(platform, "rollout").stdout
    finally:
        assert on(platform, "unfreeze", "--reason", "seen").returncode == 0
    assert "never been champion" in one_line_error(
        on(platform, "rollback", "--to", "nobody:1", "--reason", "to see it")
    )
    assert "does not wait" in one_line_error(
        on(platform, "approve", decisions(platform)[0]["decision_id"], "--reason", "to see it")
    )
    assert "No candidate is on trial" in one_line_error(on(platform, "end-trial", "--reason", "to see it"))
    kinds = json.loads(on(platform, "ledger", "list", "--kind", "freeze", "--kind", "denial", "--json").stdout)
    assert {entry["by"] for entry in kinds["entries"]} == {"operator"}
    assert {entry["kind"] for entry in kinds["entries"]} == {"freeze", "denial"}
    assert on(platform, "rollout", "--watch").returncode == 0


def test_the_operators_key_is_in_no_log_and_no_output(platform: Platform) -> None:
    key = json.loads((platform.state_dir / "secrets.json").read_text())["promoter/operator"]
    assert key not in platform.output.read_text(errors="replace")
    assert not [log.name for log in (platform.state_dir / "logs").iterdir() if key in log.read_text(errors="replace")]
