"""How close `/predict` comes to the ceiling: its requests/s against those of a FastAPI handler that does nothing.

Both run as one uvicorn worker, in turns, loaded by the same client (`wrk`) over the same body; only the ratio means
anything, because the machine's own speed cancels out.

    python benchmarks/serving_ceiling.py [--rounds 5] [--seconds 4] [--connections 32] [--trees 200]
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from fastapi import FastAPI

from readmit_bundle import read_bundle
from readmit_chassis.process import Process, run
from readmit_chassis.s3 import MemoryStore
from readmit_contracts.encounter import example_encounter
from readmit_inference.cache import BundleCache
from readmit_inference.testing import promote, tiny_bundle


@dataclass(frozen=True)
class Load:
    """What `wrk` saw in one round."""

    requests_per_s: float
    p99_ms: float


def no_op_app() -> FastAPI:
    """The ceiling: FastAPI answering a constant, as any tutorial writes it."""
    app = FastAPI()

    @app.get("/readyz")
    async def readyz() -> dict[str, str]:
        return {"status": "ok"}

    @app.post("/predict")
    async def predict() -> dict[str, float]:
        return {"risk": 0.1}

    return app


@contextmanager
def server(command: list[str], environment: dict[str, str], port: int) -> Iterator[str]:
    """One server process; yields its address once it is ready."""
    address = f"http://127.0.0.1:{port}"
    with subprocess.Popen(command, env=os.environ | environment, stderr=subprocess.DEVNULL) as process:
        try:
            deadline = time.monotonic() + 60
            while True:
                try:
                    with urllib.request.urlopen(f"{address}/readyz", timeout=2):  # noqa: S310  our own address
                        break
                except (urllib.error.URLError, ConnectionError):
                    if process.poll() is not None or time.monotonic() > deadline:
                        raise
                    time.sleep(0.1)
            yield address
        finally:
            process.terminate()


def load(address: str, script: Path, *, connections: int, seconds: float) -> Load:
    """Requests per second and 99th percentile, all answers being 200."""
    command = ["wrk", "-t1", f"-c{connections}", f"-d{seconds:g}s", "--latency", "-s", str(script)]
    said = subprocess.run([*command, f"{address}/predict"], check=True, capture_output=True, text=True).stdout
    if "Non-2xx" in said or "Socket errors" in said:
        raise SystemExit(f"the server failed under load:\n{said}")
    rate = re.search(r"Requests/sec:\s+([\d.]+)", said)
    p99 = re.search(r"99%\s+([\d.]+)(us|ms|s)", said)
    if rate is None or p99 is None:
        raise SystemExit(f"cannot read what wrk said:\n{said}")
    return Load(float(rate[1]), float(p99[1]) * {"us": 0.001, "ms": 1.0, "s": 1000.0}[p99[2]])


def free_port() -> int:
    """A TCP port that nobody uses just now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def compare(folder: Path, options: argparse.Namespace) -> dict[str, list[Load]]:
    """Load both servers in turns."""
    script = folder / "post.lua"
    body = json.dumps(example_encounter())
    script.write_text(
        f'wrk.method = "POST"\nwrk.headers["Content-Type"] = "application/json"\nwrk.body = [==[{body}]==]\n'
    )
    store, cache = MemoryStore(), BundleCache(folder / "cache")
    promotion = promote(store, tiny_bundle(1, family="lightgbm", trees=options.trees), epoch=1)
    cache.write(promotion, read_bundle(store.get, promotion.bundle))
    ports = free_port(), free_port()
    nowhere = "127.0.0.1:1"  # Kafka and S3 stay down: the pod answers from its cache
    environment = {
        "INFERENCE_PORT": str(ports[1]),
        "INFERENCE_CACHE_DIR": str(folder / "cache"),
        "INFERENCE_KAFKA__BOOTSTRAP_SERVERS": nowhere,
        "INFERENCE_LOG_PREDICTIONS": "false",  # its cost is benchmarks/prediction_log.py
        "INFERENCE_S3__ENDPOINT_URL": f"http://{nowhere}",
        "INFERENCE_S3__ACCESS_KEY": "none",
        "INFERENCE_S3__SECRET_KEY": "none",
    }
    results: dict[str, list[Load]] = {"no-op FastAPI": [], "/predict": []}
    with (
        server([sys.executable, __file__, "--serve-no-op", str(ports[0])], {}, ports[0]) as no_op,
        server([sys.executable, "-m", "readmit_inference"], environment, ports[1]) as predict,
    ):
        for _ in range(options.rounds):
            for name, address in zip(results, (no_op, predict), strict=True):
                results[name].append(load(address, script, connections=options.connections, seconds=options.seconds))
    return results


def main() -> None:
    """Print the table and the ratio."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=4.0)
    parser.add_argument("--connections", type=int, default=32)
    parser.add_argument("--trees", type=int, default=200)
    parser.add_argument("--serve-no-op", type=int, metavar="PORT", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.serve_no_op:
        run(no_op_app(), host="127.0.0.1", port=options.serve_no_op, process=Process())
    if shutil.which("wrk") is None:
        raise SystemExit("wrk is not installed: apt-get install wrk")
    with tempfile.TemporaryDirectory(prefix="readmit-ceiling-") as folder:
        results = compare(Path(folder), options)
    print(f"{'':14} {'requests/s':>11} {'p99 ms':>8}   (medians of {options.rounds} rounds)")
    for name, loads in results.items():
        rate, p99 = (
            statistics.median(figures) for figures in zip(*((r.requests_per_s, r.p99_ms) for r in loads), strict=True)
        )
        print(f"{name:14} {rate:11,.0f} {p99:8.2f}")
    ratios = [p.requests_per_s / n.requests_per_s for n, p in zip(*results.values(), strict=True)]
    print(f"ratio {statistics.median(ratios):.2f} (rounds {min(ratios):.2f}-{max(ratios):.2f})")


if __name__ == "__main__":
    main()
