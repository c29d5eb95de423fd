"""Airflow's two DAGs ask the real services through Kafka, and the roles of its image run them."""

from __future__ import annotations

import asyncio
import base64
import importlib.util
import json
import os
import shutil
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import ModuleType
from typing import Any
from uuid import uuid4

import httpx
import psycopg
import pytest
from aiokafka import AIOKafkaProducer

from readmit_chassis.testing import free_port, postgres_server, wait_for_port
from readmit_contracts.events import IngestionFinished
from readmit_contracts.examples import EXAMPLES
from readmit_contracts.topics import INGESTION_FINISHED

from .conftest import REQUIRED, Platform, running_platform
from .processes import needs, running, wait_until

ROOT = Path(__file__).parents[1]
HERE = ROOT / "infra" / "airflow"
DAGS = HERE / "dags"
BIN = ROOT / ".venv-airflow" / "bin"
INGESTION, TRAINING = "diabetes_data_processing", "diabetes_ml_pipeline_optimized"

pytestmark = pytest.mark.airflow


def module(name: str) -> ModuleType:
    """One of the files that need nothing but Python; the others can be had in Airflow's environment only."""
    spec = importlib.util.spec_from_file_location(f"airflow_{name}", HERE / f"src/readmit_airflow/{name}.py")
    assert spec is not None
    assert spec.loader is not None
    loaded = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = loaded
    spec.loader.exec_module(loaded)
    return loaded


environment, figures = module("environment"), module("figures")


# --- Without Airflow ------------------------------------------------------------------------------------------------

DATABASE = {
    "AIRFLOW_POSTGRES_HOST": "db", "AIRFLOW_POSTGRES_DATABASE": "airflow", "AIRFLOW_POSTGRES_USER": "readmit_airflow",
    "AIRFLOW_POSTGRES_PASSWORD": "p@ss/w%rd", "AIRFLOW_SECRET_KEY": "k",
}  # fmt: skip
API = {"AIRFLOW__CORE__EXECUTION_API_SERVER_URL": "http://airflow:8080/execution/"}
KAFKA = {"AIRFLOW_CONN_READMIT_KAFKA": "{}"}
CELERY = {"AIRFLOW__CORE__EXECUTOR": "CeleryExecutor"}
REDIS = {"AIRFLOW_REDIS_HOST": "redis", "REDIS_PASSWORD": "r@"}
FLOWER = {"FLOWER_PASSWORD": "f"}
ADMIN = {"AIRFLOW_ADMIN_PASSWORD": "a"}

#: What each role needs, and nothing else.
NEEDS = {
    "migrate": DATABASE | ADMIN,
    "api-server": DATABASE,
    "dag-processor": DATABASE,
    "triggerer": DATABASE | API,
    "scheduler": DATABASE | API | KAFKA,
    "scheduler with CeleryExecutor": DATABASE | API | CELERY | REDIS,
    "worker": DATABASE | API | KAFKA | CELERY | REDIS,
    "flower": REDIS | FLOWER,
}


@pytest.mark.parametrize("name", NEEDS)
def test_a_role_starts_with_what_it_needs_and_names_each_thing_that_is_missing(name: str) -> None:
    role, given = name.split(maxsplit=1)[0], NEEDS[name]
    assert given.items() <= environment.airflow_environment(role, given).items()
    for missing in set(given) - set(CELERY):
        with pytest.raises(environment.Incomplete) as incomplete:
            environment.airflow_environment(role, given | {missing: ""})
        assert incomplete.value.args == (missing,)


