"""What a model on trial costs those who ask: latency of `/predict` with a shadow, with a canary and with neither.

One pod on the machine's last core, everything else on the first; the three take turns in the same load, so that the
machine's own speed cancels out. Champion and challenger are two LightGBM models of some 400 trees.

    python benchmarks/rollout.py [--bundle DIR DIR] [--python PYTHON] [--rounds 8] [--seconds 3]

Prints Markdown; only ratios mean anything on a machine that does other things.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack

from serving_parts import Bench, Pod, bench_options, metric

_TURNS = ("neither", "shadow", "canary")
#: Of the patients, in the canary.
_SHARE = 0.5
#: For what the turn before has left in the log.
_SETTLING_S = 0.5


def measure(bench: Bench, options: argparse.Namespace) -> Iterator[str]:
    """A table for each of two loads."""
    pods = bench.started(1)
    challenger = bench.new_bundle()
    most = bench.saturation(pods)
    rounds = f"{options.rounds} rounds of {options.seconds:g} s"
    yield f"| {rounds} | requests/s | failed | p50 ms | p99 ms | of neither's p99 |"
    yield "|---|---|---|---|---|---|"
    for name, rate in (("saturated", None), ("half of that", 0.5 * most)):
        spans: dict[str, list[tuple[float, float]]] = {turn: [] for turn in _TURNS}

        def take_turns(spans: dict[str, list[tuple[float, float]]] = spans) -> None:
            for number in range(options.rounds):
                for turn in _TURNS[:: 1 if number % 2 else -1]:
                    stage = "ended" if turn == "neither" else turn
                    bench.promoter.try_out(challenger, stage, _SHARE if turn == "canary" else 0.0)  # type: ignore[arg-type]
                    _until(pods[0], turn)
                    time.sleep(_SETTLING_S)
                    began = time.monotonic()
                    time.sleep(options.seconds)
                    spans[turn].append((began, time.monotonic()))

        before = _counts(pods[0])
        seen = bench.while_loaded(pods, rate, take_turns)
        counts = {name: count - before[name] for name, count in _counts(pods[0]).items()}
        found = {turn: [seen.between(*span) for span in each] for turn, each in spans.items()}
        for turn, each in found.items():
            ratios = [on.ms(99) / off.ms(99) for on, off in zip(each, found["neither"], strict=True)]
            p50, p99 = (statistics.median(span.ms(percent) for span in each) for percent in (50, 99))
            yield (
                f"| {name}, {turn} | {statistics.median(span.rate for span in each):,.0f} "
                f"| {sum(span.failed for span in each)} | {p50:.2f} | {p99:.2f} "
                f"| {statistics.median(ratios):.2f} ({min(ratios):.2f}-{max(ratios):.2f}) |"
            )
        told = ", ".join(f"{count:,.0f} {what}" for what, count in counts.items())
        yield f"| of the other model's answers: {told} | | | | | |"
    for pod in pods:
        pod.stop()


def _until(pod: Pod, turn: str) -> None:
    """Wait until the pod does so."""
    deadline = time.monotonic() + 30
    while _stage(pod) != turn:
        if time.monotonic() > deadline:
            raise SystemExit(f"the pod does not follow: {turn}")
        time.sleep(0.05)


def _stage(pod: Pod) -> str:
    with urllib.request.urlopen(f"{pod.address}/model", timeout=10) as answer:  # noqa: S310  our own address
        challenger = json.load(answer)["challenger"]
    return "neither" if challenger is None else str(challenger["rollout"]["stage"])


def _counts(pod: Pod) -> dict[str, float]:
    names = {
        "compared": "shadow_difference_count",
        "skipped": "shadow_skipped_total",
        "lost to the log": "prediction_log_dropped_total",
        "failed": "challenger_failures_total",
    }
    return {told: metric(pod, name) for told, name in names.items()}


def main() -> None:
    """Print the table."""
    parser = bench_options(__doc__)
    parser.add_argument("--rounds", type=int, default=8)
    parser.add_argument("--seconds", type=float, default=3.0)
    options = parser.parse_args()
    with ExitStack() as stack:
        bench = Bench(stack, options)
        for line in measure(bench, options):
            print(line, flush=True)


if __name__ == "__main__":
    main()
