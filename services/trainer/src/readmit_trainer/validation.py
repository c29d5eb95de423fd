"""How good a candidate is on the validation split: calibration, scores, and how far chance could move them."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from sklearn.metrics import average_precision_score, roc_auc_score

from readmit_bundle import Calibration
from readmit_contracts.events import ValidationScores
from readmit_trainer.calibration import apply, choose
from readmit_trainer.errors import BadTrainingData

Floats = NDArray[np.float64]
Labels = NDArray[np.bool_]
Keys = NDArray[np.uint64]

RESAMPLES = 500
_CHUNK = 50
_BINS = 10


@dataclass(frozen=True, slots=True)
class Validated:
    """Calibrated risks of the validation rows, the map that made them, and their scores.

    `losses`: cross-validated log loss (nats) of each map that was tried. `held_out`: rows that the map was not fitted
    on, shape (n,).
    """

    calibration: Calibration
    losses: Mapping[str, float]
    held_out: Labels
    risks: Floats
    scores: ValidationScores


def hashed(identifiers: Iterable[int], salt: bytes) -> Keys:
    """Eight-byte BLAKE2b digests of identifiers: the same for the same salt, and no way back without trying all."""
    digests = b"".join(hashlib.blake2b(str(i).encode(), digest_size=8, person=salt).digest() for i in identifiers)
    return np.frombuffer(digests, dtype=">u8").astype(np.uint64)


def log_odds(probabilities: Floats) -> Floats:
    """Logit, finite for 0 and 1."""
    inside = np.clip(probabilities, 1e-12, 1.0 - 1e-12)
    return np.asarray(np.log(inside) - np.log1p(-inside), dtype=np.float64)


def validate(probabilities: Floats, labels: Labels, patients: Keys, threshold: float) -> Validated:
    """Calibrate on one half of the patients; report what depends on the risks' size on the other, ranking on all.

    A map turns no two patients round, so the AUROC before it is the AUROC after it, but for ties.
    Raises BadTrainingData when one half lacks a class.
    """
    fitting_half = patients % np.uint64(2) == 0
    for half in (labels[fitting_half], labels[~fitting_half]):
        if not half.any() or half.all():
            raise BadTrainingData(
                "a half of the validation patients has readmissions only, or none: too few rows", "one_class"
            )
    margins = log_odds(probabilities)
    chosen = choose(margins[fitting_half], labels[fitting_half], patients[fitting_half])
    risks = apply(chosen.calibration, margins)
    scores = score(risks, labels, patients, ~fitting_half, threshold)
    return Validated(chosen.calibration, chosen.losses, ~fitting_half, risks, scores)


def score(risks: Floats, labels: Labels, patients: Keys, held_out: Labels, threshold: float) -> ValidationScores:
    """Scores of calibrated risks: what depends on their size on the held-out rows, ranking on all."""
    low, high = auroc_interval(risks, labels, patients)
    outside, truth = risks[held_out], labels[held_out]
    return ValidationScores(
        rows=len(labels),
        positives=int(labels.sum()),
        auroc=float(roc_auc_score(labels, risks)),
        auroc_low=low,
        auroc_high=high,
        average_precision=float(average_precision_score(labels, risks)),
        brier=float(np.mean((outside - truth) ** 2)),
        calibration_error=calibration_error(outside, truth),
        threshold=threshold,
        **at_threshold(outside, truth, threshold),
    )


def at_threshold(risks: Floats, labels: Labels, threshold: float) -> dict[str, float | None]:
    """Precision, recall and alert rate when every risk from `threshold` on counts as readmitted."""
    flagged = risks >= threshold
    hits = int((flagged & labels).sum())
    return {
        "precision": hits / int(flagged.sum()) if flagged.any() else None,
        "recall": hits / int(labels.sum()),
        "alert_rate": float(flagged.mean()),
    }


def calibration_error(risks: Floats, labels: Labels) -> float:
    """Expected calibration error: mean distance of risk and rate over ten bins of equal size."""
    bins = np.array_split(np.argsort(risks, kind="stable"), _BINS)
    return float(sum(abs(risks[b].sum() - labels[b].sum()) for b in bins) / len(risks))


def auroc_interval(risks: Floats, labels: Labels, patients: Keys) -> tuple[float, float]:
    """95 % interval of the AUROC: percentiles of a bootstrap that draws patients, not rows."""
    index = np.unique(patients, return_inverse=True)[1]
    drawn = int(index.max()) + 1
    random = np.random.default_rng(0)
    shares = np.full(drawn, 1.0 / drawn)
    chunks = [random.multinomial(drawn, shares, size=_CHUNK)[:, index] for _ in range(RESAMPLES // _CHUNK)]
    areas = np.concatenate([weighted_aurocs(risks, labels, weights) for weights in chunks])
    low, high = np.nanquantile(areas, [0.025, 0.975])
    return float(low), float(high)


def weighted_aurocs(risks: Floats, labels: Labels, weights: NDArray[np.int64]) -> Floats:
    """AUROC under each row of `weights` (resamples, n); a tie counts half. NaN where a class has no weight."""
    order = np.argsort(risks, kind="stable")
    ranked = risks[order]
    starts = np.flatnonzero(np.r_[True, ranked[1:] != ranked[:-1]])
    weights = weights[:, order]
    positives = np.add.reduceat(weights * labels[order], starts, axis=1).astype(np.float64)
    negatives = np.add.reduceat(weights * ~labels[order], starts, axis=1).astype(np.float64)
    below = np.cumsum(negatives, axis=1) - negatives / 2.0
    pairs = positives.sum(axis=1) * negatives.sum(axis=1)
    won = (positives * below).sum(axis=1)
    areas: Floats = np.divide(won, pairs, out=np.full(len(weights), np.nan), where=pairs > 0)
    return areas
