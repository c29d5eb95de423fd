"""How often the monitor says that a champion is degraded: of one that is not, of one at its limit, and of worse ones.

    python benchmarks/live_degradation.py [--years N]

A year of a hospital with thirty discharges a day: encounters of which several are of one patient, risks that are right
but for what is planted from the first day on, and outcomes that are looked at in a moving window, again with every
fifty new ones. Printed is in how many of N years the event is said, and after how many outcomes in the median.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import numpy as np
from numpy.typing import NDArray

from readmit_contracts.events import ModelVersion
from readmit_monitor.clustered import auroc, in_the_large
from readmit_monitor.performance import Answer, Champion, LivePolicy, Performance, assess

ROWS_A_YEAR = 11_000
LOOK_EVERY_ROWS = 50
_ENCOUNTERS_A_PATIENT = 1.4
#: Log-odds of the risk. So spread, risks that are right have an AUROC of 0.67, and 11 % of the patients come back.
_CENTRE, _SPREAD = -2.25, 0.62
_START = datetime(2026, 1, 1, tzinfo=UTC)
_MODEL = ModelVersion(name="simulated", version="1", family="lightgbm")


@dataclass(frozen=True, slots=True)
class Truth:
    """How the outcome depends on the risk: its log-odds spread `slope` times as much, and lie `shift` higher."""

    name: str
    slope: float = 1.0
    shift: float = 0.0


RIGHT = Truth("as promoted")
TRUTHS = (
    RIGHT,
    Truth("AUROC at its limit", slope=0.815),
    Truth("AUROC 0.05 lower", slope=0.69),
    Truth("AUROC 0.10 lower", slope=0.40),
    Truth("AUROC 0.17 lower: chance", slope=0.0),
    Truth("calibration at its limit", shift=0.285),
    Truth("half as many again come back", shift=0.47),
    Truth("twice as many come back", shift=0.84),
)


def encounters(
    truth: Truth, rng: np.random.Generator, rows: int
) -> tuple[NDArray[np.bool_], NDArray[np.float64], NDArray[np.intp]]:
    """Outcome, risk and patient of each. Encounters of a patient share half of what makes the risk vary."""
    _, patient = np.unique(rng.integers(0, int(rows / _ENCOUNTERS_A_PATIENT), rows), return_inverse=True)
    drawn = (rng.normal(size=rows)[patient] + rng.normal(size=rows)) / np.sqrt(2)
    risk = 1 / (1 + np.exp(-(_CENTRE + _SPREAD * drawn)))
    chance = 1 / (1 + np.exp(-(_CENTRE + truth.shift + truth.slope * _SPREAD * drawn)))
    return rng.random(rows) < chance, risk, patient


def true_figures(truth: Truth) -> tuple[float, float]:
    """AUROC, and the share of readmissions less the mean risk, of so many encounters that chance is small."""
    drawn = encounters(truth, np.random.default_rng(0), 2_000_000)
    return auroc(*drawn).value, in_the_large(*drawn).value


def looks(truth: Truth, champion: Champion, policy: LivePolicy, seed: int) -> Iterator[tuple[int, Performance]]:
    """A year: how many outcomes there are at each look, and what it finds."""
    label, risk, patient = encounters(truth, np.random.default_rng(seed), ROWS_A_YEAR)
    known = [
        Answer(
            _START + timedelta(minutes=number), str(patient[number]), float(risk[number]), bool(label[number]), False
        )
        for number in range(ROWS_A_YEAR)
    ]
    for until in range(policy.min_rows, ROWS_A_YEAR + 1, LOOK_EVERY_ROWS):
        window = known[max(0, until - policy.window_rows) : until]
        yield until, assess(champion, window, before=frozenset(), policy=policy, now=_START)


def said_after(truth: Truth, champion: Champion, policy: LivePolicy, seed: int) -> int | None:
    """Outcomes until the event is said; None where it is not, all year."""
    return next((until for until, found in looks(truth, champion, policy, seed) if found.degraded), None)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--years", type=int, default=200, help="of each truth (default: 200)")
    parser.add_argument("--window-rows", type=int, default=LivePolicy().window_rows)
    arguments = parser.parse_args()
    policy = LivePolicy(window_rows=arguments.window_rows)
    reference, _ = true_figures(RIGHT)
    champion = Champion(epoch=1, model=_MODEL, synthetic=True, validation_auroc=reference)
    out = sys.stdout
    out.write(f"promoted with an AUROC of {reference:.3f}; {arguments.years} years of {ROWS_A_YEAR} outcomes each\n\n")
    out.write(
        "| truth | AUROC | rate less risk | years with the event | median outcomes until it |\n|---|---|---|---|---|\n"
    )
    for truth in TRUTHS:
        true_auroc, gap = true_figures(truth)
        after = [said_after(truth, champion, policy, seed) for seed in range(arguments.years)]
        said = [rows for rows in after if rows is not None]
        median = f"{np.median(said):,.0f}" if said else ""
        out.write(f"| {truth.name} | {true_auroc:.3f} | {gap:+.3f} | {len(said)} of {arguments.years} | {median} |\n")
        out.flush()


if __name__ == "__main__":
    main()
