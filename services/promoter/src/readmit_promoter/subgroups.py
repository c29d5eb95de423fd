"""Whether a candidate harms a group of patients that the champion does not: each group on its own, on common rows."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

import numpy as np

from readmit_promoter import discrimination
from readmit_promoter.bootstrap import (
    SCALE,
    Distribution,
    Floats,
    Keys,
    Labels,
    Statistic,
    Weights,
    bootstrap,
    ratio,
    sums,
    whole,
)
from readmit_promoter.evidence import Grouping
from readmit_promoter.policy import Bootstrap, SubgroupGate
from readmit_promoter.verdict import Figure, Status

#: Of fewer patients no figure is told but their number: it would tell of somebody.
LEAST_PATIENTS = 11
_MEASURES = ("auroc", "calibration")


@dataclass(frozen=True, slots=True, eq=False)
class Compared:
    """The rows that both models have scored: risks, and the groups of each attribute that is known."""

    patient: Keys
    label: Labels
    candidate: Floats
    champion: Floats
    groups: Mapping[str, Grouping]


@dataclass(frozen=True, slots=True)
class Audit:
    """Status of each group by `attribute/group`, or of an attribute that is not known, and all figures."""

    statuses: dict[str, Status] = field(default_factory=dict)
    figures: dict[str, Figure] = field(default_factory=dict)


def audit(rows: Compared, gate: SubgroupGate, drawing: Bootstrap, seed: int) -> Audit:
    """Every group of the policy's attributes.

    Harm is shown where the interval of a loss lies wholly beyond its limit; a group is safe where no interval reaches
    it. Any one group shown to be harmed fails the gate, so these intervals share the error rate among all comparisons
    (Bonferroni). All groups must be safe for the gate to be passed, so those need no correction (an intersection-union
    test: Berger, Technometrics 24(4), 1982).
    """
    found = Audit()
    measured: dict[str, Labels] = {}
    for attribute in gate.attributes:
        if attribute not in rows.groups:
            found.statuses[attribute] = Status.INSUFFICIENT
            continue
        for name, inside in _groups(attribute, rows.groups[attribute]):
            patients = len(np.unique(rows.patient[inside]))
            found.figures[f"{name}/patients"] = patients
            found.statuses[name] = Status.INSUFFICIENT
            if patients >= LEAST_PATIENTS and _suffices(rows, inside, gate.min_patients_per_class):
                measured[name] = inside
    statistics = [_statistic(name, rows, inside) for name, inside in measured.items()]
    drawn = bootstrap(statistics, rows.patient, resamples=drawing.resamples, seed=seed)
    for name in measured:
        limits = (gate.max_auroc_loss, gate.max_calibration_loss)
        statuses = []
        for measure, limit in zip(_MEASURES, limits, strict=True):
            loss = drawn[f"{name}/{measure}_loss"]
            statuses.append(_status(loss, limit, drawing.error_rate, len(_MEASURES) * len(measured)))
            interval = loss.interval(drawing.error_rate)
            if interval is not None:
                found.figures.update(
                    {
                        f"{name}/{measure}_loss": interval.point,
                        f"{name}/{measure}_loss_low": interval.low,
                        f"{name}/{measure}_loss_high": interval.high,
                    }
                )
        found.statuses[name] = worst(statuses)
    found.figures["comparisons"] = len(_MEASURES) * len(measured)
    return found


def worst(statuses: list[Status]) -> Status:
    """Fail before insufficient evidence before pass."""
    order = (Status.FAIL, Status.INSUFFICIENT, Status.PASS)
    return min(statuses, key=order.index)


def _groups(attribute: str, grouping: Grouping) -> Iterator[tuple[str, Labels]]:
    for code, name in enumerate(grouping.names):
        inside = grouping.code == code
        if inside.any():
            yield f"{attribute}/{name}", inside


def _suffices(rows: Compared, inside: Labels, least: int) -> bool:
    return all(len(np.unique(rows.patient[inside & part])) >= least for part in (rows.label, ~rows.label))


def _statistic(name: str, rows: Compared, inside: Labels) -> Statistic:
    """`auroc_loss`: champion's less candidate's. `calibration_loss`: how much farther the risks are in the large."""
    label = rows.label[inside]
    ranking = discrimination.difference(label, rows.champion[inside], rows.candidate[inside], f"{name}/auroc_loss")
    gaps = whole(np.column_stack([label - rows.candidate[inside], label - rows.champion[inside]]))

    def figures(weights: Weights) -> Mapping[str, Floats]:
        drawn = weights[:, inside]
        total = SCALE * drawn.sum(axis=1)
        candidate, champion = np.abs(sums(drawn, gaps)).T
        return {**ranking(drawn), f"{name}/calibration_loss": ratio(candidate - champion, total)}

    return figures


def _status(loss: Distribution, limit: float, error_rate: float, comparisons: int) -> Status:
    shown = loss.interval(error_rate / comparisons)  # None: too few resamples to show harm
    if shown is not None and shown.low > limit:
        return Status.FAIL
    plain = loss.interval(error_rate)
    return Status.PASS if plain is not None and plain.high <= limit else Status.INSUFFICIENT
