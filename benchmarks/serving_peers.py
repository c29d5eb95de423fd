"""Ours beside MLflow, MLServer, BentoML, Ray Serve, LitServe and the usual FastAPI handler with pandas, in one run.

    python benchmarks/serving_peers.py --source diabetes-130-us-hospitals.zip --cache DIR [--bundle DIR]
        [--rounds 3] [--seconds 5] [--connections 32] [--only "Ray Serve" …] [--users 50 500] [--to docs/serving.md]

Each peer is installed from its lock (`requirements/peers-*.txt`) into an environment of its own below `--cache`, and
serves the same pipeline: one-hot columns and a LightGBM of as many trees and leaves as ours, fitted on the training
patients. Ours serves `--bundle`, or else one that the trainer's code fits on the same patients, once, into the cache.

All processes and threads of a server are held on one core, `wrk` has the other; nothing else is up but, for ours,
the broker that takes its prediction log. Every round starts every server anew, holds answers against the server's own
model, warms up, and loads it with 2,000 real encounters in turn; any answer but a 200 ends the run. Then Locust's users
(`infra/locust`), who think for 1-5 s, for ours and for the FastAPI handler. Prints Markdown.
"""

from __future__ import annotations

import argparse
import asyncio
import csv
import hashlib
import json
import os
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
import uuid
import zipfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import joblib
import pandas as pd
from lightgbm import LGBMClassifier
from prediction_log import figure, pod_environment, until_logged
from quality import encoded, read_source
from serving_ceiling import verify
from serving_load import Load, cores, encounters, load, load_options, posting_script
from sklearn.compose import make_column_transformer
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import OneHotEncoder

from readmit_bundle import Bundle, read_bundle
from readmit_bundle.archive import FILES, MODEL_FILE
from readmit_chassis.kafka import create_topics
from readmit_chassis.s3 import MemoryStore
from readmit_chassis.testing import embedded_kafka, free_port
from readmit_contracts.encounter import FEATURE_COLUMNS, NOT_READMITTABLE, POSITIVE_OUTCOME, Kind
from readmit_contracts.topics import TOPICS
from readmit_features.history import with_history
from readmit_features.split import splits_of
from readmit_inference.cache import BundleCache
from readmit_inference.testing import promote
from readmit_trainer.candidate import Choices, make_candidate

ROOT = Path(__file__).parents[1]
HANDLERS = Path(__file__).with_name("peers")
COLUMNS = [column.name for column in FEATURE_COLUMNS]
COUNTS = [column.name for column in FEATURE_COLUMNS if column.kind is Kind.COUNT]
NUMBERS = {column.name for column in FEATURE_COLUMNS if column.is_number}
MARK = "READMIT_BENCHMARK_SERVER"
_TABLE = "<!-- table -->\n"
_VERIFIED = 60
_START_TIMEOUT_S = 180.0
_ARRIVING_S = 10

Row = dict[str, Any]


@dataclass(frozen=True)
class Place:
    """Where a server runs: its environment, a folder of its own, its port, and the pipeline's file."""

    environment: Path
    folder: Path
    port: int
    model: Path


@dataclass(frozen=True)
class Server:
    """One contender: how it is started, how an encounter is put to it, and where its answer holds the risk.

    `package` gives its lock and its version; `settings` says to the reader how it was run.
    """

    name: str
    package: str
    settings: str
    command: Callable[[Place], list[str]]
    variables: Callable[[Place], dict[str, str]] = lambda _: {}
    path: str = "/predict"
    body: Callable[[Row], Any] = dict
    risk: Callable[[Any], float] = lambda answer: float(answer["risk"])
    prepare: Callable[[Place], None] = lambda _: None
    batch: int = 1

    @property
    def lock(self) -> str:
        """The name of the environment and of the file in `requirements`."""
        return f"peers-{self.package}"


def _handler(file: str) -> Callable[[Place], list[str]]:
    return lambda place: [f"{place.environment}/bin/python", str(HANDLERS / file), "--port", str(place.port)]


def _ray(place: Place) -> list[str]:
    return [*_handler("ray_serve.py")(place), "--folder", str(place.folder)]


