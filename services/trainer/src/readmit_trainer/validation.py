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
from readmit_trainer.resampling import BINS, auroc_interval

Floats = NDArray[np.float64]
Labels = NDArray[np.bool_]
Keys = NDArray[np.uint64]


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
    bins = np.array_split(np.argsort(risks, kind="stable"), BINS)
    return float(sum(abs(risks[b].sum() - labels[b].sum()) for b in bins) / len(risks))
