"""Calibration, scores and intervals, held against plainer computations."""

from __future__ import annotations

import io
import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import roc_auc_score

from readmit_trainer.domain import decision_threshold
from readmit_trainer.errors import BadTrainingData
from readmit_trainer.evidence import evidence_bytes, patient_keys, write_evidence
from readmit_trainer.validation import (
    at_threshold,
    auroc_interval,
    calibration_error,
    hashed,
    log_odds,
    validate,
    weighted_aurocs,
)


def brute_auroc(risks: list[float], labels: list[bool], weights: list[int]) -> float:
    """Every pair of a positive and a negative row, one by one."""
    won = pairs = 0.0
    for risk, label, weight in zip(risks, labels, weights, strict=True):
        for other, negative, times in zip(risks, labels, weights, strict=True):
            if label and not negative:
                pairs += weight * times
                won += weight * times * (1.0 if risk > other else 0.5 if risk == other else 0.0)
    return won / pairs if pairs else float("nan")


row = st.tuples(st.sampled_from([0.1, 0.2, 0.2000001, 0.5, 0.9]), st.booleans(), st.integers(0, 3))


@settings(deadline=None)
@given(rows=st.lists(row, min_size=1, max_size=25))
def test_the_weighted_auroc_is_that_of_all_pairs(rows: list[tuple[float, bool, int]]) -> None:
    risks, labels, weights = (list(column) for column in zip(*rows, strict=True))
    area = weighted_aurocs(np.array(risks), np.array(labels), np.array([weights]))[0]
    assert area == pytest.approx(brute_auroc(risks, labels, weights), nan_ok=True)


def population(rows: int, seed: int, rows_per_patient: int = 1) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    random = np.random.default_rng(seed)
    patients = np.arange(rows) // rows_per_patient
    truth = random.normal(size=patients.max() + 1)[patients]
    labels = random.random(patients.max() + 1)[patients] < 1 / (1 + np.exp(2 - truth))  # rows of a patient agree
    return 1 / (1 + np.exp(2 - truth - 0.3 * random.normal(size=rows))), labels, patient_keys(patients)


def test_the_interval_holds_the_auroc_and_widens_when_rows_belong_to_few_patients() -> None:
    risks, labels, patients = population(4_000, 1, rows_per_patient=8)
    low, high = auroc_interval(risks, labels, patients)
    assert low < roc_auc_score(labels, risks) < high
    alone_low, alone_high = auroc_interval(risks, labels, hashed(range(4_000), b"alone"))
    assert high - low > 2 * (alone_high - alone_low)


def test_an_interval_over_a_full_validation_split_takes_seconds_at_most() -> None:
    started = time.perf_counter()
    auroc_interval(*population(15_000, 2))
    assert time.perf_counter() - started < 10


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
    arguments = (encounters, patient_keys(patients), np.array([True, False, True]), np.array([0.3, 0.1, 0.2]))
    data = evidence_bytes(*arguments)
    assert data == evidence_bytes(*arguments)
    shelf: dict[str, bytes] = {}
    ref = write_evidence(shelf.__setitem__, "bucket", data)
    assert ref.uri == f"s3://bucket/evidence/{ref.sha256}/validation.npz"
    with np.load(io.BytesIO(shelf[ref.uri]), allow_pickle=False) as arrays:
        found = {name: arrays[name] for name in arrays.files}
    assert {name: str(a.dtype) for name, a in found.items()} == {
        "row": "uint64", "patient": "uint64", "label": "int8", "risk": "float64",
    }  # fmt: skip
    assert (np.diff(found["row"].astype(object)) > 0).all()
    assert not set(found["row"].tolist()) & {10, 20, 30}
    assert sorted(zip(found["risk"].tolist(), found["label"].tolist(), strict=True)) == [(0.1, 0), (0.2, 1), (0.3, 1)]
    assert len(set(found["patient"].tolist())) == 2