def _bentoml(place: Place) -> list[str]:
    return [
        f"{place.environment}/bin/bentoml", "serve", "bentoml_service:Encounters", "--working-dir", str(HANDLERS),
        "--host", "127.0.0.1", "--port", str(place.port), "--api-workers", "1",
    ]  # fmt: skip


def _mlflow(place: Place) -> list[str]:
    return [
        f"{place.environment}/bin/mlflow", "models", "serve", "--model-uri", str(place.folder / "model"),
        "--env-manager", "local", "--host", "127.0.0.1", "--port", str(place.port), "--workers", "1",
    ]  # fmt: skip


def _save_for_mlflow(place: Place) -> None:
    example = place.folder / "example.json"
    example.write_text(json.dumps(as_file(encounters(None, 5))))
    told = [str(HANDLERS / "mlflow_model.py"), "--example", str(example), "--to", str(place.folder / "model")]
    environment = os.environ | {"PEER_MODEL": str(place.model), **_mlflow_variables(place)}
    subprocess.run([f"{place.environment}/bin/python", *told], check=True, env=environment, capture_output=True)


def _mlflow_variables(place: Place) -> dict[str, str]:
    return {
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "MLFLOW_TRACKING_URI": f"sqlite:///{place.folder}/mlflow.db",
        "PATH": f"{place.environment}/bin:{os.environ['PATH']}",
    }


def _configure_mlserver(place: Place, batch: int) -> None:
    inputs = [
        {
            "name": name, "shape": [-1, 1], "datatype": "INT64" if name in NUMBERS else "BYTES",
            "parameters": {"content_type": "np" if name in NUMBERS else "str"},
        }
        for name in COLUMNS
    ]  # fmt: skip
    model = {
        "name": "readmission",
        "implementation": "mlserver_sklearn.SKLearnModel",
        "inputs": inputs,
        "parameters": {"uri": str(place.model), "content_type": "pd", "extra": {"predict_fn": "predict_proba"}},
        "max_batch_size": batch if batch > 1 else 0,
        "max_batch_time": 0.005 if batch > 1 else 0,
    }
    server = {
        "host": "127.0.0.1", "http_port": place.port, "grpc_port": free_port(), "metrics_port": free_port(),
        "parallel_workers": 0, "debug": False,
    }  # fmt: skip
    (place.folder / "model-settings.json").write_text(json.dumps(model))
    (place.folder / "settings.json").write_text(json.dumps(server))


def _mlserver(name: str, batch: int, settings: str) -> Server:
    return Server(
        name, "mlserver", settings,
        command=lambda place: [f"{place.environment}/bin/mlserver", "start", str(place.folder)],
        path="/v2/models/readmission/infer",
        body=lambda row: {
            "inputs": [
                {"name": key, "shape": [1, 1], "datatype": "INT64" if key in NUMBERS else "BYTES", "data": [value]}
                for key, value in row.items()
            ]
        },
        risk=lambda answer: float(answer["outputs"][0]["data"][1]),
        prepare=lambda place: _configure_mlserver(place, batch),
        batch=batch,
    )  # fmt: skip


