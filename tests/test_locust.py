"""The load test tests something: varied encounters that are understood, failures that count, a report at the end."""

from __future__ import annotations

import csv
import importlib.util
import json
import os
import random
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import islice
from pathlib import Path
from types import ModuleType
from typing import Any

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

from readmit_chassis.testing import free_port
from readmit_contracts.encounter import FEATURE_COLUMNS
from readmit_features.cleaning import clean_encounter

from .conftest import REQUIRED, Platform

ROOT = Path(__file__).parents[1]
LOCUST = ROOT / ".venv-locust" / "bin" / "locust"
LOCUSTFILE = ROOT / "infra" / "locust" / "locustfile.py"
GOOD = (200, {"risk": 0.1})


def module(name: str) -> ModuleType:
    """One of the files beside the locustfile; those that need Locust itself cannot be had here."""
    spec = importlib.util.spec_from_file_location(f"load_{name}", LOCUSTFILE.with_name(f"{name}.py"))
    assert spec is not None
    assert spec.loader is not None
    loaded = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = loaded  # dataclasses look themselves up
    spec.loader.exec_module(loaded)
    return loaded


encounters, shapes, chart = module("encounters"), module("shapes"), module("chart")


@pytest.fixture(scope="module")
def locust() -> Path:
    """The command, from the environment that `make load` makes: Locust brings a patched world of its own."""
    if not LOCUST.exists():
        if "locust" in REQUIRED:
            pytest.fail(f"READMIT_REQUIRE names locust, but {LOCUST} is not there")
        pytest.skip("Locust's environment is not there: `make .venv-locust/.ready`")
    return LOCUST


class Stub:
    """An HTTP server in place of inference: it answers all the same and keeps what it was asked."""

    def __init__(self, status: int, answer: dict[str, Any]) -> None:
        self.bodies: list[dict[str, Any]] = []
        self.paths: set[str] = set()
        self.keys: set[str | None] = set()
        stub = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                self._answer(200, {"status": "ok"})

            def do_POST(self) -> None:
                stub.paths.add(self.path)
                stub.keys.add(self.headers["x-api-key"])
                stub.bodies.append(json.loads(self.rfile.read(int(self.headers["content-length"]))))
                self._answer(status, answer)

            def _answer(self, status: int, body: dict[str, Any]) -> None:
                content = json.dumps(body).encode()
                self.send_response(status)
                self.send_header("content-type", "application/json")
                self.send_header("content-length", str(len(content)))
                self.end_headers()
                self.wfile.write(content)

            def log_message(self, *_: Any) -> None:
                """Say nothing."""

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}"


@contextmanager
def stub(status: int, answer: dict[str, Any]) -> Iterator[Stub]:
    started = Stub(status, answer)
    thread = threading.Thread(target=started.server.serve_forever)
    thread.start()
    try:
        yield started
    finally:
        started.server.shutdown()
        started.server.server_close()
        thread.join()


def run_script(
    url: str, report: Path, seconds: float, users: int = 10, api_key: str = ""
) -> subprocess.CompletedProcess[str]:
    """What `make load` runs."""
    environment = os.environ | {
        "READMIT_URL": url, "LOAD_REPORT": str(report), "LOCUST_SHAPE": "users", "LOCUST_SECONDS": str(seconds),
        "READMIT_INFERENCE_API_KEY": api_key,
    }  # fmt: skip
    return subprocess.run(
        [ROOT / "infra" / "locust" / "run", "--users", str(users), "--spawn-rate", str(users or 1)],
        env=environment, capture_output=True, text=True, check=False, timeout=120,
    )  # fmt: skip


def totals(report: Path, name: str = "stats.csv") -> dict[str, str]:
    """The line of `POST /predict`."""
    with (report / name).open(newline="") as lines:
        (found,) = [line for line in csv.DictReader(lines) if line["Name"] == "/predict"]
    return found


def drawn(count: int) -> list[dict[str, Any]]:
    return list(islice(encounters.bodies(random.Random(1), encounters.encounters(500, seed=3)), count))


