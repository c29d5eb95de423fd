"""The loop under a live Prometheus: every target answers, the figures are right, an alert fires and clears."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

from readmit_chassis.testing import free_port
from readmit_contracts.encounter import example_encounter
from readmit_local.observation import missing_programs, observation_parts, targets
from readmit_local.state import State

from .conftest import REQUIRED, Platform, running_platform
from .grafana_queries import panel_queries

pytestmark = [pytest.mark.stack, pytest.mark.timeout(420)]


def ask(url: str, query: str) -> list[dict[str, Any]]:
    """Samples of an instant query."""
    answer = httpx.get(f"{url}/api/v1/query", params={"query": query}, timeout=10)
    answer.raise_for_status()
    found: list[dict[str, Any]] = answer.json()["data"]["result"]
    return found


def value(url: str, query: str) -> float | None:
    """The one sample of a query; None when there is none."""
    samples = ask(url, query)
    assert len(samples) <= 1, f"{query} has {len(samples)} samples"
    return float(samples[0]["value"][1]) if samples else None


def exported(url: str, sample: str) -> float:
    """One sample of a service's own /metrics."""
    [line] = [line for line in httpx.get(f"{url}/metrics").text.splitlines() if line.startswith(f"{sample} ")]
    return float(line.rpartition(" ")[2])


@pytest.fixture(scope="module")
def observed() -> Iterator[Platform]:
    """A platform of our own under Prometheus: its counters are those of one life, which a restart would end."""
    if missing := missing_programs():
        if "prometheus" in REQUIRED:
            pytest.fail(f"READMIT_REQUIRE names prometheus, but there is no {' and no '.join(missing)}")
        pytest.skip(f"{' and '.join(missing)} not installed")
    with running_platform("embedded", "--source", "sample:20000", "--observe") as running:
        yield running


@pytest.fixture
def prometheus(observed: Platform) -> str:
    """Address of the platform's own Prometheus."""
    url: str = observed.stack["urls"]["prometheus"]
    return url


def test_every_target_is_up(observed: Platform, prometheus: str) -> None:
    expected = {(job, each) for job, them in targets(observed.stack["ports"], pods=2).items() for each in them}

    def healthy() -> bool:
        active = httpx.get(f"{prometheus}/api/v1/targets").json()["data"]["activeTargets"]
        return {(t["labels"]["job"], t["labels"]["instance"]) for t in active if t["health"] == "up"} == expected

    observed.wait(healthy, "all targets up", timeout_s=60)


def test_the_figures_are_those_of_the_services(observed: Platform, prometheus: str) -> None:
    pods = observed.stack["urls"]["inference"]
    for k in range(30):
        httpx.post(f"{pods[k % 2]}/predict", json=example_encounter()).raise_for_status()
    assert httpx.post(f"{pods[0]}/predict", json=[]).status_code == 422
    answered = sum(exported(pod, 'prediction_requests_total{outcome="answered"}') for pod in pods)
    assert answered >= 30
    query = 'sum(prediction_requests_total{outcome="answered"})'
    observed.wait(lambda: value(prometheus, query) == answered, "all answers counted", timeout_s=60)
    assert (value(prometheus, 'sum(prediction_errors_total{code="not_an_object"})') or 0) >= 1

    champion = observed.get("promoter", "/champion")["champion"]
    decisions = observed.get("promoter", "/decisions?limit=500")["decisions"]
    jobs = [job for job in observed.get("trainer", "/jobs")["jobs"] if job["status"] == "done"]
    datasets = observed.get("ingestor", "/datasets")["datasets"]
    expected = {
        "champion_epoch": champion["epoch"],
        "sum(decisions_total)": len(decisions),
        'sum(decisions_total{outcome="accepted"})': champion["epoch"],
        'sum(convergences_total{outcome="converged"}) > bool 0': 1,  # not those soon followed by another
        'sum(convergences_total{outcome="failed"})': 0,
        "candidates_waiting": 0,
        "promotions_frozen": 0,
        "min(model_epoch)": champion["epoch"],
        "sum(training_fit_seconds_count)": len(jobs),
        "dataset_version": datasets[-1]["version"],
        'dataset_rows{split="train"}': sum(batch["rows"] for batch in datasets[-1]["batches"]),
        'pods{state="serving"}': len(pods),
        "sum(consumer_lag_messages)": 0,
        "max(readmit:epochs_behind)": 0,
        "max(outbox_oldest_unsent_seconds)": 0,
        "min(readiness)": 1,
    }
    observed.wait(
        lambda: {query: value(prometheus, query) for query in expected} == expected,
        "figures that agree: " + str({query: value(prometheus, query) for query in expected}),
        timeout_s=60,
    )
    info = ask(prometheus, "champion_info")[0]["metric"]
    assert (info["name"], info["version"]) == (champion["name"], champion["version"])
    for figure in ("auroc", "precision", "recall", "alert_rate"):
        assert 0 < (value(prometheus, f"champion_{figure}") or 0) < 1