OURS = Server(
    "**Readmit**",
    "readmit",
    "`python -m readmit_inference`, prediction log on, a broker that takes it",
    command=lambda _: [sys.executable, "-m", "readmit_inference"],
    # A client leaves out what is unknown; a line of the source file says `?`.
    body=lambda row: {key: value for key, value in row.items() if value != "?"},
)
NAIVE = Server(
    "FastAPI + pandas",
    "fastapi",
    "the handler in `benchmarks/peers/fastapi_pandas.py`; uvicorn with uvloop and httptools, no access log",
    command=_handler("fastapi_pandas.py"),
)
_BENTOML: dict[str, Any] = {
    "command": _bentoml,
    "variables": lambda place: {"BENTOML_DO_NOT_TRACK": "true", "BENTOML_HOME": str(place.folder)},
    "body": lambda row: {"encounters": [row]},
    "risk": lambda answer: float(answer[0]),
}
_RAY: dict[str, Any] = {
    "command": _ray,
    "variables": lambda _: {
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_SERVE_THROUGHPUT_OPTIMIZED": "1",
        "RAY_SERVE_ENABLE_DIRECT_INGRESS": "0",
    },
}
SERVERS = (
    OURS,
    Server(
        "MLflow", "mlflow", "`mlflow models serve --env-manager local --workers 1`, model with a signature",
        command=_mlflow, variables=_mlflow_variables, path="/invocations",
        body=lambda row: {"dataframe_split": {"columns": list(row), "data": [list(row.values())]}},
        risk=lambda answer: float(answer["predictions"][0][1]), prepare=_save_for_mlflow,
    ),
    _mlserver("MLServer", 1, "`mlserver-sklearn`, `parallel_workers` 0, `debug` false, columns declared"),
    _mlserver("MLServer, batches", 32, "the same with `max_batch_size` 32, `max_batch_time` 5 ms"),
    Server("BentoML", "bentoml", "`bentoml serve`, one worker, no access log", **_BENTOML),
    Server("BentoML, batches", "bentoml", "the same with adaptive batches of at most 32", **_BENTOML, batch=32),
    Server("Ray Serve", "ray", "proxy and one replica, `RAY_SERVE_THROUGHPUT_OPTIMIZED`, no access log", **_RAY),
    Server("Ray Serve, batches", "ray", "the same with `serve.batch`: at most 32, 5 ms", **_RAY, batch=32),
    Server(
        "LitServe", "litserve", "one API server, one worker, no access log", command=_handler("litserve_api.py")
    ),
    Server(
        "LitServe, batches", "litserve", "the same with `max_batch_size` 32, `batch_timeout` 5 ms",
        command=_handler("litserve_api.py"), batch=32,
    ),
    NAIVE,
)  # fmt: skip


@dataclass(frozen=True)
class Round:
    """What was seen of one server in one round."""

    requests_per_s: float
    p50_ms: float
    p99_ms: float
    alone_p50_ms: float
    rss_mib: float
    start_s: float


@dataclass(frozen=True)
class Contest:
    """What all rounds share."""

    rows: list[Row]
    pipeline: Pipeline
    bundle: Bundle
    cache: Path
    folder: Path
    kafka: str
    scripts: dict[str, Path] = field(default_factory=dict)

    def place(self, server: Server) -> Place:
        """A new folder and a free port."""
        folder = Path(tempfile.mkdtemp(prefix="s", dir=self.folder))
        return Place(self.cache / server.lock, folder, free_port(), self.folder / "model.joblib")

    def script(self, server: Server) -> Path:
        """What `wrk` posts to this server."""
        if server.name not in self.scripts:
            folder = Path(tempfile.mkdtemp(prefix="w", dir=self.folder))
            self.scripts[server.name] = posting_script(folder, map(server.body, self.rows))
        return self.scripts[server.name]


def as_file(sent: Sequence[Row]) -> list[Row]:
    """Encounters as a line of the source file has them: every column of the model, `?` for unknown."""
    return [{name: encounter.get(name, "?") for name in COLUMNS} for encounter in sent]


def fit_pipeline(source: Path, bundle: Bundle) -> Pipeline:
    """The pipeline that the peers serve: as many trees, as large, as the bundle's, on the same patients."""
    with zipfile.ZipFile(source) as archive, archive.open("diabetic_data.csv") as file:
        rows = pd.read_csv(file, keep_default_na=False, low_memory=False)
    is_training = pd.Series(splits_of(rows["patient_nbr"].tolist())) == "train"
    rows = rows[is_training & ~rows["discharge_disposition_id"].isin(NOT_READMITTABLE)]
    model_lines = bundle.files[MODEL_FILE].decode().splitlines()
    leaves = [int(line.partition("=")[2]) for line in model_lines if line.startswith("num_leaves=")]
    if not leaves:
        raise SystemExit("the bundle's model is no LightGBM: the peers' would not be comparable")
    one_hot = OneHotEncoder(handle_unknown="infrequent_if_exist", min_frequency=Choices().min_value_rows)
    pipeline = make_pipeline(
        make_column_transformer(("passthrough", COUNTS), (one_hot, [name for name in COLUMNS if name not in COUNTS])),
        LGBMClassifier(n_estimators=len(leaves), num_leaves=max(leaves), learning_rate=0.03, n_jobs=1, verbose=-1),
    )
    return pipeline.fit(rows[COLUMNS], rows["readmitted"] == POSITIVE_OUTCOME)