def test_passwords_are_escaped_in_urls_and_read_from_files_that_a_variable_overrules(tmp_path: Path) -> None:
    (tmp_path / "AIRFLOW_POSTGRES_PASSWORD").write_text("p@ss/w%rd\n")
    (tmp_path / "REDIS_PASSWORD").write_text("from the file")
    (tmp_path / "OTHER").write_text("nobody's")
    worker = NEEDS["worker"] | {"REDIS_PASSWORD": "r@"}
    del worker["AIRFLOW_POSTGRES_PASSWORD"]
    given = environment.with_secret_files(worker, tmp_path)
    assert "OTHER" not in given
    made = environment.airflow_environment("worker", given)
    assert made["AIRFLOW__DATABASE__SQL_ALCHEMY_CONN"] == (
        "postgresql+psycopg2://readmit_airflow:p%40ss%2Fw%25rd@db:5432/airflow"
    )
    assert made["AIRFLOW__CELERY__BROKER_URL"] == "redis://:r%40@redis:6379/0"


def test_every_purpose_has_a_key_of_its_own_that_depends_on_the_secret_alone() -> None:
    def keys(secret: str, role: str) -> list[str]:
        made = environment.airflow_environment(role, NEEDS[role] | {"AIRFLOW_SECRET_KEY": secret})
        return [
            made[f"AIRFLOW__{name}"] for name in ("CORE__FERNET_KEY", "API_AUTH__JWT_SECRET", "API__SECRET_KEY")
        ]  # fmt: skip

    first = keys("one", "scheduler")
    assert len(set(first)) == 3
    assert {len(base64.urlsafe_b64decode(key)) for key in first} == {32}
    assert keys("one", "api-server") == first
    assert not set(keys("two", "scheduler")) & set(first)


def test_figures_are_a_table_with_a_line_per_row() -> None:
    rows = [{"family": "lightgbm", "auroc": 0.67312}, {"family": "tree", "auroc": None}]
    assert figures.table(rows).splitlines() == ["family    auroc", "lightgbm  0.6731", "tree      -"]
    assert figures.table([]) == ""


# --- In Airflow's environment ---------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def airflow() -> Path:
    """Where the programs of Airflow's environment are."""
    if not (BIN / "readmit-airflow").exists():
        if "airflow" in REQUIRED:
            pytest.fail(f"READMIT_REQUIRE names airflow, but {BIN} is not there")
        pytest.skip("Airflow's environment is not there: `make .venv-airflow/.ready`")
    return BIN


@pytest.fixture(scope="module")
def home() -> Iterator[dict[str, str]]:
    """Variables of an Airflow with a folder of its own, our configuration, and nobody else's."""
    with tempfile.TemporaryDirectory(prefix="readmit-airflow-") as folder:
        shutil.copy(HERE / "airflow.cfg", folder)
        yield {
            "PATH": os.environ["PATH"],
            "HOME": folder,
            "AIRFLOW_HOME": folder,
            "AIRFLOW__CORE__DAGS_FOLDER": str(DAGS),
            "AIRFLOW__LOGGING__BASE_LOG_FOLDER": f"{folder}/logs",
            "AIRFLOW__LOGGING__DAG_PROCESSOR_CHILD_PROCESS_LOG_DIRECTORY": f"{folder}/logs/dag_processor",
            "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN": f"sqlite:///{folder}/airflow.db",
        }


def described(airflow: Path, home: dict[str, str], folder: Path, result: Path) -> dict[str, Any]:
    subprocess.run(
        [airflow / "python", HERE / "tests/describe_dags.py", folder, result],
        env=home, check=True, capture_output=True,
    )  # fmt: skip
    found: dict[str, Any] = json.loads(result.read_text())
    return found


