"""What a reload costs those who ask meanwhile, how soon a promotion is served, what is left in memory, how pods start.

Real pods as processes, a broker of the Kafka protocol and an S3 server. The pods share the machine's last core, all
else has the first. Each promoted bundle is one that the pods do not have, unless the row says rollback.

    python benchmarks/serving_reload.py [--bundle DIR DIR] [--python PYTHON] [--only load pods memory start]
        [--source diabetes-130-us-hospitals.zip] [--outage 60]

`--python` is the interpreter of the pods: one with requirements/inference.txt and nothing else is what images have.
Without `--bundle`, two LightGBM models of 436 and 400 trees are made of the synthetic sample. `--outage` also takes
Kafka and S3 away for so many seconds. Prints Markdown; only ratios mean anything on a machine that does other things.
"""

from __future__ import annotations

import argparse
import random
import shutil
import statistics
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from itertools import cycle

import numpy as np
from serving_parts import Bench, Pod, bench_options, growth, metric

from readmit_bundle import load_model, read_bundle
from readmit_chassis.s3 import S3Store
from readmit_contracts.events import ModelPromoted
from readmit_inference.testing import ROOT

_PODS = 4
_POLLED_EVERY_S = 5.0
_ALIAS = f"{ROOT}/champion.json"
#: How many bundles take turns where there are more reloads than disk: a pod has two of them at most.
_TURNS = 8
#: Between reloads under load.
_APART_S = 3.0


def measure_load(bench: Bench, options: argparse.Namespace) -> Iterator[str]:
    """What requests wait in the second of a reload, against other seconds."""
    pods = bench.started(1)
    most = bench.saturation(pods)
    yield "| one pod, one core | requests/s | failed | p50 ms | p99 ms | p99 ms in a reload's second | of p99 |"
    yield "|---|---|---|---|---|---|---|"
    for name, rate in (("saturated", None), ("80 % of that", 0.8 * most)):
        began: list[float] = []

        def reload(began: list[float] = began) -> None:
            time.sleep(_APART_S)
            for _ in range(options.reloads):
                promotion = bench.promoter.put(bench.new_bundle())
                began.append(bench.promoter.announce(promotion))
                bench.promoter.wait(promotion, 1)
                time.sleep(max(0.0, began[-1] + _APART_S - time.monotonic()))

        seen = bench.while_loaded(pods, rate, reload)
        # The second before the bundle is put, and the one from the announcement on.
        steady = [seen.between(at - 1.5, at - 0.5) for at in began]
        inside = [seen.between(at, at + 1.0) for at in began]
        p50, before, during = (
            statistics.median(each.ms(percent) for each in spans)
            for spans, percent in ((steady, 50), (steady, 99), (inside, 99))
        )
        ratios = [a.ms(99) / b.ms(99) for a, b in zip(inside, steady, strict=True)]
        yield (
            f"| {name} | {seen.rate:,.0f} | {seen.failed} of {len(seen.due):,} | {p50:.1f} | {before:.1f} "
            f"| {during:.1f} | {statistics.median(ratios):.2f} ({min(ratios):.2f}-{max(ratios):.2f}) |"
        )
    yield f"\nMedians of {options.reloads} reloads. At a constant rate, times count from when a request was due."
    stop(pods)