def our_bundle(source: Path, folder: Path) -> Bundle:
    """The bundle in this folder; where there is none, the trainer's code makes it, in a minute or two."""
    if not all((folder / name).exists() for name in FILES):
        say("fitting ours")
        every = read_source(source)
        parts = {split: with_history(part.reset_index(drop=True)) for split, part in every.groupby("split")}
        choices = Choices()
        data, event = encoded(parts, choices)
        made = make_candidate("lightgbm", data, event, choices, code_version="benchmark").bundle
        folder.mkdir(parents=True, exist_ok=True)
        for name, content in made.files.items():
            (folder / name).write_bytes(content)
    return Bundle({name: (folder / name).read_bytes() for name in FILES})


def install(server: Server, cache: Path) -> None:
    """An environment from the peer's lock, unless it is there already."""
    lock = ROOT / "requirements" / f"{server.lock}.txt"
    environment, digest = cache / server.lock, hashlib.sha256(lock.read_bytes()).hexdigest()
    ready = environment / "lock.sha256"
    if ready.exists() and ready.read_text() == digest:
        return
    say(f"installing {server.package}")
    uv = os.environ.get("UV") or shutil.which("uv") or str(ROOT / ".uv" / "bin" / "uv")
    subprocess.run([uv, "venv", "--quiet", "--clear", "--python", sys.executable, str(environment)], check=True)
    command = [uv, "pip", "install", "--quiet", "--python", f"{environment}/bin/python", "--require-hashes", "-r"]
    subprocess.run([*command, str(lock)], check=True)
    ready.write_text(digest)


def versions(server: Server, cache: Path) -> str:
    """The version that was measured."""
    if server is OURS:
        return "this tree"
    told = f"import importlib.metadata as m; print(m.version('{server.package}'))"
    command = [f"{cache / server.lock}/bin/python", "-c", told]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


class Tree:
    """All processes of one server: whatever carries its mark, also what has left its parent."""

    def __init__(self, mark: str) -> None:
        self._mark = f"{MARK}={mark}".encode()

    def processes(self) -> list[Path]:
        """Their folders in `/proc`."""
        found = []
        for process in Path("/proc").glob("[0-9]*"):
            try:
                if self._mark in (process / "environ").read_bytes().split(b"\0"):
                    found.append(process)
            except OSError:  # ended meanwhile, or another user's
                continue
        return found

    def rss_mib(self) -> float:
        """Resident memory of all; pages that they share count for each."""
        told = [(process / "status").read_text() for process in self.processes()]
        return sum(int(status.partition("VmRSS:")[2].split()[0]) / 1024 for status in told if "VmRSS:" in status)

    def require_core(self, core: int) -> None:
        """End with a message if a thread may run on another core."""
        for process in self.processes():
            for thread in (process / "task").iterdir():
                try:
                    allowed = os.sched_getaffinity(int(thread.name))
                except ProcessLookupError:
                    continue
                if allowed != {core}:
                    raise SystemExit(f"{(process / 'comm').read_text()} may run on {allowed}, not on {core} alone")

    def end(self) -> None:
        """Ask, wait, and then make sure."""
        deadline = time.monotonic() + 20
        while (left := self.processes()) and time.monotonic() < deadline:
            time.sleep(0.1)
        for process in left:
            try:
                os.kill(int(process.name), 9)
            except ProcessLookupError:
                continue


@dataclass(frozen=True)
class Running:
    """A server that has given its first answer, `start_s` after its start. `output`: what it prints."""

    address: str
    tree: Tree
    start_s: float
    output: Path


