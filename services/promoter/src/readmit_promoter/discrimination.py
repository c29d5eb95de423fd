"""AUROC under reweighting of patients. All sums are of whole numbers, so a result does not depend on their order."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from readmit_promoter.bootstrap import Floats, Labels, Statistic, Weights

Positions = NDArray[np.intp]


@dataclass(frozen=True, slots=True, eq=False)
class Ranking:
    """One model's scores, sorted once, so that each reweighting costs one pass over the rows."""

    positives: Positions
    negatives: Positions  #: by ascending score
    below: Positions  #: for each positive, how many negatives score lower
    not_above: Positions  #: for each positive, how many negatives score lower or the same


def rank(label: Labels, risk: Floats) -> Ranking:
    """Sort the scores of one model."""
    positives, negatives = np.flatnonzero(label), np.flatnonzero(~label)
    negatives = negatives[np.argsort(risk[negatives], kind="stable")]
    return Ranking(
        positives,
        negatives,
        np.searchsorted(risk[negatives], risk[positives], side="left"),
        np.searchsorted(risk[negatives], risk[positives], side="right"),
    )


def auroc(ranking: Ranking, weights: Weights) -> Floats:
    """AUROC for each row of `weights` (resamples, rows); a tie counts one half.

    Where the weights leave only one class there is nothing to discriminate: 0.5.
    """
    seen = np.zeros((len(weights), len(ranking.negatives) + 1), dtype=np.int32)
    np.cumsum(weights[:, ranking.negatives], axis=1, out=seen[:, 1:])
    positive = weights[:, ranking.positives].astype(np.int64)
    twice_won = (positive * (seen[:, ranking.below] + seen[:, ranking.not_above])).sum(axis=1)
    pairs = positive.sum(axis=1) * seen[:, -1].astype(np.int64)
    return np.where(pairs > 0, twice_won / (2 * np.maximum(pairs, 1)), 0.5)


def own(label: Labels, risk: Floats) -> Statistic:
    """`auroc` of one model."""
    ranking = rank(label, risk)
    return lambda weights: {"auroc": auroc(ranking, weights)}


def difference(label: Labels, risk: Floats, than: Floats, name: str = "auroc_difference") -> Statistic:
    """AUROC of one model less that of another on the same rows."""
    first, second = rank(label, risk), rank(label, than)

    def figures(weights: Weights) -> Mapping[str, Floats]:
        return {name: auroc(first, weights) - auroc(second, weights)}

    return figures