def test_both_dags_load_with_the_originals_names_schedules_and_limits(
    airflow: Path, home: dict[str, str], tmp_path: Path
) -> None:
    found = described(airflow, home, DAGS, tmp_path / "found.json")
    assert found["import_errors"] == {}
    assert set(found["dags"]) == {INGESTION, TRAINING}
    ingestion, training = found["dags"][INGESTION], found["dags"][TRAINING]
    assert ingestion["schedule_s"] == 25 * 3600
    assert training["schedule"] == "@weekly"
    assert ingestion["params"] == {"source": "uci", "timeout_s": 3600}
    assert training["params"] == {"force": False, "dataset_version": None, "timeout_s": 3600}
    for dag in (ingestion, training):
        assert (dag["catchup"], dag["max_active_runs"]) == (False, 1)
        assert {task["timeout_s"] for task in dag["tasks"].values()} == {3600}
        assert dag["tasks"]["request"]["upstream"] == ["prepare"]
        assert all(task["doc"] for task in dag["tasks"].values())
        assert all(f"`{name}`" in dag["doc"] for name in dag["params"])


def test_a_dag_file_that_does_not_load_is_noticed(airflow: Path, home: dict[str, str], tmp_path: Path) -> None:
    (tmp_path / "broken.py").write_text("from readmit_airflow.exchange import no_such_thing\n")
    found = described(airflow, home, tmp_path, tmp_path / "found.json")
    assert "no_such_thing" in found["import_errors"][str(tmp_path / "broken.py")]


