"""A pod under 80 % of its most, a reload every ten seconds: do memory and p99 stay where they are?

    python benchmarks/serving_soak.py [--minutes 10] [--load 0.8] [--every 10] [--bundle DIR DIR] [--python PYTHON]
        [--source diabetes-130-us-hospitals.zip]

A real pod as a process on the machine's last core; broker, S3 server and client on the first. Requests come at a
constant rate, and their times count from when they were due. Prints Markdown: a row per span, then the verdict.
"""

from __future__ import annotations

import statistics
import time
from contextlib import ExitStack

import numpy as np
from scipy import stats
from serving_parts import Bench, bench_options, metric

#: Rows of the table.
_SPANS = 10


def trend(values: list[float]) -> tuple[float, float]:
    """Slope per span by least squares, and half its 95 % interval."""
    fit = stats.linregress(np.arange(len(values)), values)
    return float(fit.slope), float(stats.t.ppf(0.975, len(values) - 2) * fit.stderr)


def verdict(name: str, unit: str, values: list[float], tolerated: float) -> str:
    """Whether it drifts: the slope is beyond its own noise, and by the end has come to more than is tolerated."""
    slope, off = trend(values)
    drifts = slope > off and slope * len(values) > tolerated
    return (
        f"{name}: {slope:+.3g} {unit} per span (95 % interval {slope - off:+.3g} to {slope + off:+.3g}): "
        f"{'**drifts**' if drifts else 'flat'}."
    )


def main() -> None:
    """Soak once; ends with 1 when a request failed."""
    parser = bench_options(__doc__)
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--load", type=float, default=0.8, help="share of what the pod can do")
    parser.add_argument("--every", type=float, default=10.0, help="seconds between reloads")
    options = parser.parse_args()
    seconds = options.minutes * 60
    resident: list[tuple[float, int]] = []
    load_ms: list[float] = []
    with ExitStack() as stack:
        bench = Bench(stack, options)
        pods = bench.started(1)
        rate = options.load * bench.saturation(pods)

        def reload() -> None:
            began = time.monotonic()
            due = began + options.every
            while time.monotonic() < began + seconds:
                time.sleep(1.0)
                resident.append((time.monotonic(), pods[0].rss_kib))
                if time.monotonic() >= due:
                    due += options.every
                    promotion = bench.promoter.put(bench.new_bundle())
                    bench.promoter.announce(promotion)
                    load_ms.extend(heard.loaded.load_ms for heard in bench.promoter.wait(promotion, 1))

        seen = bench.while_loaded(pods, rate, reload)
        dropped = metric(pods[0], "prediction_log_dropped_total")
    start, span_s = resident[0][0], seconds / _SPANS
    print(f"| {span_s / 60:g} min | requests | failed | p50 ms | p99 ms | RSS MiB |")
    print("|---|---|---|---|---|---|")
    p99s, sizes = [], []
    for number in range(_SPANS):
        begin, end = start + number * span_s, start + (number + 1) * span_s
        span = seen.between(begin, end)
        p99s.append(span.ms(99))
        sizes.append(statistics.median(kib for at, kib in resident if begin <= at < end) / 1024)
        figures = f"{span.ms(50):.2f} | {p99s[-1]:.2f} | {sizes[-1]:.1f}"
        print(f"| {number + 1} | {len(span.due):,} | {span.failed} | {figures} |")
    print(
        f"\n{rate:,.0f} requests/s, {options.load:.0%} of the most; {len(load_ms)} reloads of "
        f"{statistics.median(load_ms):.0f} ms; {seen.failed} of {len(seen.due):,} requests failed; {dropped:,.0f} "
        "answers lost to the log."
    )
    print(verdict("RSS", "MiB", sizes, tolerated=5.0))
    print(verdict("p99", "ms", p99s, tolerated=0.5 * statistics.median(p99s)))
    raise SystemExit(bool(seen.failed))


if __name__ == "__main__":
    main()
