"""The judgement on outcomes: whether the champion does in service what it was promoted for. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from statistics import NormalDist
from typing import Literal

import numpy as np
from pydantic import AwareDatetime, BaseModel, ConfigDict

from readmit_contracts.events import ModelVersion
from readmit_monitor.clustered import Estimate, auroc, in_the_large

FigureName = Literal["auroc", "calibration_in_the_large"]
AUROC: FigureName = "auroc"
IN_THE_LARGE: FigureName = "calibration_in_the_large"

#: Ends of intervals that may raise an alarm: the upper one of AUROC, both of calibration in the large.
_ENDS = 3


@dataclass(frozen=True, slots=True)
class LivePolicy:
    """What it takes to say that the champion does worse than it was promoted for."""

    window_rows: int = 2_000  #: the newest predictions with an outcome that are looked at together
    min_rows: int = 500  #: fewer, without those on which somebody acted, are not judged
    min_patients_per_class: int = 30  #: nor are fewer patients with, or without, a readmission
    max_auroc_loss: float = 0.03
    max_calibration_error: float = 0.03
    outcomes_after: timedelta = timedelta(days=30)  #: younger predictions are not judged
    kept_for: timedelta = timedelta(days=90)  #: since the prediction
    false_alarms: float = 0.001  #: how often, at most, chance alone puts one look at a champion at its limit beyond it
    recovers_at: float = 0.5  #: share of what may be lost that a degraded figure must come back to

    @property
    def standard_errors(self) -> float:
        """Half of an interval."""
        return NormalDist().inv_cdf(1 - self.false_alarms / _ENDS)


class Champion(BaseModel):
    """What serves, and what its promotion measured on validation patients; None where the event does not say."""

    model_config = ConfigDict(frozen=True)

    epoch: int
    model: ModelVersion
    synthetic: bool
    validation_auroc: float | None


@dataclass(frozen=True, slots=True)
class Answer:
    """A prediction whose outcome is known. `patient`: the same for all of one patient."""

    at: datetime
    patient: str
    risk: float
    readmitted: bool
    intervened: bool


class State(StrEnum):
    """How a judgement ends."""

    NO_CHAMPION = "no_champion"  #: none was heard of
    TOO_FEW = "too_few"  #: outcomes, or patients of either
    SOUND = "sound"
    DEGRADED = "degraded"


class LiveFigure(BaseModel):
    """A figure with its interval. `limit` is what the whole interval must lie beyond to count as degraded.

    `reference` and `limit` are None where the promotion did not say what was measured: such a figure is only shown.
    """

    model_config = ConfigDict(frozen=True)

    name: FigureName
    value: float
    low: float
    high: float
    reference: float | None
    limit: float | None
    degraded: bool


class Performance(BaseModel):
    """One judgement; `figures` are empty unless the state is sound or degraded."""

    model_config = ConfigDict(frozen=True)

    state: State
    evaluated_at: AwareDatetime
    min_rows: int
    min_patients_per_class: int
    model: ModelVersion | None = None
    epoch: int | None = None
    synthetic: bool | None = None
    window_rows: int = 0
    window_positives: int = 0
    patients_readmitted: int = 0
    patients_not_readmitted: int = 0
    intervened: int = 0  #: left out of the window's rows
    window_from: AwareDatetime | None = None
    window_to: AwareDatetime | None = None
    readmission_rate: float | None = None
    risk_mean: float | None = None
    figures: tuple[LiveFigure, ...] = ()

    @property
    def degraded(self) -> tuple[LiveFigure, ...]:
        """What is worse than its limit."""
        return tuple(figure for figure in self.figures if figure.degraded)


def assess(
    champion: Champion | None,
    known: Sequence[Answer],
    *,
    before: frozenset[str],
    policy: LivePolicy,
    now: datetime,
) -> Performance:
    """Judge the champion by its own answers with an outcome. `before`: what was degraded until now.

    Where somebody acted on a prediction, the outcome does not tell whether it was right: these are left out.
    """
    seen = Performance(
        state=State.NO_CHAMPION,
        evaluated_at=now,
        min_rows=policy.min_rows,
        min_patients_per_class=policy.min_patients_per_class,
    )
    if champion is None:
        return seen
    rows = [answer for answer in known if not answer.intervened]
    _, patient = np.unique([answer.patient for answer in rows], return_inverse=True)
    label = np.array([answer.readmitted for answer in rows], dtype=bool)
    risk = np.array([answer.risk for answer in rows], dtype=float)
    with_one, without = len(np.unique(patient[label])), len(np.unique(patient[~label]))
    seen = seen.model_copy(
        update={
            "state": State.TOO_FEW,
            **{name: getattr(champion, name) for name in ("model", "epoch", "synthetic")},
            "window_rows": len(rows),
            "window_positives": int(label.sum()),
            "patients_readmitted": with_one,
            "patients_not_readmitted": without,
            "intervened": len(known) - len(rows),
            "window_from": min((answer.at for answer in rows), default=None),
            "window_to": max((answer.at for answer in rows), default=None),
            "readmission_rate": float(label.mean()) if rows else None,
            "risk_mean": float(risk.mean()) if rows else None,
        }
    )
    if len(rows) < policy.min_rows or min(with_one, without) < max(2, policy.min_patients_per_class):
        return seen
    figures = (
        _discrimination(auroc(label, risk, patient), champion.validation_auroc, before, policy),
        _calibration(in_the_large(label, risk, patient), before, policy),
    )
    worse = any(figure.degraded for figure in figures)
    return seen.model_copy(update={"state": State.DEGRADED if worse else State.SOUND, "figures": figures})


def carried(last: Performance | None, degraded: frozenset[str], champion: Champion | None) -> frozenset[str]:
    """What a judgement starts from: what another champion has lost says nothing of this one."""
    same = last is not None and champion is not None and last.epoch == champion.epoch
    return degraded if same else frozenset()


def newly_degraded(performance: Performance, before: frozenset[str]) -> bool:
    """Whether a figure is degraded that was not until now: what is worth an event."""
    return any(figure.name not in before for figure in performance.degraded)


def still_degraded(performance: Performance, before: frozenset[str]) -> frozenset[str]:
    """What is degraded by now; what could not be judged is as it was."""
    judged = {figure.name for figure in performance.figures}
    return frozenset(figure.name for figure in performance.degraded) | (before - judged)


def _discrimination(found: Estimate, reference: float | None, before: frozenset[str], policy: LivePolicy) -> LiveFigure:
    low, high = _interval(found, policy, 0.0, 1.0)
    limit, degraded = None, False
    if reference is not None:
        limit = reference - policy.max_auroc_loss
        # Once degraded, it takes a clear return to be sound again: no flutter around the limit.
        back = reference - policy.max_auroc_loss * policy.recovers_at
        degraded = found.value < back if AUROC in before else high < limit
    return LiveFigure(
        name=AUROC, value=found.value, low=low, high=high, reference=reference, limit=limit, degraded=degraded
    )


def _calibration(found: Estimate, before: frozenset[str], policy: LivePolicy) -> LiveFigure:
    low, high = _interval(found, policy, -1.0, 1.0)
    allowed = policy.max_calibration_error
    if IN_THE_LARGE in before:
        degraded = abs(found.value) > allowed * policy.recovers_at
    else:
        degraded = low > allowed or high < -allowed
    limit = allowed if found.value >= 0 else -allowed
    return LiveFigure(
        name=IN_THE_LARGE, value=found.value, low=low, high=high, reference=0.0, limit=limit, degraded=degraded
    )


def _interval(found: Estimate, policy: LivePolicy, least: float, most: float) -> tuple[float, float]:
    half = policy.standard_errors * found.error
    return max(least, found.value - half), min(most, found.value + half)