def test_without_its_environment_the_image_says_readably_what_is_missing(airflow: Path, tmp_path: Path) -> None:
    done = subprocess.run(
        [airflow / "readmit-airflow", "scheduler"],
        env={"READMIT_SECRETS_DIR": str(tmp_path)}, check=False, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 2
    said, *names = done.stderr.split("\n  ")
    assert f"neither set nor a file in {tmp_path}" in said
    assert {name.strip() for name in names} == set(NEEDS["scheduler"])


# --- Against the services, on Apache Kafka: librdkafka does not speak to the embedded broker --------------------------


@pytest.fixture(scope="module")
def platform(airflow: Path) -> Iterator[Platform]:
    """A platform of our own: datasets and fits are added to it, which other tests count."""
    with running_platform("apache", "--source", "sample:20000", "--pods", "1") as started:
        yield started


@pytest.fixture(scope="module")
def connected(airflow: Path, home: dict[str, str], platform: Platform) -> dict[str, str]:
    """Variables of an Airflow with a database and a connection to the platform's Kafka."""
    subprocess.run([airflow / "airflow", "db", "migrate"], env=home, check=True, capture_output=True)
    return home | {"AIRFLOW_CONN_READMIT_KAFKA": kafka_connection(platform)}


def kafka_connection(platform: Platform) -> str:
    return json.dumps({"conn_type": "kafka", "extra": {"bootstrap.servers": platform.stack["urls"]["kafka"]}})


@dataclass
class Run:
    """One run of a DAG by `dag.test()`."""

    folder: Path
    process: subprocess.Popen[str] = field(repr=False)

    def end(self) -> dict[str, Any]:
        """States, and what the tasks returned."""
        assert self.process.wait(timeout=240) == 0, self.log
        found: dict[str, Any] = json.loads((self.folder / "result.json").read_text())
        return found

    @property
    def log(self) -> str:
        return (self.folder / "log.txt").read_text()


def start(airflow: Path, connected: dict[str, str], folder: Path, dag_id: str, **parameters: Any) -> Run:
    script, result = HERE / "tests/run_dag.py", folder / "result.json"
    command: list[str | Path] = [airflow / "python", script, DAGS, dag_id, json.dumps(parameters), result]
    with (folder / "log.txt").open("w") as log:
        return Run(folder, subprocess.Popen(command, env=connected, stdout=log, stderr=subprocess.STDOUT, text=True))


@pytest.mark.stack
def test_a_run_ingests_a_source_and_shows_its_figures(
    airflow: Path, connected: dict[str, str], platform: Platform, tmp_path: Path
) -> None:
    run = start(airflow, connected, tmp_path, INGESTION, source="sample:4000")
    ended = run.end()
    assert ended["state"] == "success", run.log
    shown = ended["returned"]["wait_for_outcome"]
    assert (shown["outcome"], shown["rows_read"], shown["synthetic"]) == ("done", 4000, True)
    noted = platform.get("ingestor", f"/ingestions/{shown['request_id']}")
    assert (noted["status"], noted["dataset_version"]) == ("done", shown["dataset_version"])
    assert noted["requested_by"].startswith("airflow manual__")
    assert shown["dataset_version"] in {d["version"] for d in platform.get("ingestor", "/datasets")["datasets"]}
    assert "rows_quarantined" in run.log


@pytest.mark.stack
def test_a_run_retrains_and_waits_for_the_verdict_on_each_new_model_and_the_next_finds_nothing_to_do(
    airflow: Path, connected: dict[str, str], platform: Platform, tmp_path: Path
) -> None:
    run = start(airflow, connected, tmp_path, TRAINING, dataset_version=1, force=True)
    ended = run.end()
    assert ended["state"] == "success", run.log
    trained = ended["returned"]["wait_for_outcome"]
    assert (trained["outcome"], trained["dataset_version"]) == ("done", 1)
    request = platform.get("trainer", f"/trainings/{trained['request_id']}")
    assert (request["status"], request["force"], request["reason"]) == ("done", True, f"DAG {TRAINING}")
    fitted = {
        (f"diabetes_readmission_{job['family']}", job["model_version"])
        for job in platform.jobs(1) if job["request_id"] == trained["request_id"]
    }  # fmt: skip
    verdicts = ended["returned"]["wait_for_verdicts"]
    assert {(verdict["model"], verdict["version"]) for verdict in verdicts} == fitted
    assert len(fitted) == 3
    decided = {
        (d["candidate"]["name"], d["candidate"]["version"]): d["outcome"]
        for d in platform.get("promoter", "/decisions?limit=500")["decisions"]
    }  # fmt: skip
    assert all(decided[verdict["model"], verdict["version"]] == verdict["verdict"] for verdict in verdicts)
    assert "3 new models judged" in run.log

    again = start(airflow, connected, tmp_path, TRAINING, dataset_version=1).end()
    assert again["state"] == "success"
    assert again["returned"]["wait_for_outcome"]["outcome"] == "unchanged"
    assert again["returned"]["wait_for_verdicts"] == []


@pytest.mark.stack
@pytest.mark.parametrize(
    ("dag_id", "parameters", "reason"),
    [
        (INGESTION, {"source": "/no/such/file.csv"}, "source_not_found: /no/such/file.csv: no such file"),
        (TRAINING, {"dataset_version": 999}, "training failed: there is no dataset 999"),
    ],
)
def test_a_run_fails_with_the_reason_that_the_service_gives(
    airflow: Path, connected: dict[str, str], tmp_path: Path, dag_id: str, parameters: dict[str, Any], reason: str
) -> None:
    run = start(airflow, connected, tmp_path, dag_id, **parameters)
    ended = run.end()
    assert (ended["state"], ended["tasks"]["wait_for_outcome"]) == ("failed", "failed")
    assert f"AirflowFailException: {reason}" in run.log


class Source:
    """A web server that keeps the ingestor waiting, and then has nothing for it."""

    def __init__(self) -> None:
        self.asked, self.release = threading.Event(), threading.Event()
        source = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                source.asked.set()
                source.release.wait()
                self.send_error(404)

            do_HEAD = do_GET  # noqa: N815  the name is http.server's

            def log_message(self, format: str, *args: Any) -> None:  # noqa: A002  the name is http.server's
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}/encounters.csv"

    @contextmanager
    def serving(self) -> Iterator[Source]:
        thread = threading.Thread(target=self._server.serve_forever)
        thread.start()
        try:
            yield self
        finally:
            self.release.set()
            self._server.shutdown()
            thread.join()
            self._server.server_close()


