"""Whether a candidate harms a group of patients that the champion does not: each group on its own, on common rows."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

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
    flattened,
    ratio,
    sums,
    whole,
)
from readmit_promoter.evidence import Grouping
from readmit_promoter.policy import SubgroupGate
from readmit_promoter.verdict import Figure, Status

#: Of fewer patients no figure is told but their number: it would tell of somebody.
LEAST_PATIENTS = 11


@dataclass(frozen=True, slots=True, eq=False)
class Compared:
    """The rows that both models have scored: risks, and the groups of each attribute that is known."""

    patient: Keys
    label: Labels
    candidate: Floats
    champion: Floats
    groups: Mapping[str, Grouping]


@dataclass(frozen=True, slots=True, eq=False)
class Plan:
    """The groups that can be measured, each with its statistic, and what is known of all groups without one."""

    statistics: Mapping[str, Statistic]
    statuses: Mapping[str, Status]
    patients: Mapping[str, int]


@dataclass(frozen=True, slots=True)
class Audit:
    """Status of each group by `attribute/group`, or of an attribute that is not known, and all figures."""

    statuses: Mapping[str, Status]
    figures: Mapping[str, Figure]


def plan(rows: Compared, gate: SubgroupGate) -> Plan:
    """Every group of the policy's attributes."""
    unknown = [attribute for attribute in gate.attributes if attribute not in rows.groups]
    statuses: dict[str, Status] = dict.fromkeys(map(str, unknown), Status.INSUFFICIENT)
    statistics, counted = {}, {}
    for attribute in gate.attributes:
        for name, inside in _groups(attribute, rows.groups.get(attribute)):
            counted[name] = len(np.unique(rows.patient[inside]))
            statuses[name] = Status.INSUFFICIENT
            if counted[name] >= LEAST_PATIENTS and _suffices(rows, inside, gate.min_patients_per_class):
                statistics[name] = _statistic(name, rows, inside)
    return Plan(statistics, statuses, counted)


def audit(groups: Plan, drawn: Mapping[str, Distribution], gate: SubgroupGate, error_rate: float) -> Audit:
    """Each group by what was drawn of the plan's statistics.

    Harm is shown where the interval of a loss lies wholly beyond its limit; a group is safe where no interval reaches
    it. Any one group shown to be harmed fails the gate, so these intervals share the error rate among all comparisons
    (Bonferroni). All groups must be safe for the gate to be passed, so those need no correction (an intersection-union
    test: Berger, Technometrics 24(4), 1982).
    """
    limits = {"auroc_loss": gate.max_auroc_loss, "calibration_loss": gate.max_calibration_loss}
    comparisons = len(limits) * len(groups.statistics)
    statuses = dict(groups.statuses)
    figures: dict[str, Figure] = {f"{name}/patients": count for name, count in groups.patients.items()}
    for name in groups.statistics:
        losses = {measure: drawn[f"{name}/{measure}"] for measure in limits}
        statuses[name] = worst(
            [_status(loss, limits[measure], error_rate, comparisons) for measure, loss in losses.items()]
        )
        for measure, loss in losses.items():
            told = flattened(f"{name}/{measure}", loss.interval(error_rate))
            figures |= {key: figure for key, figure in told.items() if figure is not None}
    return Audit(statuses, figures | {"comparisons": comparisons})


def worst(statuses: list[Status]) -> Status:
    """Fail before insufficient evidence before pass."""
    order = (Status.FAIL, Status.INSUFFICIENT, Status.PASS)
    return min(statuses, key=order.index)


def _groups(attribute: str, grouping: Grouping | None) -> Iterator[tuple[str, Labels]]:
    if grouping is None:
        return
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
