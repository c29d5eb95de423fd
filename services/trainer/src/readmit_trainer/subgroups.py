"""Scores by race, sex and age band, with what chance allows: an audit of one model on the validation patients."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from sklearn.metrics import roc_auc_score

from readmit_trainer.resampling import (
    Interval,
    Weights,
    draws,
    percentiles,
    weighted_aurocs,
    weighted_means,
)

Floats = NDArray[np.float64]
Labels = NDArray[np.bool_]
Keys = NDArray[np.uint64]

#: By what patients are told apart. Race and sex as they were recorded; none of it needs to be a feature.
ATTRIBUTES = ("race", "gender", "age")
_UNRECORDED = "(not recorded)"
#: Below so many readmitted, or not readmitted, nothing is said.
_LEAST_OF_A_CLASS = 30
#: Nor where the interval of the AUROC is wider than this.
_WIDEST = 0.2
#: Of fewer patients no figure is told but their number: it would tell of somebody.
_LEAST_PATIENTS = 11

_HOW_TO_READ = (
    "Intervals are of 95 %, so of twenty groups that are served alike one is told apart by chance. A verdict is on the"
    f" AUROC, and takes {_LEAST_OF_A_CLASS} readmitted, {_LEAST_OF_A_CLASS} others and an interval no wider than"
    f" {_WIDEST}. Difference: readmitted less expected. Of fewer than {_LEAST_PATIENTS} patients only the number is"
    " told."
)

Verdict = Literal[
    "insufficient evidence",
    "worse than overall",
    "better than overall",
    "no difference shown",
]


@dataclass(frozen=True, slots=True)
class Subgroup:
    """One group. `auroc_gap` is its AUROC minus that of all patients together; intervals are of 95 %, by patients.

    `observed` and `expected` are the rate of readmission and the mean risk, `excess` is the former minus the latter:
    calibration in the large. Recall and alert rate are at the model's threshold. None where nothing can be computed, or
    where the patients are too few to be told of.
    """

    attribute: str
    group: str
    rows: int
    patients: int
    positives: int | None = None
    auroc: float | None = None
    auroc_low: float | None = None
    auroc_high: float | None = None
    auroc_gap: float | None = None
    gap_low: float | None = None
    gap_high: float | None = None
    observed: float | None = None
    expected: float | None = None
    excess_low: float | None = None
    excess_high: float | None = None
    recall: float | None = None
    recall_low: float | None = None
    recall_high: float | None = None
    alert_rate: float | None = None
    verdict: Verdict = "insufficient evidence"


@dataclass(frozen=True, slots=True)
class _Judged:
    """Validation rows (n,), and `weights` (n, resamples) of each; `areas` are the AUROCs of all rows, (resamples,)."""

    risks: Floats
    labels: Labels
    patients: Keys
    flagged: Labels
    weights: Weights
    area: float
    areas: Floats

    def mean(self, values: Floats, inside: Labels) -> Interval | None:
        """Of the values (n,) inside; None where some resample has nobody there, so that no interval is to be had."""
        if not inside.any():
            return None
        drawn = weighted_means(values[inside], self.weights[inside])
        return None if np.isnan(drawn).any() else percentiles(float(values[inside].mean()), drawn)


def subgroups(frame: pd.DataFrame, risks: Floats, labels: Labels, patients: Keys, threshold: float) -> list[Subgroup]:
    """Every group of every attribute that the frame holds, the largest first."""
    weights = np.concatenate(draws(patients), axis=1)
    area, areas = float(roc_auc_score(labels, risks)), weighted_aurocs(risks, labels, weights)
    judged = _Judged(risks, labels, patients, risks >= threshold, weights, area, areas)
    return [_subgroup(attribute, group, inside, judged) for attribute, group, inside in _groups(frame)]


def as_markdown(groups: list[Subgroup]) -> str:
    """The table for people."""
    head = (
        "group",
        "encounters",
        "readmitted",
        "AUROC",
        "observed / expected",
        "difference",
        "recall",
        "alerts",
        "verdict",
    )
    rows = [
        (
            f"{one.attribute} {one.group}", f"{one.rows:,}", _told(one.positives, ","),
            _told(one.auroc, ".3f", one.auroc_low, one.auroc_high),
            f"{_told(one.observed, '.1%')} / {_told(one.expected, '.1%')}",
            "-" if one.excess_low is None else f"{one.excess_low:+.1%} to {one.excess_high:+.1%}",
            _told(one.recall, ".0%"), _told(one.alert_rate, ".0%"), one.verdict,
        )
        for one in groups
    ]  # fmt: skip
    lines = [head, ["---"] * len(head), *rows]
    table = "\n".join(f"| {' | '.join(cells)} |" for cells in lines)
    return f"{table}\n\n{_HOW_TO_READ}\n"


def as_dicts(groups: list[Subgroup]) -> list[dict[str, Any]]:
    """The table for programs."""
    return [asdict(one) for one in groups]


def groups_of(frame: pd.DataFrame) -> dict[str, list[str]]:
    """Each row's group by attribute, as far as the frame holds it."""
    return {
        attribute: frame[attribute].astype("object").where(frame[attribute].notna(), _UNRECORDED).astype(str).tolist()
        for attribute in ATTRIBUTES
        if attribute in frame
    }


def _groups(frame: pd.DataFrame) -> Iterator[tuple[str, str, Labels]]:
    for attribute, of_rows in groups_of(frame).items():
        values = pd.Series(of_rows, dtype="object")
        for group in values.value_counts().index:
            yield attribute, str(group), (values == group).to_numpy(dtype=np.bool_)


def _subgroup(attribute: str, group: str, inside: Labels, judged: _Judged) -> Subgroup:
    rows, patients = int(inside.sum()), len(np.unique(judged.patients[inside]))
    if patients < _LEAST_PATIENTS:
        return Subgroup(attribute, group, rows, patients)
    risks, labels = judged.risks[inside], judged.labels[inside]
    positives = int(labels.sum())
    ranking = gap = excess = None
    verdict: Verdict = "insufficient evidence"
    if 0 < positives < rows:
        excess = judged.mean(judged.labels - judged.risks, inside)
        area, areas = float(roc_auc_score(labels, risks)), weighted_aurocs(risks, labels, judged.weights[inside])
        if not np.isnan(areas).any():
            ranking, gap = percentiles(area, areas), percentiles(area - judged.area, areas - judged.areas)
            enough = min(positives, rows - positives) >= _LEAST_OF_A_CLASS and ranking.high - ranking.low <= _WIDEST
            verdict = _verdict(gap) if enough else verdict
    recall = judged.mean(judged.flagged.astype(np.float64), inside & judged.labels)
    return Subgroup(
        attribute, group, rows, patients, positives, *_three(ranking), *_three(gap),
        float(labels.mean()), float(risks.mean()), *_three(excess)[1:], *_three(recall),
        float(judged.flagged[inside].mean()), verdict,
    )  # fmt: skip


def _three(
    interval: Interval | None,
) -> tuple[float | None, float | None, float | None]:
    return (None, None, None) if interval is None else (interval.value, interval.low, interval.high)


def _told(value: float | None, form: str, low: float | None = None, high: float | None = None) -> str:
    if value is None:
        return "-"
    return f"{value:{form}}" + ("" if low is None else f" ({low:{form}} to {high:{form}})")


def _verdict(gap: Interval) -> Verdict:
    if gap.high < 0:
        return "worse than overall"
    return "better than overall" if gap.low > 0 else "no difference shown"
