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
Weights = NDArray[np.float32]  #: whole numbers

RESAMPLES = 500
BINS = 10
_CHUNK = 50


@dataclass(frozen=True, slots=True)
class Interval:
    """A score and its 95 % interval: percentiles of the resamples."""

    value: float
    low: float
    high: float


def intervals(risks: Floats, labels: Labels, patients: Keys) -> Mapping[str, Interval]:
    """`auroc`, `average_precision`, `brier` and `calibration_error` of risks (n,), labels (n,) and patients (n,).

    The bins of the calibration error stay those of all rows: ten of equal size.
    """
    once = np.ones((1, len(labels)), dtype=np.float32)
    points = {name: float(values[0]) for name, values in _scores(risks, labels, once).items()}
    drawn: dict[str, list[Floats]] = {name: [] for name in points}
    for weights in draws(patients):
        for name, values in _scores(risks, labels, weights).items():
            drawn[name].append(values)
    bounds = {name: np.nanquantile(np.concatenate(values), [0.025, 0.975]) for name, values in drawn.items()}
    return {name: Interval(points[name], float(low), float(high)) for name, (low, high) in bounds.items()}


def auroc_interval(risks: Floats, labels: Labels, patients: Keys) -> tuple[float, float]:
    """95 % interval of the AUROC alone."""
    areas = np.concatenate([weighted_aurocs(risks, labels, weights) for weights in draws(patients)])
    low, high = np.nanquantile(areas, [0.025, 0.975])
    return float(low), float(high)


def draws(patients: Keys, resamples: int = RESAMPLES) -> Sequence[Weights]:
    """How often each row is drawn when patients are, in chunks of shape (c, n); always the same draws."""
    return _drawn(np.ascontiguousarray(patients, dtype=np.uint64).tobytes(), resamples)


@lru_cache(maxsize=3)  # the models of a dataset version are all judged on the same patients
def _drawn(keys: bytes, resamples: int) -> tuple[Weights, ...]:
    index = np.unique(np.frombuffer(keys, dtype=np.uint64), return_inverse=True)[1]
    count = int(index.max()) + 1
    random = np.random.default_rng(0)
    shares = np.full(count, 1.0 / count)
    sizes = [min(_CHUNK, resamples - start) for start in range(0, resamples, _CHUNK)]
    return tuple(random.multinomial(count, shares, size=size)[:, index].astype(np.float32) for size in sizes)


def weighted_aurocs(risks: Floats, labels: Labels, weights: Weights) -> Floats:
    """AUROC under each row of `weights` (resamples, n); a tie counts half. NaN where a class has no weight."""
    positives, negatives = _by_risk(risks, labels, weights)
    below = np.cumsum(negatives, axis=1) - negatives / 2.0
    return _ratio((positives * below).sum(axis=1), positives.sum(axis=1) * negatives.sum(axis=1))


def weighted_average_precisions(risks: Floats, labels: Labels, weights: Weights) -> Floats:
    """Average precision under each row of `weights` (resamples, n): precision at each risk, by the recall it adds."""
    positives, negatives = _by_risk(risks, labels, weights)
    found = np.cumsum(positives[:, ::-1], axis=1)  # from the highest risk down
    flagged = found + np.cumsum(negatives[:, ::-1], axis=1)
    precision = np.divide(found, flagged, out=np.zeros_like(found), where=flagged > 0)
    return _ratio((precision * positives[:, ::-1]).sum(axis=1), positives.sum(axis=1))


def weighted_calibration_errors(risks: Floats, labels: Labels, weights: Weights) -> Floats:
    """Expected calibration error under each row of `weights`: mean distance of risk and rate over ten bins."""
    bins = np.array_split(np.argsort(risks, kind="stable"), BINS)
    gaps = weights * (risks - labels)
    apart = np.sum([np.abs(gaps[:, part].sum(axis=1)) for part in bins], axis=0)
    return _ratio(apart, weights.sum(axis=1).astype(np.float64))


def _scores(risks: Floats, labels: Labels, weights: Weights) -> dict[str, Floats]:
    return {
        "auroc": weighted_aurocs(risks, labels, weights),
        "average_precision": weighted_average_precisions(risks, labels, weights),
        "brier": np.asarray((weights @ (risks - labels) ** 2) / weights.sum(axis=1), dtype=np.float64),
        "calibration_error": weighted_calibration_errors(risks, labels, weights),
    }


def _by_risk(risks: Floats, labels: Labels, weights: Weights) -> tuple[Floats, Floats]:
    """Weight of positives and of negatives at each distinct risk, from the lowest up."""
    order = np.argsort(risks, kind="stable")
    ranked = risks[order]
    starts = np.flatnonzero(np.r_[True, ranked[1:] != ranked[:-1]])
    weights = weights[:, order]
    positives = np.add.reduceat(weights * labels[order], starts, axis=1).astype(np.float64)
    negatives = np.add.reduceat(weights * ~labels[order], starts, axis=1).astype(np.float64)
    return positives, negatives


def _ratio(above: Floats, below: Floats) -> Floats:
    ratios: Floats = np.divide(above, below, out=np.full(len(above), np.nan), where=below > 0)
    return ratios