def test_every_panel_of_grafana_has_data(observed: Platform, prometheus: str) -> None:
    waiting = panel_queries()
    assert len(waiting) > 40

    def all_have_data() -> bool:
        waiting[:] = [panel for panel in waiting if not ask(prometheus, panel[2])]
        return not waiting

    deadline = time.monotonic() + 120
    while not all_have_data() and time.monotonic() < deadline:
        httpx.post(f"{observed.stack['urls']['inference'][0]}/predict", json=example_encounter())
    assert not waiting, "panels without data: " + "; ".join(" / ".join(panel) for panel in waiting)


class Hook(BaseHTTPRequestHandler):
    """Keeps what Alertmanager posts."""

    said: list[tuple[str, str]]

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        self.said.extend((alert["labels"]["alertname"], alert["status"]) for alert in body["alerts"])
        self.send_response(200)
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002  the base class's name
        """Quiet."""


@contextmanager
def webhook() -> Iterator[tuple[str, list[tuple[str, str]]]]:
    """A receiver of alerts: its URL, and (alert, status) as they come."""
    said: list[tuple[str, str]] = []
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Mine", (Hook,), {"said": said}))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", said
    finally:
        server.shutdown()
        server.server_close()


def hurried(config: Any) -> Any:
    """The same configuration or rules with all waits shortened to seconds, so that a test need not wait for minutes."""
    short = {"scrape_interval": "1s", "scrape_timeout": "1s", "evaluation_interval": "1s", "for": "2s",
             "group_wait": "1s", "group_interval": "1s"}  # fmt: skip
    if isinstance(config, dict):
        return {key: short.get(key, hurried(each)) for key, each in config.items()}
    return [hurried(each) for each in config] if isinstance(config, list) else config


@contextmanager
def hurried_observation(observed: Platform, folder: Path, webhook_url: str) -> Iterator[str]:
    """A second Prometheus and Alertmanager on the same platform and rules, in a hurry; yields Prometheus' address."""
    ports = observed.stack["ports"] | {name: free_port() for name in ("prometheus", "alertmanager")}
    parts = observation_parts(State(folder), ports, 2, webhook_url)
    for path in (*folder.glob("observation/*.yml"), *folder.glob("observation/rules/*.yml")):
        path.write_text(yaml.safe_dump(hurried(yaml.safe_load(path.read_text()))))
    processes = [
        subprocess.Popen(part.argv, env=dict(part.env), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        for part in parts
    ]
    try:
        url = f"http://127.0.0.1:{ports['prometheus']}"
        observed.wait(lambda: httpx.get(f"{url}/-/ready").status_code == 200, "hurried Prometheus", timeout_s=30)
        yield url
    finally:
        for process in processes:
            process.terminate()
            process.wait(timeout=20)


def test_an_alert_fires_reaches_its_receiver_and_clears(observed: Platform, tmp_path: Path) -> None:
    """A process that hangs is noticed, somebody is told, and told again when it is over."""
    ui = observed.stack["pids"]["ui"]
    with webhook() as (hook_url, said), hurried_observation(observed, tmp_path, hook_url) as url:
        firing = 'ALERTS{alertname="ServiceDown",job="ui",alertstate="firing"}'
        observed.wait(lambda: value(url, 'up{job="ui"}') == 1, "the UI up", timeout_s=30)
        assert not ask(url, firing)
        os.kill(ui, signal.SIGSTOP)
        try:
            observed.wait(lambda: ask(url, firing), "the alert", timeout_s=30)
            observed.wait(lambda: ("ServiceDown", "firing") in said, "word of the alert", timeout_s=30)
        finally:
            os.kill(ui, signal.SIGCONT)
        observed.wait(lambda: not ask(url, firing), "the end of the alert", timeout_s=30)
        observed.wait(lambda: ("ServiceDown", "resolved") in said, "word of its end", timeout_s=60)