@pytest.mark.stack
def test_the_answer_is_told_from_others_and_from_what_cannot_be_read(
    airflow: Path, connected: dict[str, str], platform: Platform, tmp_path: Path
) -> None:
    others = next(event for event in EXAMPLES if isinstance(event, IngestionFinished))
    others = others.model_copy(update={"request_id": uuid4(), "outcome": "done"})

    async def interfere() -> None:
        async with AIOKafkaProducer(bootstrap_servers=platform.stack["urls"]["kafka"]) as producer:
            for value in (b"\xff not JSON", b"", None, others.model_dump_json().encode()):
                await producer.send_and_wait(INGESTION_FINISHED.name, value, key=b"others")

    with Source().serving() as source:
        run = start(airflow, connected, tmp_path, INGESTION, source=source.url)
        assert source.asked.wait(timeout=120), run.log
        asyncio.run(interfere())
        source.release.set()
        assert run.end()["state"] == "failed"
    assert "AirflowFailException: source_" in run.log
    assert run.log.count("unreadable event skipped: ingestion.finished/0@") == 3


@pytest.mark.stack
def test_a_run_ends_at_its_time_limit_and_says_what_it_waited_for(
    airflow: Path, connected: dict[str, str], tmp_path: Path
) -> None:
    with Source().serving() as source:
        run = start(airflow, connected, tmp_path, INGESTION, source=source.url, timeout_s=2)
        ended = run.end()
    assert ended["tasks"] == {"prepare": "success", "request": "success", "wait_for_outcome": "failed"}
    assert f"no ingestion.finished for request {ended['returned']['request']} within 2 s" in run.log


# --- The roles of the image, as processes -----------------------------------------------------------------------------


@contextmanager
def redis_server(folder: Path, password: str) -> Iterator[int]:
    program, port = needs("redis-server", required_as="redis"), free_port()
    with running(
        [program, "--port", str(port), "--bind", "127.0.0.1", "--requirepass", password, "--save", "", "--dir", folder],
        folder / "redis.log",
    ):
        wait_for_port(port)
        yield port


