"""AUROC under reweighting of patients: the arithmetic beneath every comparison of two models.

The bootstrap draws patients, not rows: the encounters of one patient resemble each other, and counting them as
independent would make noise look like evidence (Field and Welsh, "Bootstrapping clustered data", Journal of the Royal
Statistical Society B 69(3), 2007, 369-390). All sums are of whole numbers, so a result does not depend on their order,
and the raw bits of PCG64 are stable over numpy's versions: the same evidence gives the same figures, bit for bit.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Positions = NDArray[np.intp]
Weights = NDArray[np.int64]
_CHUNK = 50  # resamples at a time: 6 MB of weights for 15,000 rows


@dataclass(frozen=True, slots=True, eq=False)
class Ranking:
    """One model's scores, sorted once, so that each reweighting costs one pass over the rows."""

    positives: Positions
    negatives: Positions  #: by ascending score
    below: Positions  #: for each positive, how many negatives score lower
    not_above: Positions  #: for each positive, how many negatives score lower or the same


@dataclass(frozen=True, slots=True)
class Interval:
    """A figure on all rows, and the middle of its bootstrap distribution (see `interval`)."""

    point: float
    low: float
    high: float


def flattened(name: str, figure: Interval | None) -> dict[str, float | None]:
    """As three columns: `name`, `name_low`, `name_high`."""
    if figure is None:
        return dict.fromkeys((name, f"{name}_low", f"{name}_high"))
    return {name: figure.point, f"{name}_low": figure.low, f"{name}_high": figure.high}


def rank(label: NDArray[np.bool_], risk: NDArray[np.float64]) -> Ranking:
    """Sort the scores of one model."""
    positives, negatives = np.flatnonzero(label), np.flatnonzero(~label)
    negatives = negatives[np.argsort(risk[negatives], kind="stable")]
    return Ranking(
        positives,
        negatives,
        np.searchsorted(risk[negatives], risk[positives], side="left"),
        np.searchsorted(risk[negatives], risk[positives], side="right"),
    )


def auroc(ranking: Ranking, weights: Weights) -> NDArray[np.float64]:
    """AUROC for each row of `weights` (resamples, rows); a tie counts one half.

    Where the weights leave only one class there is nothing to discriminate: 0.5.
    """
    seen = np.zeros((len(weights), len(ranking.negatives) + 1), dtype=np.int64)
    np.cumsum(weights[:, ranking.negatives], axis=1, out=seen[:, 1:])
    positive = weights[:, ranking.positives]
    twice_won = (positive * (seen[:, ranking.below] + seen[:, ranking.not_above])).sum(axis=1)
    pairs = positive.sum(axis=1) * seen[:, -1]
    return np.where(pairs > 0, twice_won / (2 * np.maximum(pairs, 1)), 0.5)


def interval(
    rankings: tuple[Ranking, ...], patient: NDArray[np.uint64], *, resamples: int, error_rate: float, seed: int
) -> Interval:
    """AUROC of one ranking, or of the first less the second on the same rows, with its patient bootstrap.

    `low` is the lower end of the one-sided interval at `error_rate`, `high` the upper end of the other one-sided
    interval; together they enclose 1 - 2 * error_rate.
    """

    def figure(weights: Weights) -> NDArray[np.float64]:
        first, *second = (auroc(ranking, weights) for ranking in rankings)
        return first - second[0] if second else first

    drawn = np.sort(np.concatenate([figure(weights) for weights in _resampled(patient, resamples, seed)]))
    tail = max(int(error_rate * (resamples + 1)) - 1, 0)
    return Interval(
        point=float(figure(np.ones((1, len(patient)), dtype=np.int64))[0]),
        low=float(drawn[tail]),
        high=float(drawn[resamples - 1 - tail]),
    )


def _resampled(patient: NDArray[np.uint64], resamples: int, seed: int) -> Iterator[Weights]:
    """How often each row stands in each resample, when as many patients as there are are drawn with replacement."""
    patients, member = np.unique(patient, return_inverse=True)
    bits = np.random.PCG64(seed)
    for start in range(0, resamples, _CHUNK):
        chunk = min(_CHUNK, resamples - start)
        drawn = (bits.random_raw((chunk, len(patients))) % np.uint64(len(patients))).astype(np.int64)
        drawn += np.arange(chunk)[:, np.newaxis] * len(patients)  # each resample counts in a range of its own
        counts = np.bincount(drawn.ravel(), minlength=chunk * len(patients)).reshape(chunk, len(patients))
        yield counts[:, member].astype(np.int64, copy=False)
