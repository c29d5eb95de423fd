"""Scores by race, sex and age band, with what chance allows: an audit of one model on the validation patients."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from sklearn.metrics import roc_auc_score

from readmit_trainer.resampling import Weights, draws, weighted_aurocs

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

Verdict = Literal["insufficient evidence", "worse than overall", "better than overall", "no difference shown"]


@dataclass(frozen=True, slots=True)
class Subgroup:
    """One group. `auroc_gap` is its AUROC minus that of all patients together; intervals are of 95 %, by patients.

    `observed` and `expected` are the rate of readmission and the mean risk: calibration in the large. Recall and alert
    rate are at the model's threshold. None where nothing can be computed.
    """

    attribute: str
    group: str
    rows: int
    patients: int
    positives: int
    auroc: float | None
    auroc_low: float | None
    auroc_high: float | None
    auroc_gap: float | None
    gap_low: float | None
    gap_high: float | None
    observed: float
    expected: float
    recall: float | None
    alert_rate: float
    verdict: Verdict


def subgroups(frame: pd.DataFrame, risks: Floats, labels: Labels, patients: Keys, threshold: float) -> list[Subgroup]:
    """Every group of every attribute that the frame holds, the largest first."""
    weights = np.concatenate(draws(patients))
    overall = (float(roc_auc_score(labels, risks)), weighted_aurocs(risks, labels, weights))
    return [
        _subgroup(attribute, group, inside, risks, labels, patients, threshold, weights, overall)
        for attribute, group, inside in _groups(frame)
    ]


def as_markdown(groups: list[Subgroup]) -> str:
    """The table for people."""
    head = (
        "attribute",
        "group",
        "encounters",
        "readmitted",
        "AUROC",
        "observed / expected",
        "recall",
        "alerts",
        "verdict",
    )
    rows = [
        (
            one.attribute, one.group, f"{one.rows:,}", f"{one.positives:,}",
            "-" if one.auroc is None else f"{one.auroc:.3f} ({one.auroc_low:.3f} to {one.auroc_high:.3f})",
            f"{one.observed:.1%} / {one.expected:.1%}",
            "-" if one.recall is None else f"{one.recall:.0%}",
            f"{one.alert_rate:.0%}", one.verdict,
        )
        for one in groups
    ]  # fmt: skip
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines) + "\n"


def as_dicts(groups: list[Subgroup]) -> list[dict[str, Any]]:
    """The table for programs."""
    return [asdict(one) for one in groups]


def _groups(frame: pd.DataFrame) -> Iterator[tuple[str, str, Labels]]:
    for attribute in ATTRIBUTES:
        if attribute in frame:
            values = frame[attribute].astype("object").where(frame[attribute].notna(), _UNRECORDED)
            for group in values.value_counts().index:
                yield attribute, str(group), (values == group).to_numpy(dtype=np.bool_)


def _subgroup(
    attribute: str,
    group: str,
    inside: Labels,
    risks: Floats,
    labels: Labels,
    patients: Keys,
    threshold: float,
    weights: Weights,
    overall: tuple[float, Floats],
) -> Subgroup:
    positives, rows = int(labels[inside].sum()), int(inside.sum())
    flagged = risks[inside] >= threshold
    area = gap = None
    bounds: tuple[float | None, ...] = (None, None, None, None)
    verdict: Verdict = "insufficient evidence"
    if 0 < positives < rows:
        area = float(roc_auc_score(labels[inside], risks[inside]))
        gap = area - overall[0]
        areas = weighted_aurocs(risks[inside], labels[inside], weights[:, inside])
        gaps = areas - overall[1]
        if not np.isnan(gaps).all():
            low, high = (float(bound) for bound in np.nanquantile(areas, [0.025, 0.975]))
            gap_low, gap_high = (float(bound) for bound in np.nanquantile(gaps, [0.025, 0.975]))
            bounds = (low, high, gap_low, gap_high)
            if min(positives, rows - positives) >= _LEAST_OF_A_CLASS and high - low <= _WIDEST:
                verdict = _judged(gap_low, gap_high)
    return Subgroup(
        attribute, group, rows, len(np.unique(patients[inside])), positives, area, bounds[0], bounds[1], gap, bounds[2],
        bounds[3], float(labels[inside].mean()), float(risks[inside].mean()),
        float(flagged[labels[inside]].mean()) if positives else None, float(flagged.mean()), verdict,
    )  # fmt: skip


def _judged(gap_low: float, gap_high: float) -> Verdict:
    if gap_high < 0:
        return "worse than overall"
    return "better than overall" if gap_low > 0 else "no difference shown"