def measure_pods(bench: Bench, options: argparse.Namespace) -> Iterator[str]:
    """From a promotion to the last pod's `model.loaded`, and what peers take."""
    pods = bench.started(_PODS)
    rate = 0.8 * bench.saturation(pods)
    times: dict[str, list[float]] = {"promotion": [], "rollback to the model before": []}
    swaps: list[float] = []

    def promote() -> None:
        current = bench.promoter.put(bench.new_bundle())
        bench.promoter.settle(current, _PODS)
        for _ in range(options.promotions):
            time.sleep(0.5)
            new = bench.promoter.put(bench.new_bundle())
            times["promotion"].append(bench.promoter.settle(new, _PODS))
            time.sleep(0.5)
            current = bench.promoter.again(current)
            times["rollback to the model before"].append(bench.promoter.settle(current, _PODS))
            swaps.extend(heard.loaded.load_ms for heard in bench.promoter.wait(current, _PODS))

    seen = bench.while_loaded(pods, rate, promote)
    polled = list(polls(bench, options.polled))
    restarts = list(rolling_restart(bench, pods))
    yield f"| until the last of {_PODS} pods serves it | p50 s | p95 s | n |"
    yield "|---|---|---|---|"
    for name, found in times.items():
        yield f"| {name} | {np.percentile(found, 50):.3f} | {np.percentile(found, 95):.3f} | {len(found)} |"
    yield (
        f"| an alias polled every {_POLLED_EVERY_S:g} s | {np.percentile(polled, 50):.1f} | "
        f"{np.percentile(polled, 95):.1f} | {len(polled)} |"
    )
    yield f"| restart of one pod after the other | {sum(restarts):.1f} | | 1 |"
    yield (
        f"\nUnder {seen.rate:,.0f} requests/s, 80 % of what the pods can do on their core: {seen.failed} of "
        f"{len(seen.due):,} failed. The swap itself takes a pod {np.percentile(swaps, 50):.2f} ms (p95 "
        f"{np.percentile(swaps, 95):.2f}) in a rollback. Polling takes {_POLLED_EVERY_S * 0.8:g} s on average until "
        f"the last of {_PODS}; with 30 s it would be 24. One restart, without a cache: "
        f"{statistics.median(restarts):.1f} s."
    )
    stop(pods)


def polls(bench: Bench, rounds: int) -> Iterator[float]:
    """How long it takes until the last of so many pollers has loaded what an alias in S3 names."""
    store, latest = S3Store(bench.parts.s3), threading.Condition()
    loaded: list[int] = []
    stopped = threading.Event()

    def poll() -> None:
        mine, have = S3Store(bench.parts.s3), 0
        stopped.wait(random.uniform(0, _POLLED_EVERY_S))
        while not stopped.is_set():
            promotion = ModelPromoted.model_validate_json(mine.get(_ALIAS))
            if promotion.epoch > have:
                load_model(read_bundle(mine.get, promotion.bundle)).check_golden()
                have = promotion.epoch
                with latest:
                    loaded.append(have)
                    latest.notify_all()
            stopped.wait(_POLLED_EVERY_S)

    def name(promotion: ModelPromoted) -> None:
        store.put(_ALIAS, promotion.model_dump_json().encode())

    name(bench.promoter.put(bench.new_bundle()))
    pollers = [threading.Thread(target=poll) for _ in range(_PODS)]
    for poller in pollers:
        poller.start()
    time.sleep(_POLLED_EVERY_S + 1)
    for _ in range(rounds):
        promotion = bench.promoter.put(bench.new_bundle())
        time.sleep(random.uniform(0, _POLLED_EVERY_S))
        began = time.monotonic()
        name(promotion)
        with latest:
            latest.wait_for(lambda: loaded.count(promotion.epoch) == _PODS, 60)  # noqa: B023  awaited at once
        yield time.monotonic() - began
    stopped.set()
    for poller in pollers:
        poller.join()


def rolling_restart(bench: Bench, pods: list[Pod]) -> Iterator[float]:
    """What each pod takes to stop, start and have its model from S3."""
    for pod in pods:
        began = time.monotonic()
        pod.stop()
        shutil.rmtree(bench.folder / pod.name)
        pod.start()
        yield pod.until("/readyz") - began