def test_every_writing_of_an_encounter_is_understood_and_means_the_same() -> None:
    for encounter in encounters.encounters(300, seed=5):
        read = [clean_encounter(writing(encounter)) for writing in encounters.WRITINGS]
        assert [cleaned.errors for cleaned in read] == [[], [], []]
        features = [{column.key: cleaned.values[column.key] for column in FEATURE_COLUMNS} for cleaned in read]
        assert features[0] == features[1] == features[2]


@pytest.mark.parametrize(
    ("form", "found_in"),
    [
        ("comparator >200", lambda body: body.get("max_glu_serum") == ">200"),
        ("comparator >300", lambda body: body.get("max_glu_serum") == ">300"),
        ("comparator >8", lambda body: ">8" in (body.get("A1Cresult"), body.get("a1cresult"))),
        ("outcome <30", lambda body: body.get("readmitted") == "<30"),
        ("age with brackets", lambda body: body["age"] == "[50-60)"),
        ("age without brackets", lambda body: body["age"] == "50-60"),
        ("number as text", lambda body: isinstance(body["num_medications"], str)),
        ("number as number", lambda body: isinstance(body["num_medications"], int)),
        ("hyphens", lambda body: "glyburide-metformin" in body),
        ("underscores", lambda body: "glyburide_metformin" in body),
        ("capitals", lambda body: {"A1Cresult", "diabetesMed"} <= set(body)),
        ("no capitals", lambda body: {"a1cresult", "diabetesmed"} <= set(body)),
        ("a field that no model uses", lambda body: "weight" in body),
    ],
)
def test_the_original_platforms_input_forms_are_among_what_is_sent(
    form: str, found_in: Callable[[dict[str, Any]], bool]
) -> None:
    assert any(found_in(body) for body in drawn(2_000)), form


def test_the_shapes_are_fifty_users_at_five_per_second_and_steps_to_five_hundred() -> None:
    original = shapes.stage_at("original", 0)
    assert (original.users, original.per_second) == (50, 5)
    assert shapes.stage_at("original", 119.9) == original
    assert shapes.stage_at("original", 120) is None
    starts = [shapes.stage_at("steps", second) for second in range(0, 300, 30)]
    assert [stage.users for stage in starts] == [50, 100, 150, 200, 250, 300, 350, 400, 450, 500]
    assert shapes.stage_at("steps", 300) is None
    assert shapes.stage_at("steps", 9, stage_seconds=5).users == 100


def test_the_table_of_a_run_counts_each_number_of_users_apart(tmp_path: Path) -> None:
    lines = ["Timestamp,User Count,Name,Requests/s,50%,95%,99%,Total Request Count,Total Failure Count"]
    for second in range(61):
        users, requests = (50, 10 * second) if second <= 30 else (100, 300 + 20 * (second - 30))
        slow = 500 if 30 < second < 40 else 7  # what the users before saw is not the new ones' figure
        lines.append(f"{1000 + second},{users},Aggregated,{users / 5},2,{slow},9,{requests},{requests // 100}")
        lines.append(f"{1000 + second},{users},/predict,1,1,1,1,{requests},0")
    lines += ["1061,100,Aggregated,0,N/A,N/A,N/A,0,0", "1062,7,Aggregated,1,2,3,4,2000,0"]
    (tmp_path / "history.csv").write_text("\n".join(lines))
    first, second_level = chart.levels(tmp_path / "history.csv")
    assert (first.users, first.requests, first.failures, first.requests_per_s) == (50, 300, 3, 10)
    assert (second_level.users, second_level.failures, second_level.requests_per_s) == (100, 6, 20)
    assert (second_level.p50_ms, second_level.p95_ms, second_level.p99_ms) == (2, 7, 9)


def test_a_run_writes_its_report_and_sends_many_different_encounters(locust: Path, tmp_path: Path) -> None:
    with stub(*GOOD) as server:
        ended = run_script(server.url, tmp_path, seconds=6, api_key="shown")
    assert server.keys == {"shown"}
    assert ended.returncode == 0, ended.stderr
    assert int(totals(tmp_path)["Failure Count"]) == 0
    assert int(totals(tmp_path)["Request Count"]) == len(server.bodies) >= 10
    assert len({json.dumps(body, sort_keys=True) for body in server.bodies}) > 0.8 * len(server.bodies)
    assert server.paths == {"/predict"}
    assert "/predict" in (tmp_path / "report.html").read_text()
    assert len((tmp_path / "history.csv").read_text().splitlines()) > 3


