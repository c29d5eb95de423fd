"""What the prediction log costs a request: requests/s, processor time and p99 of `/predict`, on against off.

Two pods, alike but for the log, one uvicorn process each, loaded in turns by the same client (`wrk`) with the same
encounters, while a broker takes the events. Only the ratios mean anything, because the machine's own speed cancels out;
the processor time is the steadiest of them, where other programs run beside.

    python benchmarks/prediction_log.py [--rounds 15] [--seconds 4] [--connections 32] [--trees 200 | --bundle DIR]
"""

from __future__ import annotations

import asyncio
import math
import re
import statistics
import sys
import tempfile
import time
import urllib.request
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass
from pathlib import Path

from serving_load import encounters_script, load, load_options, server, the_bundle

from readmit_bundle import read_bundle
from readmit_chassis.kafka import create_topics
from readmit_chassis.s3 import MemoryStore
from readmit_chassis.testing import embedded_kafka, free_port
from readmit_contracts.topics import TOPICS
from readmit_inference.cache import BundleCache
from readmit_inference.testing import promote


@dataclass(frozen=True)
class Round:
    """One round: what `wrk` saw, and the processor time that the pod spent on a request."""

    requests_per_s: float
    p99_ms: float
    cpu_us: float


def pod(folder: Path, kafka: str, *, log: bool) -> AbstractContextManager[str]:
    """One inference process with a model in its cache; its address once it answers."""
    port = free_port()
    return server([sys.executable, "-m", "readmit_inference"], pod_environment(folder, kafka, port, log=log), port)


def pod_environment(folder: Path, kafka: str, port: int, *, log: bool) -> dict[str, str]:
    """The variables of a pod whose model is in the cache folder; S3 is down."""
    return {
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


def one_round(address: str, script: Path, *, connections: int, seconds: float) -> Round:
    """Load the pod, and read what it spent."""
    cpu_s, answered = figure(address, "process_cpu_seconds_total"), figure(address, "predictions_total")
    seen = load(address, script, connections=connections, seconds=seconds)
    until_logged(address)
    cpu_s = figure(address, "process_cpu_seconds_total") - cpu_s
    answered = figure(address, "predictions_total") - answered
    return Round(seen.requests_per_s, seen.p99_ms, cpu_s / answered * 1e6)


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


def interval_of_median(values: list[float]) -> tuple[float, float]:
    """The median's 95 % interval, whatever the distribution: between two of the values (sign test, as a normal one)."""
    beyond = int((len(values) - 1.96 * math.sqrt(len(values))) / 2)
    ordered = sorted(values)
    return ordered[max(0, beyond)], ordered[min(len(values) - 1, len(values) - 1 - beyond)]


def main() -> None:
    """Print the table, the ratios and what became of the events."""
    options = load_options(__doc__, rounds=15).parse_args()
    results: dict[str, list[Round]] = {"log off": [], "log on": []}
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="readmit-log-")))
        script = encounters_script(folder, options.source)
        store = MemoryStore()
        promotion = promote(store, the_bundle(options), epoch=1)
        for name in results:
            BundleCache(folder / name).write(promotion, read_bundle(store.get, promotion.bundle))
        kafka = stack.enter_context(embedded_kafka())
        asyncio.run(create_topics(kafka, [(topic.name, topic.partitions, topic.config()) for topic in TOPICS]))
        pods = {name: stack.enter_context(pod(folder / name, kafka, log=name == "log on")) for name in results}
        for address in pods.values():  # the first seconds of a process are not its usual ones
            one_round(address, script, connections=options.connections, seconds=1)
        for turn in range(options.rounds):
            for name in list(results)[:: 1 if turn % 2 else -1]:
                results[name].append(
                    one_round(pods[name], script, connections=options.connections, seconds=options.seconds)
                )
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
        low, high = interval_of_median(ratios)
        print(
            f"{what} on / off: {statistics.median(ratios):.3f}"
            f" (95 % interval {low:.3f}-{high:.3f}, rounds {min(ratios):.2f}-{max(ratios):.2f})"
        )
    print(f"answered {answered:,.0f}, published {published:,.0f}, dropped {dropped:,.0f}")


if __name__ == "__main__":
    main()
