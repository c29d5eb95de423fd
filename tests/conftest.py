"""The whole platform as processes, once per kind of broker, for every test that needs more than one service."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import psycopg
import pytest

REQUIRED = os.environ.get("READMIT_REQUIRE", "").split(",")


class Platform:
    """A running `readmit up` and the addresses of its parts."""

    def __init__(self, kafka: str, folder: Path) -> None:
        self.kafka = kafka
        self.state_dir = folder / "state"
        self.output = folder / "output.txt"
        self._process: subprocess.Popen[bytes] | None = None

    def start(self, *options: str) -> None:
        """`readmit up` with free ports, two inference pods, and these options."""
        with self.output.open("ab") as output:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "readmit_local", "up", "--state-dir", str(self.state_dir), "--ports", "free",
                 "--kafka", self.kafka, "--pods", "2", *options],
                stdout=output, stderr=subprocess.STDOUT, env={"TRAINER_SEARCH_TRIALS": "2", **os.environ},
            )  # fmt: skip

    def stop(self) -> int:
        """As Ctrl-C does; the exit code."""
        if self._process is None:
            return 0
        if self._process.poll() is None:
            self._process.send_signal(signal.SIGINT)
        code = self._process.wait(timeout=90)
        self._process = None
        return code

    @property
    def stack(self) -> dict[str, Any]:
        """What `readmit up` says of itself: ports, urls, pids."""
        found: dict[str, Any] = json.loads((self.state_dir / "stack.json").read_text())
        return found

    def get(self, service: str, path: str) -> Any:
        """JSON of a service's REST."""
        url = self.stack["urls"][service]
        answer = httpx.get((url[0] if isinstance(url, list) else url) + path, timeout=10)
        answer.raise_for_status()
        return answer.json()

    def sql(self, role: str, query: str) -> list[tuple[Any, ...]]:
        """Rows of a query in a service's own role."""
        passwords = json.loads((self.state_dir / "secrets.json").read_text())
        with psycopg.connect(
            host="127.0.0.1", port=self.stack["ports"]["postgres"], dbname="readmit", user=role,
            password=passwords[f"postgres/{role}"],
        ) as connection:  # fmt: skip
            return connection.execute(query.encode()).fetchall()

    def wait(self, condition: Callable[[], Any], what: str, timeout_s: float = 240) -> Any:
        """The condition's first truthy value; while the platform is not up yet, refusals do not count."""
        deadline = time.monotonic() + timeout_s
        while time.monotonic() < deadline:
            if self._process is not None and self._process.poll() is not None:
                pytest.fail(f"`readmit up` ended while waiting for {what}:\n{self.tail()}")
            try:
                if value := condition():
                    return value
            except (httpx.HTTPError, FileNotFoundError, KeyError):
                pass
            time.sleep(0.2)
        pytest.fail(f"no {what} after {timeout_s} s:\n{self.tail()}")

    def tail(self) -> str:
        """The last of what it printed."""
        return "\n".join(self.output.read_text(errors="replace").splitlines()[-40:])

    def jobs(self, dataset_version: int) -> list[dict[str, Any]]:
        """The trainer's jobs of a dataset version."""
        found: list[dict[str, Any]] = self.get("trainer", f"/jobs?dataset_version={dataset_version}")["jobs"]
        return found

    def all_judged(self, dataset_version: int) -> list[dict[str, Any]] | None:
        """The decisions of a dataset version once every one of its jobs is done and judged."""
        datasets = {d["version"]: d for d in self.get("ingestor", "/datasets")["datasets"]}
        if dataset_version not in datasets:
            return None
        jobs = self.jobs(dataset_version)
        decisions = [
            d for d in self.get("promoter", "/decisions?limit=500")["decisions"]
            if d["dataset_version"] == dataset_version
        ]  # fmt: skip
        expected = 3 * datasets[dataset_version]["batches_total"]
        finished = len(jobs) == expected and all(job["status"] == "done" for job in jobs)
        return decisions if finished and len(decisions) == expected else None


@contextmanager
def running_platform(kafka: str, *options: str) -> Iterator[Platform]:
    """A platform that has ingested a synthetic sample, trained on it, and serves; stopped at the end."""
    if kafka == "apache" and not (shutil.which("java") and shutil.which("mvn")):
        if "apache-kafka" in REQUIRED:
            pytest.fail("READMIT_REQUIRE names apache-kafka, but java or mvn is not on PATH")
        pytest.skip("Apache Kafka needs java and mvn on PATH")
    folder = Path(tempfile.mkdtemp(prefix="readmit-test-"))
    folder.chmod(0o755)  # as root, the database runs as another user and must reach its folder
    running = Platform(kafka, folder)
    running.start(*options)
    try:
        running.wait(lambda: running.all_judged(1), "trained and judged sample")
        yield running
    finally:
        code = running.stop()
        printed = running.tail()
        shutil.rmtree(folder, ignore_errors=True)
    assert code == 0, printed


@pytest.fixture(scope="session", params=["embedded", "apache"])
def platform(request: pytest.FixtureRequest) -> Iterator[Platform]:
    """The platform that most tests share."""
    with running_platform(request.param, "--source", "sample:30000") as running:
        yield running
