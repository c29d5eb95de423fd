"""What the prediction log costs a request: requests/s, processor time and p99 of `/predict`, on against off.

Two pods, alike but for the log, one uvicorn worker each, loaded in turns by the same client (`wrk`) over the same body,
while a broker takes the events. Only the ratios mean anything, because the machine's own speed cancels out; the
processor time is the steadiest of them, where other programs run beside.

    python benchmarks/prediction_log.py [--rounds 9] [--seconds 4] [--connections 32] [--trees 200]
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from readmit_bundle import read_bundle
from readmit_chassis.kafka import create_topics
from readmit_chassis.s3 import MemoryStore
from readmit_chassis.testing import embedded_kafka, free_port
from readmit_contracts.encounter import example_encounter
from readmit_contracts.topics import TOPICS
from readmit_inference.cache import BundleCache
from readmit_inference.testing import promote, tiny_bundle


@dataclass(frozen=True)
class Load:
    """One round: what `wrk` saw, and the processor time that the pod spent on a request."""

    requests_per_s: float
    p99_ms: float
    cpu_us: float


@contextmanager
def pod(folder: Path, kafka: str, *, log: bool) -> Iterator[str]:
    """One inference process with a model in its cache; yields its address once it answers."""
    port = free_port()
    environment = {
        "INFERENCE_PORT": str(port),
        "INFERENCE_POD_ID": folder.name,
        "INFERENCE_CACHE_DIR": str(folder),
        "INFERENCE_KAFKA__BOOTSTRAP_SERVERS": kafka,
        "INFERENCE_KAFKA__IDEMPOTENT_PRODUCER": "false",
        "INFERENCE_S3__ENDPOINT_URL": "http://127.0.0.1:1",
        "INFERENCE_S3__ACCESS_KEY": "none",
        "INFERENCE_S3__SECRET_KEY": "none",
        "INFERENCE_LOG_PREDICTIONS": str(log).lower(),
        "INFERENCE_PSEUDONYM_KEY": "a key of the benchmark's own",
    }
    command = [sys.executable, "-m", "readmit_inference"]
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
    cpu_s, answered = figure(address, "process_cpu_seconds_total"), figure(address, "predictions_total")
    said = subprocess.run([*command, f"{address}/predict"], check=True, capture_output=True, text=True).stdout
    until_logged(address)
    cpu_s = figure(address, "process_cpu_seconds_total") - cpu_s
    answered = figure(address, "predictions_total") - answered
    if "Non-2xx" in said or "Socket errors" in said:
        raise SystemExit(f"the server failed under load:\n{said}")
    rate = re.search(r"Requests/sec:\s+([\d.]+)", said)
    p99 = re.search(r"99%\s+([\d.]+)(us|ms|s)", said)
    if rate is None or p99 is None:
        raise SystemExit(f"cannot read what wrk said:\n{said}")
    p99_ms = float(p99[1]) * {"us": 0.001, "ms": 1.0, "s": 1000.0}[p99[2]]
    return Load(float(rate[1]), p99_ms, cpu_s / answered * 1e6)


def figure(address: str, name: str) -> float:
    """A sample of the pod's metrics, summed over its labels."""
    with urllib.request.urlopen(f"{address}/metrics", timeout=10) as answer:  # noqa: S310  our own address
        lines = answer.read().decode().splitlines()
    return sum(float(line.rpartition(" ")[2]) for line in lines if re.match(rf"{name}[{{ ]", line))


def until_logged(address: str, timeout_s: float = 30.0) -> None:
    """Wait until nothing of the log is left in the pod's memory."""
    deadline = time.monotonic() + timeout_s
    while figure(address, "prediction_log_buffered_events"):
        if time.monotonic() > deadline:
            raise SystemExit("the log does not drain")
        time.sleep(0.05)


def main() -> None:
    """Print the table, the ratios and what became of the events."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--seconds", type=float, default=4.0)
    parser.add_argument("--connections", type=int, default=32)
    parser.add_argument("--trees", type=int, default=200)
    options = parser.parse_args()
    if shutil.which("wrk") is None:
        raise SystemExit("wrk is not installed: apt-get install wrk")
    results: dict[str, list[Load]] = {"log off": [], "log on": []}
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="readmit-log-")))
        script = folder / "post.lua"
        body = json.dumps(example_encounter())
        script.write_text(
            f'wrk.method = "POST"\nwrk.headers["Content-Type"] = "application/json"\nwrk.body = [==[{body}]==]\n'
        )
        store = MemoryStore()
        promotion = promote(store, tiny_bundle(1, family="lightgbm", trees=options.trees), epoch=1)
        for name in results:
            BundleCache(folder / name).write(promotion, read_bundle(store.get, promotion.bundle))
        kafka = stack.enter_context(embedded_kafka())
        asyncio.run(create_topics(kafka, [(topic.name, topic.partitions, topic.config()) for topic in TOPICS]))
        pods = {name: stack.enter_context(pod(folder / name, kafka, log=name == "log on")) for name in results}
        for address in pods.values():  # the first seconds of a process are not its usual ones
            load(address, script, connections=options.connections, seconds=1)
        for turn in range(options.rounds):
            for name in list(results)[:: 1 if turn % 2 else -1]:
                results[name].append(load(pods[name], script, connections=options.connections, seconds=options.seconds))
        logging = pods["log on"]
        answered = figure(logging, "predictions_total")
        published = figure(logging, "prediction_log_published_total")
        dropped = figure(logging, "prediction_log_dropped_total")
    print(f"{'':10} {'requests/s':>11} {'p99 ms':>8} {'CPU us':>8}   (medians of {options.rounds} rounds)")
    for name, loads in results.items():
        rate = statistics.median(seen.requests_per_s for seen in loads)
        p99 = statistics.median(seen.p99_ms for seen in loads)
        cpu_us = statistics.median(seen.cpu_us for seen in loads)
        print(f"{name:10} {rate:11,.0f} {p99:8.2f} {cpu_us:8.0f}")
    pairs = list(zip(results["log on"], results["log off"], strict=True))
    for what, ratios in (
        ("requests/s", [on.requests_per_s / off.requests_per_s for on, off in pairs]),
        ("CPU a request", [on.cpu_us / off.cpu_us for on, off in pairs]),
        ("p99", [on.p99_ms / off.p99_ms for on, off in pairs]),
    ):
        print(f"{what} on / off: {statistics.median(ratios):.3f} (rounds {min(ratios):.2f}-{max(ratios):.2f})")
    print(f"answered {answered:,.0f}, published {published:,.0f}, dropped {dropped:,.0f}")


if __name__ == "__main__":
    main()
