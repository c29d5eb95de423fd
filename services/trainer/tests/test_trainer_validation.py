"""Calibration, scores and intervals, held against plainer computations."""

from __future__ import annotations

import io

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from readmit_trainer.domain import decision_threshold
from readmit_trainer.errors import BadTrainingData
from readmit_trainer.evidence import evidence_bytes, patient_keys, write_evidence
from readmit_trainer.validation import (
    at_threshold,
    calibration_error,
    hashed,
    log_odds,
    validate,
)


def population(rows: int, seed: int, rows_per_patient: int = 1) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    random = np.random.default_rng(seed)
    patients = np.arange(rows) // rows_per_patient
    truth = random.normal(size=patients.max() + 1)[patients]
    labels = random.random(patients.max() + 1)[patients] < 1 / (1 + np.exp(2 - truth))  # rows of a patient agree
    return 1 / (1 + np.exp(2 - truth - 0.3 * random.normal(size=rows))), labels, patient_keys(patients)


def test_calibration_mends_risks_that_are_all_too_high_and_keeps_their_order() -> None:
    risks, labels, patients = population(20_000, 3)
    inflated = 1 / (1 + np.exp(-(log_odds(risks) * 2 + 3)))
    assert calibration_error(inflated, labels) > 0.2
    validated = validate(inflated, labels, patients, 0.125)
    assert validated.scores.calibration_error < 0.02
    assert set(validated.losses) == {"identity", "platt", "beta", "isotonic"}
    assert validated.losses["identity"] > 1.2 * min(validated.losses.values())
    assert validated.scores.auroc == pytest.approx(roc_auc_score(labels, inflated), abs=1e-12)
    assert validated.scores.rows == 20_000


def test_precision_recall_and_alert_rate_are_those_of_the_threshold() -> None:
    risks, labels = np.array([0.1, 0.2, 0.3, 0.4]), np.array([False, True, False, True])
    assert at_threshold(risks, labels, 0.3) == {"precision": 0.5, "recall": 0.5, "alert_rate": 0.5}
    assert at_threshold(risks, labels, 0.9) == {"precision": None, "recall": 0.0, "alert_rate": 0.0}


def test_validation_without_both_classes_in_each_half_is_refused() -> None:
    with pytest.raises(BadTrainingData, match="too few rows"):
        validate(np.linspace(0.1, 0.9, 50), np.arange(50) == 7, hashed(range(50), b"x"), 0.125)


def test_the_threshold_follows_from_the_costs() -> None:
    assert decision_threshold(7.0) == 0.125


def test_evidence_is_pseudonymous_ordered_by_row_and_always_the_same_bytes() -> None:
    encounters, patients = np.array([30, 10, 20]), np.array([7, 7, 8])
    arguments = (
        encounters, patient_keys(patients), np.array([True, False, True]), np.array([0.3, 0.1, 0.2]),
        np.array([True, False, False]), {"race": ["Other", "(not recorded)", "Other"]},
    )  # fmt: skip
    data = evidence_bytes(*arguments)
    assert data == evidence_bytes(*arguments)
    shelf: dict[str, bytes] = {}
    ref = write_evidence(shelf.__setitem__, "bucket", data)
    assert ref.uri == f"s3://bucket/evidence/{ref.sha256}/validation.npz"
    with np.load(io.BytesIO(shelf[ref.uri]), allow_pickle=False) as arrays:
        found = {name: arrays[name] for name in arrays.files}
    assert {name: str(a.dtype) for name, a in found.items()} == {
        "row": "uint64", "patient": "uint64", "label": "int8", "risk": "float64", "held_out": "int8",
        "race": "uint8", "race_names": "<U14",
    }  # fmt: skip
    groups = found["race_names"][found["race"]].tolist()
    assert dict(zip(found["risk"].tolist(), groups, strict=True)) == {0.3: "Other", 0.1: "(not recorded)", 0.2: "Other"}
    assert dict(zip(found["risk"].tolist(), found["held_out"].tolist(), strict=True)) == {0.3: 1, 0.1: 0, 0.2: 0}
    assert (np.diff(found["row"].astype(object)) > 0).all()
    assert not set(found["row"].tolist()) & {10, 20, 30}
    assert sorted(zip(found["risk"].tolist(), found["label"].tolist(), strict=True)) == [(0.1, 0), (0.2, 1), (0.3, 1)]
    assert len(set(found["patient"].tolist())) == 2