def measure_memory(bench: Bench, options: argparse.Namespace) -> Iterator[str]:
    """Resident memory over many reloads."""
    pods = bench.started(1)
    turns = cycle([bench.promoter.put(bench.new_bundle()) for _ in range(_TURNS)])
    resident: list[int] = []

    def reload() -> None:
        for _ in range(options.memory_reloads):
            bench.promoter.settle(bench.promoter.again(next(turns)), 1)
            resident.append(pods[0].rss_kib)

    seen = bench.while_loaded(pods, 200.0, reload)
    marks = sorted({round(at) for at in np.linspace(0, len(resident) - 1, 11)})
    yield "| reloads | " + " | ".join(f"{mark + 1:,}" for mark in marks) + " |"
    yield "|---" * (len(marks) + 1) + "|"
    yield "| RSS MiB | " + " | ".join(f"{resident[mark] / 1024:.1f}" for mark in marks) + " |"
    per_reload, off = growth(resident[len(resident) // 5 :])
    yield (
        f"\nFrom the first fifth on: {per_reload:+.2f} KiB per reload (95 % interval {per_reload - off:+.2f} to "
        f"{per_reload + off:+.2f}), with 200 requests/s, of which {seen.failed} of {len(seen.due):,} failed. "
        "Models that stayed would be some MiB each."
    )
    stop(pods)


def measure_start(bench: Bench, options: argparse.Namespace) -> Iterator[str]:
    """From the process to a ready pod, its bundle cached, and what it then takes."""
    (pod,) = bench.started(1)
    ready, resident, own = [], [], []
    for _ in range(options.starts):
        pod.stop()
        began = time.monotonic()
        pod.start()
        ready.append(pod.until("/readyz") - began)
        time.sleep(3.0)
        resident.append(pod.rss_kib / 1024)
        own.append(pod.own_kib / 1024)
    yield f"| median of {len(ready)} starts | asked | measured |"
    yield "|---|---|---|"
    yield (
        f"| start to ready, bundle cached | < 2 s | {statistics.median(ready):.2f} s "
        f"({min(ready):.2f}-{max(ready):.2f}) |"
    )
    yield f"| resident memory of a ready pod | < 150 MB | {statistics.median(resident) * 1.048576:.0f} MB |"
    yield f"| of that, its own | | {statistics.median(own) * 1.048576:.0f} MB |"
    stop([pod])


def measure_outage(bench: Bench, options: argparse.Namespace) -> Iterator[str]:
    """Kafka and S3 away for a while, requests going on, and what happens when they are back."""
    pods = bench.started(1)
    rate = 0.5 * bench.saturation(pods)
    away_s = options.outage
    spans: dict[str, tuple[float, float]] = {}
    caught_up: list[float] = []

    def outage() -> None:
        time.sleep(5)
        promotion = bench.promoter.put(bench.new_bundle())
        shut = time.monotonic()
        bench.parts.shut()
        time.sleep(away_s)
        bench.parts.open()
        back = time.monotonic()
        spans.update(before=(shut - 4, shut), away=(shut, back), after=(back, back + 5))
        bench.promoter.announce_when_back(promotion)
        caught_up.append(bench.promoter.wait(promotion, 1)[0].at - back)
        time.sleep(max(0.0, back + 5 - time.monotonic()))

    seen = bench.while_loaded(pods, rate, outage)
    yield f"| Kafka and S3 away for {away_s:g} s | failed | p50 ms | p99 ms |"
    yield "|---|---|---|---|"
    for name, (start, end) in spans.items():
        span = seen.between(start, end)
        yield f"| {name} | {span.failed} of {len(span.due):,} | {span.ms(50):.1f} | {span.ms(99):.1f} |"
    dropped = metric(pods[0], "prediction_log_dropped_total")
    yield (
        f"\nBack, a promotion was served after {caught_up[0]:.1f} s. Answers lost to the log: {dropped:,.0f} "
        f"(10,000 wait at most)."
    )
    stop(pods)


def stop(pods: list[Pod]) -> None:
    """They would take the others' time."""
    for pod in pods:
        pod.stop()


MEASUREMENTS: dict[str, Callable[[Bench, argparse.Namespace], Iterator[str]]] = {
    "load": measure_load,
    "pods": measure_pods,
    "memory": measure_memory,
    "start": measure_start,
}


def main() -> None:
    """Print a table for each measurement."""
    parser = bench_options(__doc__)
    parser.add_argument("--only", nargs="*", choices=MEASUREMENTS, default=list(MEASUREMENTS))
    parser.add_argument("--reloads", type=int, default=10, help="of `load`")
    parser.add_argument("--promotions", type=int, default=30, help="of `pods`")
    parser.add_argument("--polled", type=int, default=10, help="of `pods`: promotions that are polled for")
    parser.add_argument("--memory-reloads", type=int, default=1000)
    parser.add_argument("--starts", type=int, default=5)
    parser.add_argument("--outage", type=float, help="seconds without Kafka and S3; none: not measured")
    options = parser.parse_args()
    chosen = [MEASUREMENTS[name] for name in options.only] + ([measure_outage] if options.outage else [])
    with ExitStack() as stack:
        bench = Bench(stack, options)
        for measure in chosen:
            for line in measure(bench, options):
                print(line, flush=True)
            print(flush=True)


if __name__ == "__main__":
    main()
