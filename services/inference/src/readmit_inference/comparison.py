"""What the model that did not answer says of the same encounter: asked by the log, within a share of the time."""

from __future__ import annotations

import time
from typing import NamedTuple

from readmit_inference import metrics
from readmit_inference.domain import Serving
from readmit_inference.trial import Beside, check

_IN_SHADOW = metrics.CHALLENGER_ANSWERS.labels("shadow")


class OtherScore(NamedTuple):
    """What the model that did not answer says; without a risk where it failed."""

    serving: Serving
    risk: float | None
    readmitted_within_30_days: bool | None
    score_s: float


def compare(beside: Beside, other: Serving, *, risk: float, readmitted_within_30_days: bool) -> OtherScore:
    """Ask the model that did not answer, and count what comes of it; the others are what was answered."""
    if beside.has_failed:
        return OtherScore(other, None, None, 0.0)
    started = time.perf_counter()
    try:
        its_risk = other.model.score_values(beside.values)
        check(its_risk)
    except Exception as error:  # noqa: BLE001  a model on trial may fail in any way, and the log has to go on
        beside.trial.count_failure(other, error)
        return OtherScore(other, None, None, time.perf_counter() - started)
    score_s = time.perf_counter() - started
    verdict = its_risk >= other.model.threshold
    metrics.SHADOW_DIFFERENCE.observe(abs(its_risk - risk))
    if verdict != readmitted_within_30_days:
        metrics.SHADOW_FLIPS.inc()
    if beside.trial.changed.stage == "shadow":
        _IN_SHADOW.inc()
    return OtherScore(other, its_risk, verdict, score_s)


class TimeShare:
    """How long something may still take that is to have no more than a share of the time."""

    def __init__(self, share: float, saved_s: float) -> None:
        """`saved_s` is saved up at most, and is there at the start."""
        self._share = share
        self._saved_s = saved_s
        self._left_s = saved_s
        self._at = time.monotonic()

    def is_left(self) -> bool:
        """Whether any time is."""
        now = time.monotonic()
        self._left_s = min(self._saved_s, self._left_s + self._share * (now - self._at))
        self._at = now
        return self._left_s > 0

    def spend(self, took_s: float) -> None:
        """It took so long; more than was left is taken off what comes."""
        self._left_s -= took_s