@pytest.mark.parametrize(
    ("status", "answer", "said"),
    [
        (500, {"title": "broken"}, "status 500"),
        (422, {"title": "refused"}, "status 422"),
        (200, {"risk": 1.5}, "without a risk"),
        (200, {"risk": "high"}, "without a risk"),
        (200, {}, "without a risk"),
    ],
)
def test_what_is_no_risk_counts_as_failed_and_the_run_fails(
    locust: Path, tmp_path: Path, status: int, answer: dict[str, Any], said: str
) -> None:
    with stub(status, answer) as server:
        ended = run_script(server.url, tmp_path, seconds=2, users=3)
    assert ended.returncode == 1, ended.stderr
    assert server.keys == {None}
    line = totals(tmp_path)
    assert int(line["Failure Count"]) == int(line["Request Count"]) == len(server.bodies) > 0
    assert said in totals(tmp_path, "failures.csv")["Error"]


def test_a_run_without_a_request_fails(locust: Path, tmp_path: Path) -> None:
    with stub(*GOOD) as server:
        ended = run_script(server.url, tmp_path, seconds=1, users=0)
    assert server.bodies == []
    assert ended.returncode == 1, ended.stderr


def test_without_a_platform_it_says_so_and_how_to_start_one(locust: Path, tmp_path: Path) -> None:
    ended = run_script(f"http://127.0.0.1:{free_port()}", tmp_path, seconds=2)
    assert ended.returncode == 2
    assert "make demo" in ended.stderr
    assert "READMIT_URL" in ended.stderr
    assert list(tmp_path.iterdir()) == []


def answered(urls: list[str]) -> float:
    """Predictions that the pods say they have answered."""
    families = [
        family
        for url in urls
        for family in text_string_to_metric_families(httpx.get(f"{url}/metrics", timeout=10).text)
    ]
    return sum(
        sample.value
        for family in families
        for sample in family.samples
        if sample.name == "prediction_requests_total" and sample.labels == {"outcome": "answered"}
    )


@contextmanager
def workers(locust: Path, port: int, count: int) -> Iterator[list[subprocess.Popen[bytes]]]:
    """Processes that wait for a master's orders; they end with it, or here."""
    command = [str(locust), "--locustfile", str(LOCUSTFILE), "--worker", "--master-host", "127.0.0.1",
               "--master-port", str(port)]  # fmt: skip
    started = [subprocess.Popen(command, stderr=subprocess.DEVNULL) for _ in range(count)]
    try:
        yield started
    finally:
        for process in started:
            process.kill()
            process.wait()


@pytest.mark.stack
@pytest.mark.timeout(420)
@pytest.mark.parametrize("platform", ["embedded"], indirect=True)
def test_a_master_and_two_workers_load_every_pod_of_the_platform_without_a_failure(
    platform: Platform, locust: Path, tmp_path: Path
) -> None:
    pods: list[str] = platform.stack["urls"]["inference"]
    before, before_first = answered(pods), answered(pods[:1])
    port = free_port()
    with workers(locust, port, 2) as started:
        ended = subprocess.run(
            [locust, "--locustfile", LOCUSTFILE, "--headless", "--master", "--master-bind-host", "127.0.0.1",
             "--master-bind-port", str(port), "--expect-workers", "2", "--expect-workers-max-wait", "60",
             "--host", ",".join(pods), "--shape", "users", "--users", "20", "--spawn-rate", "10", "--seconds", "15",
             "--stop-timeout", "10", "--csv", tmp_path / "load", "--html", tmp_path / "report.html"],
            capture_output=True, text=True, check=False, timeout=180,
        )  # fmt: skip
        codes = [process.wait(timeout=30) for process in started]
    assert ended.returncode == 0, ended.stderr
    assert codes == [0, 0]
    assert "2 workers connected" in ended.stderr
    line = totals(tmp_path, "load_stats.csv")
    requests = int(line["Request Count"])
    assert requests > 40
    assert int(line["Failure Count"]) == 0
    assert answered(pods) - before == requests
    assert 0 < answered(pods[:1]) - before_first < requests
    assert "/predict" in (tmp_path / "report.html").read_text()