@contextmanager
def running(server: Server, contest: Contest, core: int) -> Iterator[Running]:
    """Start a server on one core and wait for its first answer; nothing of it remains."""
    place = contest.place(server)
    server.prepare(place)
    mark = uuid.uuid4().hex
    environment = {
        "OMP_NUM_THREADS": "1", "PEER_MODEL": str(place.model), "PEER_BATCH": str(server.batch), MARK: mark,
        **server.variables(place),
    }  # fmt: skip
    if server is OURS:
        store = MemoryStore()
        promotion = promote(store, contest.bundle, epoch=1)
        BundleCache(place.folder).write(promotion, read_bundle(store.get, promotion.bundle))
        environment |= pod_environment(place.folder, contest.kafka, place.port, log=True)
    else:
        environment["PYTHONPATH"] = ""
    tree, address = Tree(mark), f"http://127.0.0.1:{place.port}"
    output = place.folder / "output.txt"
    with output.open("wb") as file:
        started = time.monotonic()
        process = subprocess.Popen(
            ["taskset", "-c", str(core), *server.command(place)],
            env=os.environ | environment, cwd=place.folder, stdout=file, stderr=file,
        )  # fmt: skip
    try:
        url, body = f"{address}{server.path}", server.body(contest.rows[0])
        while True:
            try:
                if httpx.post(url, json=body, timeout=10).is_success:
                    break
            except httpx.TransportError:
                pass
            if process.poll() is not None or time.monotonic() - started > _START_TIMEOUT_S:
                raise SystemExit(f"{server.name} did not start:\n{output.read_text(errors='replace')[-3000:]}")
            time.sleep(0.02)
        yield Running(address, tree, time.monotonic() - started, output)
    finally:
        process.terminate()
        try:
            process.wait(timeout=20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        tree.end()


def verify_peer(server: Server, address: str, contest: Contest) -> None:
    """End with a message unless the server answers what the pipeline says."""
    rows = contest.rows[:_VERIFIED]
    expected = contest.pipeline.predict_proba(pd.DataFrame(rows)[COLUMNS])[:, 1]
    with httpx.Client(timeout=60) as client:
        for row, risk in zip(rows, expected, strict=True):
            answer = client.post(f"{address}{server.path}", json=server.body(row)).raise_for_status().json()
            if abs(server.risk(answer) - risk) > 1e-9:
                raise SystemExit(f"{server.name} says {server.risk(answer)}, its model {risk}")


def bad_input(server: Server, address: str, row: Row) -> dict[str, str]:
    """What the server says to five things that are no encounter: the status, and the risk if it gives one."""
    without = {key: value for key, value in row.items() if key != "age"}
    sent = {
        "JSON that is cut off": json.dumps(server.body(row)).encode()[:-10],
        "no `age`": json.dumps(server.body(without)).encode(),
        "age `[900-1000)`": json.dumps(server.body({**row, "age": "[900-1000)"})).encode(),
        "-5 days in hospital": json.dumps(server.body({**row, "time_in_hospital": -5})).encode(),
        "`many` medications": json.dumps(server.body({**row, "num_medications": "many"})).encode(),
    }
    told = {}
    for what, content in sent.items():
        try:
            answer = httpx.post(
                f"{address}{server.path}", content=content, headers={"content-type": "application/json"}, timeout=60
            )
        except httpx.TransportError as error:
            told[what] = type(error).__name__
            continue
        told[what] = f"**{answer.status_code}**, risk {server.risk(answer.json()):.3f}" if answer.is_success else (
            str(answer.status_code)
        )  # fmt: skip
    return told


def one_round(server: Server, contest: Contest, options: argparse.Namespace) -> tuple[Round, dict[str, str]]:
    """Start, verify, load, look; and what it says to bad input."""
    core = cores()[-1]
    with running(server, contest, core) as up:
        if server is OURS:
            verify(up.address, contest.bundle, [server.body(row) for row in contest.rows[:500]])
        else:
            verify_peer(server, up.address, contest)
        script = contest.script(server)

        def loaded(connections: int, seconds: float) -> Load:
            try:
                return load(up.address, script, connections=connections, seconds=seconds, path=server.path)
            except SystemExit as error:
                if server is OURS:  # tells a pod that is silent from a client that does not see its answers
                    say(f"the pod counts {figure(up.address, 'predictions_total'):,.0f} predictions")
                printed = up.output.read_text(errors="replace")[-3000:]
                raise SystemExit(f"{server.name}: {error}\n{printed}") from error

        # One connection first: what 32 leave waiting at a slow server would be answered before it.
        loaded(1, 1)  # the first second of a process is not its usual one
        alone = loaded(1, options.seconds)
        busy = loaded(options.connections, options.seconds)
        up.tree.require_core(core)
        seen = Round(busy.requests_per_s, busy.p50_ms, busy.p99_ms, alone.p50_ms, up.tree.rss_mib(), up.start_s)
        if server is OURS:
            until_logged(up.address)
            if dropped := figure(up.address, "prediction_log_dropped_total"):
                say(f"the log dropped {dropped:,.0f} of {figure(up.address, 'predictions_total'):,.0f} answers")
        told = bad_input(server, up.address, contest.rows[0])
    say(f"{server.name}: {seen}")
    return seen, told


def with_users(server: Server, contest: Contest, users: int, seconds: float) -> list[str]:
    """Locust's own users for so long, once all are there: cells of the table."""
    report = Path(tempfile.mkdtemp(prefix="l", dir=contest.folder))
    with running(server, contest, cores()[-1]) as up:
        environment = os.environ | {
            "READMIT_URL": up.address, "LOCUST_SHAPE": "users", "LOCUST_SECONDS": f"{seconds + _ARRIVING_S:g}",
            "LOCUST_WORKERS": "1", "LOAD_REPORT": str(report),
            "LOCUST": str(ROOT / ".venv-locust" / "bin" / "locust"), "PYTHONPATH": "",
        }  # fmt: skip
        command = ["taskset", "-c", str(cores()[0]), str(ROOT / "infra" / "locust" / "run")]
        arrive = ["--users", str(users), "--spawn-rate", f"{users / _ARRIVING_S:g}", "--reset-stats"]
        subprocess.run([*command, *arrive], env=environment, check=False, stdout=sys.stderr)
    with (report / "stats.csv").open() as file:
        [row] = [row for row in csv.DictReader(file) if row["Name"] == "Aggregated"]
    told = [
        server.name, str(users), f"{float(row['Requests/s']):.1f}", row["50%"], f"**{row['95%']}**", row["99%"],
        f"{float(row['Max Response Time']):.0f}", f"{row['Failure Count']} of {row['Request Count']}",
    ]  # fmt: skip
    say(" | ".join(told))
    return told


def markdown(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table; the first column is text, the others are aligned to the right."""
    lines = [head, ["---", *["--:"] * (len(head) - 1)], *rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def spread(values: Sequence[float], digits: int) -> str:
    """Median and range."""
    return (
        f"{statistics.median(values):,.{digits}f} ({min(values):,.{digits}f}-{max(values):,.{digits}f})"
        if len(values) > 1
        else f"{values[0]:,.{digits}f}"
    )


def speed_table(results: dict[str, list[Round]]) -> str:
    """Medians and ranges; the ratio is taken within each round."""
    ours = results.get(OURS.name)
    lines = []
    for name, rounds in results.items():
        ratio = ""
        if ours is not None and name != OURS.name:
            ratio = spread([a.requests_per_s / b.requests_per_s for a, b in zip(ours, rounds, strict=True)], 0)
        lines.append([
            name, spread([seen.requests_per_s for seen in rounds], 0), ratio,
            *(
                spread([getattr(seen, key) for seen in rounds], digits)
                for key, digits in (
                    ("p50_ms", 1), ("p99_ms", 1), ("alone_p50_ms", 2), ("rss_mib", 0), ("start_s", 1),
                )
            ),
        ])  # fmt: skip
    head = ["", "requests/s", "ours / it", "p50 ms", "p99 ms", "p50 ms, one connection", "RSS MiB",
            "start to first answer, s"]  # fmt: skip
    return markdown(head, lines)


def measure(contest: Contest, servers: Sequence[Server], options: argparse.Namespace) -> str:
    """All rounds, then the users; the tables."""
    results: dict[str, list[Round]] = {server.name: [] for server in servers}
    told: dict[str, dict[str, str]] = {}
    for turn in range(options.rounds):
        for server in servers[:: 1 if turn % 2 == 0 else -1]:
            seen, told[server.name] = one_round(server, contest, options)
            results[server.name].append(seen)
    asked = list(next(iter(told.values())))
    text = (
        f"Medians (and ranges) of {options.rounds} rounds of {options.seconds:g} s at {options.connections} connections"
        f" and at one; {len(contest.rows):,} encounters in turn. Ours: {trees(contest.bundle)} trees; the peers'"
        f" pipeline: {contest.pipeline[-1].n_estimators} trees, {contest.pipeline[-1].n_features_in_} columns.\n\n"
        f"{speed_table(results)}\nHow each was run, on one core:\n\n"
        f"{markdown(['', 'version', 'settings'], [[s.name, versions(s, contest.cache), s.settings] for s in servers])}"
        "\nWhat each says to bad input. A risk after a 200 is one that nobody should act on:\n\n"
        f"{markdown(['', *asked], [[name, *(answers[what] for what in asked)] for name, answers in told.items()])}"
    )
    both = [server for server in (OURS, NAIVE) if server in servers]
    if options.users and both:
        subprocess.run(["make", "--quiet", "-C", str(ROOT), ".venv-locust/.ready"], check=True, stdout=sys.stderr)
        rows = [with_users(server, contest, users, options.users_seconds) for users in options.users for server in both]
        head = ["", "users", "requests/s", "p50 ms", "p95 ms", "p99 ms", "slowest ms", "failed"]
        text += (
            f"\nLocust's users, who wait 1-5 s between requests, {options.users_seconds:g} s once all are there:\n\n"
        )
        text += markdown(head, rows)
    return text


def trees(bundle: Bundle) -> int:
    """How many trees the bundle's model has."""
    return sum(line.startswith("Tree=") for line in bundle.files[MODEL_FILE].decode().splitlines())


def say(text: str) -> None:
    """Progress, beside the tables."""
    print(f"{time.strftime('%H:%M:%S')} {text}", file=sys.stderr, flush=True)


def main() -> None:
    """Install, fit, measure, print."""
    parser = load_options(__doc__, rounds=3)
    parser.set_defaults(seconds=5.0)
    parser.add_argument("--cache", type=Path, required=True, help="folder of the peers' environments and, without"
                        " --bundle, of our own, CACHE/bundle")  # fmt: skip
    parser.add_argument("--only", nargs="+", metavar="NAME", help="these peers, beside ours")
    parser.add_argument("--users", type=int, nargs="*", default=[50, 500], help="Locust's users; none: no such test")
    parser.add_argument("--users-seconds", type=float, default=60.0)
    parser.add_argument("--to", type=Path, help="a Markdown file; its part below `<!-- table -->` is replaced")
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that servers are ended
    if options.source is None:
        parser.error("--source is needed: the peers' model is fitted on it")
    known = {server.name for server in SERVERS}
    if unknown := set(options.only or ()) - known:
        parser.error(f"--only does not know {', '.join(sorted(unknown))}; there are {', '.join(sorted(known))}")
    if options.to is not None and not (options.to.is_file() and _TABLE in options.to.read_text()):
        parser.error(f"--to: {options.to} is no file with a line {_TABLE.strip()}")
    servers = [server for server in SERVERS if not options.only or server is OURS or server.name in options.only]
    cache = options.cache.resolve()
    for server in servers:
        if server is not OURS:
            install(server, cache)
    bundle = our_bundle(options.source, (options.bundle or cache / "bundle").resolve())
    say("fitting the peers' pipeline")
    pipeline = fit_pipeline(options.source, bundle)
    with ExitStack() as stack:
        # Short: Ray's sockets lie below it.
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="peers-", ignore_cleanup_errors=True)))
        joblib.dump(pipeline, folder / "model.joblib")
        everything = os.sched_getaffinity(0)
        os.sched_setaffinity(0, {cores()[0]})  # the broker is on the client's core
        kafka = stack.enter_context(embedded_kafka())
        os.sched_setaffinity(0, everything)
        asyncio.run(create_topics(kafka, [(topic.name, topic.partitions, topic.config()) for topic in TOPICS]))
        contest = Contest(as_file(encounters(options.source)), pipeline, bundle, cache, folder, kafka)
        text = measure(contest, servers, options)
    print(text)
    if options.to is not None:
        head, mark, _ = options.to.read_text().partition(_TABLE)
        options.to.write_text(f"{head}{mark}{text}")


if __name__ == "__main__":
    main()
