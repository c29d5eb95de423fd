"""How far chance could move a score: a bootstrap that draws patients, not rows, since rows of a patient agree."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Labels = NDArray[np.bool_]
Keys = NDArray[np.uint64]
Weights = NDArray[np.float32]  #: whole numbers, so sums of them are exact

RESAMPLES = 500
BINS = 10
_CHUNK = 100
_ENDS = (0.025, 0.975)


@dataclass(frozen=True, slots=True)
class Interval:
    """A score and its 95 % interval."""

    value: float
    low: float
    high: float


def intervals(risks: Floats, labels: Labels, patients: Keys) -> Mapping[str, Interval]:
    """`auroc`, `average_precision`, `brier` and `calibration_error` of risks (n,), labels (n,) and patients (n,).

    Percentiles of the resamples, but for the calibration error: `reflected`. Its bins stay those of all rows.
    """
    points = _scores(risks, labels, np.ones((len(labels), 1), dtype=np.float32))
    parts = [_scores(risks, labels, weights) for weights in draws(patients)]
    found = {}
    for name, point in points.items():
        drawn = np.concatenate([part[name] for part in parts])
        bounds = reflected if name == "calibration_error" else percentiles
        found[name] = bounds(float(point[0]), drawn)
    return found


def auroc_interval(risks: Floats, labels: Labels, patients: Keys) -> tuple[float, float]:
    """95 % interval of the AUROC alone."""
    areas = np.concatenate([weighted_aurocs(risks, labels, weights) for weights in draws(patients)])
    low, high = np.nanquantile(areas, _ENDS)
    return float(low), float(high)


def percentiles(value: float, drawn: Floats) -> Interval:
    """The middle 95 % of the resamples."""
    low, high = np.nanquantile(drawn, _ENDS)
    return Interval(value, float(low), float(high))


def reflected(value: float, drawn: Floats) -> Interval:
    """The resamples' percentiles, as far on the other side of a value >= 0 (Davison and Hinkley 1997, equation 5.6).

    For a score that noise only pushes up. A calibration error is a sum of distances: that of a sample lies above the
    truth, that of a resample above the sample's, and the resamples' own percentiles can leave out both.
    """
    low, high = (2 * value - float(end) for end in reversed(np.nanquantile(drawn, _ENDS)))
    return Interval(value, max(0.0, min(value, low)), max(value, high))


def draws(patients: Keys, resamples: int = RESAMPLES) -> Sequence[Weights]:
    """How often each row is drawn when patients are, in chunks of shape (n, c); always the same draws."""
    return _drawn(np.ascontiguousarray(patients, dtype=np.uint64).tobytes(), resamples)


@lru_cache(maxsize=3)  # the models of a dataset version are all judged on the same patients
def _drawn(keys: bytes, resamples: int) -> tuple[Weights, ...]:
    index = np.unique(np.frombuffer(keys, dtype=np.uint64), return_inverse=True)[1]
    count = int(index.max()) + 1
    random = np.random.default_rng(0)
    chunks = []
    for start in range(0, resamples, _CHUNK):
        size = min(_CHUNK, resamples - start)
        times = [np.bincount(random.integers(count, size=count), minlength=count) for _ in range(size)]
        chunks.append(np.stack(times, axis=1).astype(np.float32)[index])
    return tuple(chunks)


def weighted_aurocs(risks: Floats, labels: Labels, weights: Weights) -> Floats:
    """AUROC under each column of `weights` (n, resamples); a tie counts half. NaN where a class has no weight."""
    return _aurocs(_standing(risks, labels, weights))


def weighted_average_precisions(risks: Floats, labels: Labels, weights: Weights) -> Floats:
    """Average precision under each column of `weights` (n, resamples): precision at each risk by the recall it adds."""
    return _average_precisions(_standing(risks, labels, weights))


def weighted_calibration_errors(risks: Floats, labels: Labels, weights: Weights) -> Floats:
    """Expected calibration error under each column of `weights`: mean distance of risk and rate over ten bins."""
    gaps = np.zeros((BINS, len(risks)))
    for number, part in enumerate(np.array_split(np.argsort(risks, kind="stable"), BINS)):
        gaps[number, part] = risks[part] - labels[part]
    return _ratio(np.abs(gaps @ weights).sum(axis=0), _totals(weights))


def weighted_means(values: Floats, weights: Weights) -> Floats:
    """Mean of values (n,) under each column of `weights` (n, resamples). NaN where nothing has weight."""
    return _ratio(values @ weights, _totals(weights))


def weighted_curves(risks: Floats, labels: Labels, thresholds: Floats, weights: Weights) -> tuple[Weights, Weights]:
    """Weight of hits and of false alarms at or above each threshold, shape (thresholds, resamples).

    `thresholds` fall; the last one is not above any risk.
    """
    slots = np.searchsorted(-thresholds, -risks, "left")
    hits, alarms = (
        np.cumsum(_sums(weights, np.flatnonzero(rows), slots[rows], len(thresholds)), axis=0)
        for rows in (labels, ~labels)
    )
    return hits, alarms


def _scores(risks: Floats, labels: Labels, weights: Weights) -> dict[str, Floats]:
    standing = _standing(risks, labels, weights)
    return {
        "auroc": _aurocs(standing),
        "average_precision": _average_precisions(standing),
        "brier": weighted_means((risks - labels) ** 2, weights),
        "calibration_error": weighted_calibration_errors(risks, labels, weights),
    }


@dataclass(frozen=True, slots=True)
class _Standing:
    """Who stands where among the k distinct risks of positives: weights of shape (k, resamples), lowest risk first.

    `below` and `tied` are of negatives. Where among themselves the negatives between two of these risks stand decides
    no rank, which is why they are summed: there are far fewer positives than rows.
    """

    positives: Weights
    tied: Weights
    below: Weights
    negatives: Weights


def _standing(risks: Floats, labels: Labels, weights: Weights) -> _Standing:
    levels = np.unique(risks[labels])
    others = risks[~labels]
    # 2k: between the levels k - 1 and k; 2k + 1: at level k.
    slots = np.searchsorted(levels, others, "left") + np.searchsorted(levels, others, "right")
    negatives = _sums(weights, np.flatnonzero(~labels), slots, 2 * len(levels) + 1)
    positives = _sums(
        weights,
        np.flatnonzero(labels),
        np.searchsorted(levels, risks[labels]),
        len(levels),
    )
    up_to = np.cumsum(negatives, axis=0)
    return _Standing(positives, negatives[1::2], up_to[:-1:2], up_to[-1])


def _sums(weights: Weights, rows: NDArray[np.int64], slots: NDArray[np.int64], count: int) -> Weights:
    """Weights of the rows, summed by slot: shape (count, resamples)."""
    sums = np.zeros((count, weights.shape[1]), dtype=np.float32)
    if len(rows):
        order = np.argsort(slots, kind="stable")
        there, starts = np.unique(slots[order], return_index=True)
        sums[there] = np.add.reduceat(weights[rows[order]], starts, axis=0)
    return sums


def _aurocs(standing: _Standing) -> Floats:
    beaten = standing.below + standing.tied / 2
    won = np.einsum("kc,kc->c", standing.positives, beaten, dtype=np.float64)
    return _ratio(won, _totals(standing.positives) * standing.negatives)


def _average_precisions(standing: _Standing) -> Floats:
    found = np.cumsum(standing.positives[::-1], axis=0)[::-1].astype(np.float64)  # at this risk or above
    flagged = found + (standing.negatives - standing.below)
    precision = np.divide(found, flagged, out=np.zeros_like(found), where=flagged > 0)
    return _ratio(
        np.einsum("kc,kc->c", precision, standing.positives),
        _totals(standing.positives),
    )


def _totals(weights: Weights) -> Floats:
    return np.asarray(weights.sum(axis=0, dtype=np.float64))


def _ratio(above: Floats, below: Floats) -> Floats:
    ratios: Floats = np.divide(above, below, out=np.full(len(above), np.nan), where=below > 0)
    return ratios
