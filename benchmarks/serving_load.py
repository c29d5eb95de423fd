"""What benchmarks of serving share: a server process that is ready, and `wrk` posting encounters to it."""

from __future__ import annotations

import argparse
import csv
import io
import json
import os
import re
import shutil
import subprocess
import sys
import time
import urllib.error
import urllib.request
import zipfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from readmit_bundle import Bundle
from readmit_bundle.archive import FILES
from readmit_chassis.s3 import MemoryStore
from readmit_contracts.encounter import COLUMNS, Group
from readmit_features.cleaning import clean_encounter
from readmit_features.synthetic import sample_columns
from readmit_inference.cache import BundleCache
from readmit_inference.testing import promote, tiny_bundle

_MS = {"us": 0.001, "ms": 1.0, "s": 1000.0}


@dataclass(frozen=True)
class Load:
    """What `wrk` saw in one round."""

    requests_per_s: float
    p50_ms: float
    p99_ms: float


def load_options(description: str | None, *, rounds: int) -> argparse.ArgumentParser:
    """The options of every benchmark that loads a server. Ends with a hint where `wrk` is missing."""
    if shutil.which("wrk") is None and not {"-h", "--help"} & set(sys.argv):
        raise SystemExit("wrk is not installed: apt-get install wrk")
    parser = argparse.ArgumentParser(description=(description or "").split("\n", 1)[0])
    parser.add_argument("--rounds", type=int, default=rounds)
    parser.add_argument("--seconds", type=float, default=4.0)
    parser.add_argument("--connections", type=int, default=32)
    parser.add_argument("--trees", type=int, default=200)
    parser.add_argument("--bundle", type=Path, help="a folder with bundle.json and model.txt, in place of --trees")
    parser.add_argument("--source", type=Path, help="the UCI archive, for real encounters in place of generated ones")
    return parser


def encounters(source: Path | None, rows: int = 2_000) -> list[dict[str, str | int]]:
    """Bodies for `/predict`, no two in a row alike: the first rows of the UCI archive, or of the synthetic sample."""
    if source is None:
        made = sample_columns(rows)
        cells = [dict(zip(made, row, strict=True)) for row in zip(*made.values(), strict=True)]
    else:
        with zipfile.ZipFile(source) as archive, archive.open("diabetic_data.csv") as file:
            cells = list(islice(csv.DictReader(io.TextIOWrapper(file, "utf-8")), rows))
    columns = [column for column in COLUMNS if column.group is not Group.OUTCOME]
    found = [
        {
            column.name: int(row[column.name]) if column.is_number else row[column.name]
            for column in columns
            if row[column.name] != "?"
        }
        for row in cells
    ]
    return [encounter for encounter in found if not clean_encounter(encounter).errors]  # a file may lack a diagnosis


def encounters_script(folder: Path, source: Path | None) -> Path:
    """A script for `wrk` that posts one encounter after the other as JSON. One body again and again flatters trees."""
    return posting_script(folder, encounters(source))


def posting_script(folder: Path, posted: Iterable[object]) -> Path:
    """A script for `wrk`, in this folder, that posts these bodies as JSON, one after the other."""
    bodies = folder / "bodies.txt"
    bodies.write_text("".join(f"{json.dumps(body)}\n" for body in posted))
    script = folder / "post.lua"
    script.write_text(
        f"""local requests, at = {{}}, 0
function init(arguments)
    for body in io.lines("{bodies}") do
        requests[#requests + 1] = wrk.format("POST", nil, {{["Content-Type"] = "application/json"}}, body)
    end
end
function request()
    at = at % #requests + 1
    return requests[at]
end
"""
    )
    return script


@contextmanager
def server(command: list[str], environment: dict[str, str], port: int) -> Iterator[str]:
    """One server process on one core, the last one; yields its address once it is ready."""
    with served(command, environment, port) as (address, _):
        yield address


@contextmanager
def served(command: list[str], environment: dict[str, str], port: int) -> Iterator[tuple[str, int]]:
    """The same, with the process's id."""
    address = f"http://127.0.0.1:{port}"
    with subprocess.Popen(command, env=os.environ | environment, stderr=subprocess.DEVNULL) as process:
        try:
            os.sched_setaffinity(process.pid, {cores()[-1]})
            deadline = time.monotonic() + 60
            while True:
                try:
                    with urllib.request.urlopen(f"{address}/readyz", timeout=2):  # noqa: S310  our own address
                        break
                except (urllib.error.URLError, ConnectionError):
                    if process.poll() is not None or time.monotonic() > deadline:
                        raise
                    time.sleep(0.1)
            yield address, process.pid
        finally:
            process.terminate()


def cached_pod(folder: Path, bundle: Bundle, port: int) -> dict[str, str]:
    """The environment of a pod that answers with this bundle from its cache, Kafka and S3 being down, and logs nothing.

    `python -m readmit_inference` with it is a `server`.
    """
    store = MemoryStore()
    BundleCache(folder / "cache").write(promote(store, bundle, epoch=1), bundle)
    nowhere = "127.0.0.1:1"
    return {
        "INFERENCE_PORT": str(port),
        "INFERENCE_CACHE_DIR": str(folder / "cache"),
        "INFERENCE_KAFKA__BOOTSTRAP_SERVERS": nowhere,
        "INFERENCE_LOG_PREDICTIONS": "false",  # its cost is benchmarks/prediction_log.py
        "INFERENCE_S3__ENDPOINT_URL": f"http://{nowhere}",
        "INFERENCE_S3__ACCESS_KEY": "none",
        "INFERENCE_S3__SECRET_KEY": "none",
    }


def the_bundle(options: argparse.Namespace) -> Bundle:
    """What is served: a real one, or a small one with as many trees."""
    if options.bundle is None:
        return tiny_bundle(1, family="lightgbm", trees=options.trees)
    return Bundle({name: (options.bundle / name).read_bytes() for name in FILES})


def cores() -> list[int]:
    """The cores that this benchmark may use."""
    return sorted(os.sched_getaffinity(0))


def load(address: str, script: Path, *, connections: int, seconds: float, path: str = "/predict") -> Load:
    """Requests per second, median and 99th percentile, all answers being 200. The client has the first core."""
    command = [
        "taskset",
        "-c",
        str(cores()[0]),
        "wrk",
        "-t1",
        f"-c{connections}",
        f"-d{seconds:g}s",
        "--latency",
        "--timeout=30s",  # a slow server is slow, not broken
        "-s",
        str(script),
    ]
    said = subprocess.run([*command, f"{address}{path}"], check=True, capture_output=True, text=True).stdout
    if "Non-2xx" in said or "Socket errors" in said:
        raise SystemExit(f"the server failed under load:\n{said}")
    rate = re.search(r"Requests/sec:\s+([\d.]+)", said)
    p50, p99 = (re.search(rf"{share}%\s+([\d.]+)(us|ms|s)", said) for share in (50, 99))
    if rate is None or p50 is None or p99 is None:
        raise SystemExit(f"cannot read what wrk said:\n{said}")
    if not float(rate[1]):
        raise SystemExit(f"the server answered nothing under load:\n{said}")
    return Load(float(rate[1]), *(float(found[1]) * _MS[found[2]] for found in (p50, p99)))
