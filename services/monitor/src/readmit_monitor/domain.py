"""The judgement: whether a window of predictions still looks like its reference. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum

from pydantic import AwareDatetime, BaseModel, ConfigDict

from readmit_contracts.encounter import BY_KEY
from readmit_contracts.events import ModelVersion
from readmit_monitor.binning import Distribution, Value, ValueCounts, coded
from readmit_monitor.stability import FLOOR, psi, threshold

#: The name of the risk beside the features.
RISK = "risk"


@dataclass(frozen=True, slots=True)
class Policy:
    """What it takes to speak of drift."""

    window_rows: int = 2_000  #: the newest predictions that are judged together
    min_rows: int = 500  #: fewer are not judged
    false_alarms: float = 0.001  #: how often, at most, chance alone makes any feature of an evaluation drift
    recovers_at: float = 0.5  #: share of its threshold that a drifted feature must fall below


@dataclass(frozen=True, slots=True)
class Observed:
    """One prediction, as far as it is watched."""

    at: datetime
    model: ModelVersion
    epoch: int
    synthetic: bool
    risk: float
    readmitted: bool
    features: Mapping[str, Value]


class Reference(BaseModel):
    """The training rows of one dataset version, by feature."""

    model_config = ConfigDict(frozen=True)

    dataset_version: int
    synthetic: bool
    rows: int
    features: dict[str, Distribution]


class RiskReference(BaseModel):
    """The risks of an epoch's first full window, and when that ended."""

    model_config = ConfigDict(frozen=True)

    epoch: int
    risks: Distribution
    until: AwareDatetime


class State(StrEnum):
    """How an evaluation ends."""

    NO_PREDICTIONS = "no_predictions"
    NO_REFERENCE = "no_reference"  #: no dataset of the model's kind (real, synthetic) is known yet
    TOO_FEW = "too_few"  #: fewer predictions than can be judged
    STABLE = "stable"
    DRIFTED = "drifted"


class Figure(BaseModel):
    """How far a feature, or the risk, is from its reference."""

    model_config = ConfigDict(frozen=True)

    feature: str
    psi: float
    threshold: float
    drifted: bool
    reference_rows: int
    window_rows: int


class Evaluation(BaseModel):
    """One judgement; `figures` largest PSI first, empty unless the state is stable or drifted."""

    model_config = ConfigDict(frozen=True)

    state: State
    evaluated_at: AwareDatetime
    min_rows: int
    window_rows: int = 0
    window_from: AwareDatetime | None = None
    window_to: AwareDatetime | None = None
    model: ModelVersion | None = None
    epoch: int | None = None
    synthetic: bool | None = None
    reference_dataset_version: int | None = None
    reference_rows: int | None = None
    alert_rate: float | None = None
    risk_mean: float | None = None
    figures: tuple[Figure, ...] = ()
    risk: Figure | None = None

    @property
    def drifted(self) -> tuple[Figure, ...]:
        """Everything that drifts, the risk included, largest first."""
        everything = (*self.figures, self.risk) if self.risk else self.figures
        return tuple(sorted((f for f in everything if f.drifted), key=lambda f: -f.psi))

    @property
    def threshold(self) -> float:
        """The largest threshold that was applied."""
        return max((figure.threshold for figure in self.figures), default=FLOOR)


def evaluate(
    window: Sequence[Observed],
    reference: Reference | None,
    risk: tuple[RiskReference, Sequence[float]] | None,
    *,
    before: frozenset[str],
    policy: Policy,
    now: datetime,
) -> Evaluation:
    """Judge a window, oldest prediction first.

    `risk`: the epoch's reference and the risks that came after it. `before`: what drifted until now.
    """
    if not window:
        return Evaluation(state=State.NO_PREDICTIONS, evaluated_at=now, min_rows=policy.min_rows)
    newest = max(window, key=lambda observed: (observed.epoch, observed.at))
    seen = Evaluation(
        state=State.TOO_FEW,
        evaluated_at=now,
        min_rows=policy.min_rows,
        window_rows=len(window),
        window_from=window[0].at,
        window_to=window[-1].at,
        model=newest.model,
        epoch=newest.epoch,
        synthetic=newest.synthetic,
        alert_rate=sum(observed.readmitted for observed in window) / len(window),
        risk_mean=sum(observed.risk for observed in window) / len(window),
    )
    if reference is None:
        return seen.model_copy(update={"state": State.NO_REFERENCE})
    seen = seen.model_copy(
        update={"reference_dataset_version": reference.dataset_version, "reference_rows": reference.rows}
    )
    if len(window) < policy.min_rows:
        return seen
    error = policy.false_alarms / (len(reference.features) + 1)
    figures = [
        _figure(key, known, counted(window, key), before, error, policy) for key, known in reference.features.items()
    ]
    risks = None
    if risk is not None and len(risk[1]) >= policy.min_rows:
        risks = _figure(RISK, risk[0].risks, Counter(risk[1]), before, error, policy)
    drifts = any(figure.drifted for figure in (*figures, *([risks] if risks else [])))
    return seen.model_copy(
        update={
            "state": State.DRIFTED if drifts else State.STABLE,
            "figures": tuple(sorted(figures, key=lambda figure: -figure.psi)),
            "risk": risks,
        }
    )


def carried(last: Evaluation | None, drifted: frozenset[str], epoch: int | None) -> frozenset[str]:
    """What of the former drift an evaluation of this epoch starts from: another model's risk says nothing of this."""
    same = last is not None and last.epoch == epoch
    return drifted if same else drifted - {RISK}


def newly_drifted(evaluation: Evaluation, before: frozenset[str]) -> bool:
    """Whether something drifts that didn't until now: what is worth an event."""
    return any(figure.feature not in before for figure in evaluation.drifted)


def still_drifted(evaluation: Evaluation, before: frozenset[str]) -> frozenset[str]:
    """What has drifted, by now; what could not be judged is as it was."""
    judged = {figure.feature for figure in (*evaluation.figures, *([evaluation.risk] if evaluation.risk else []))}
    return frozenset(figure.feature for figure in evaluation.drifted) | (before - judged)


def counted(window: Sequence[Observed], key: str) -> ValueCounts:
    """How often each value of a feature occurs, as it is binned."""
    return coded(BY_KEY[key], Counter(observed.features.get(key) for observed in window))


def _figure(
    feature: str, known: Distribution, observed: ValueCounts, before: frozenset[str], error: float, policy: Policy
) -> Figure:
    counts = known.tally(observed)
    index, limit = psi(known.counts, counts), threshold(known.counts, counts, error)
    return Figure(
        feature=feature,
        psi=index,
        threshold=limit,
        # Once drifted, it takes a clear return to be stable again: no flutter around the threshold.
        drifted=index > (limit * policy.recovers_at if feature in before else limit),
        reference_rows=known.rows,
        window_rows=sum(counts),
    )