@pytest.mark.stack
@pytest.mark.parametrize("executor", ["LocalExecutor", "CeleryExecutor"])
def test_the_roles_of_the_image_run_a_dag_that_the_admin_starts(
    airflow: Path, home: dict[str, str], platform: Platform, tmp_path: Path, executor: str
) -> None:
    """With a password that was rotated between two starts: the second counts."""
    secrets, logs = tmp_path / "secrets", tmp_path / "logs"
    secrets.mkdir()
    secret = {"AIRFLOW_POSTGRES_PASSWORD": "p@ss/w%rd", "AIRFLOW_SECRET_KEY": "0f" * 32, "REDIS_PASSWORD": "r@/d",
              "FLOWER_PASSWORD": "petals", "AIRFLOW_ADMIN_PASSWORD": "first"}  # fmt: skip
    for name, value in secret.items():
        (secrets / name).write_text(f"{value}\n")
    api, flower = free_port(), free_port()
    with ExitStack() as stack:
        server = stack.enter_context(postgres_server())
        with psycopg.connect(server, autocommit=True) as connection:
            connection.execute("CREATE ROLE readmit_airflow LOGIN PASSWORD 'p@ss/w%rd'")
            connection.execute("CREATE DATABASE airflow OWNER readmit_airflow")
        variables = {name: value for name, value in home.items() if "SQL_ALCHEMY" not in name} | {
            "READMIT_SECRETS_DIR": str(secrets),
            "AIRFLOW_POSTGRES_HOST": "127.0.0.1",
            "AIRFLOW_POSTGRES_PORT": str(psycopg.conninfo.conninfo_to_dict(server)["port"]),
            "AIRFLOW_POSTGRES_DATABASE": "airflow",
            "AIRFLOW_POSTGRES_USER": "readmit_airflow",
            "AIRFLOW_CONN_READMIT_KAFKA": kafka_connection(platform),
            "AIRFLOW__CORE__EXECUTOR": executor,
            "AIRFLOW__CORE__EXECUTION_API_SERVER_URL": f"http://127.0.0.1:{api}/execution/",
            "AIRFLOW__API__HOST": "127.0.0.1",
            "AIRFLOW__API__PORT": str(api),
            "AIRFLOW__SCHEDULER__SCHEDULER_HEALTH_CHECK_SERVER_PORT": str(free_port()),
            "AIRFLOW__LOGGING__WORKER_LOG_SERVER_PORT": str(free_port()),
            "AIRFLOW__LOGGING__BASE_LOG_FOLDER": str(logs),
        }
        if executor == "CeleryExecutor":
            variables |= {
                "AIRFLOW_REDIS_HOST": "127.0.0.1",
                "AIRFLOW_REDIS_PORT": str(stack.enter_context(redis_server(tmp_path, secret["REDIS_PASSWORD"]))),
                "AIRFLOW__CELERY__FLOWER_HOST": "127.0.0.1",
                "AIRFLOW__CELERY__FLOWER_PORT": str(flower),
            }
        for password in ("first", "second"):
            (secrets / "AIRFLOW_ADMIN_PASSWORD").write_text(password)
            subprocess.run([airflow / "readmit-airflow", "migrate"], env=variables, check=True, capture_output=True)
        celery_roles = ("worker", "flower") if executor == "CeleryExecutor" else ()
        for role in ("api-server", "scheduler", "dag-processor", *celery_roles):
            stack.enter_context(
                running([airflow / "readmit-airflow", role], tmp_path / f"{role}.log", env=variables)
            )  # fmt: skip
        client = stack.enter_context(httpx.Client(base_url=f"http://127.0.0.1:{api}", timeout=30))
        wait_for_port(api, timeout_s=120)
        wait_until(lambda: healthy(client), "healthy scheduler and DAG processor", 120)
        log_in(client, "second")
        wait_until(lambda: client.get(f"/api/v2/dags/{INGESTION}").status_code == 200, "parsed DAG", 120)
        assert client.get(f"/api/v2/dags/{INGESTION}").json()["is_paused"] is True

        client.patch(f"/api/v2/dags/{INGESTION}", json={"is_paused": False}).raise_for_status()
        asked = client.post(
            f"/api/v2/dags/{INGESTION}/dagRuns", json={"logical_date": None, "conf": {"source": "sample:20000"}}
        )
        run = f"/api/v2/dags/{INGESTION}/dagRuns/{asked.raise_for_status().json()['dag_run_id']}"
        wait_until(lambda: client.get(run).json()["state"] in {"success", "failed"}, "end of the run", 180)
        assert client.get(run).json()["state"] == "success"
        task = f"{run}/taskInstances/wait_for_outcome"
        shown = client.get(f"{task}/xcomEntries/return_value").json()["value"]
        assert (shown["outcome"], shown["rows_read"]) == ("unchanged", 20_000)
        assert "ingestion unchanged" in client.get(f"{task}/logs/1").text
        if executor == "CeleryExecutor":
            workers = f"http://127.0.0.1:{flower}/api/workers"
            assert httpx.get(workers).status_code == 401
            assert httpx.get(workers, auth=("admin", "petals")).status_code == 200


def healthy(client: httpx.Client) -> bool:
    said = client.get("/api/v2/monitor/health").json()
    return all(said[part]["status"] == "healthy" for part in ("metadatabase", "scheduler", "dag_processor"))


def log_in(client: httpx.Client, password: str) -> None:
    """Only with the password; without one, and with the password of before, there is no way in."""
    assert client.get("/api/v2/dags").status_code == 401
    for wrong in ("first", "admin"):
        assert client.post("/auth/token", json={"username": "admin", "password": wrong}).status_code == 401
    token = client.post("/auth/token", json={"username": "admin", "password": password}).raise_for_status().json()
    client.headers["Authorization"] = f"Bearer {token['access_token']}"
