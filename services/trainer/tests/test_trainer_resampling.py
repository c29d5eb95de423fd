"""Intervals, held against plainer computations."""

from __future__ import annotations

import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import average_precision_score, roc_auc_score

from readmit_trainer.evidence import patient_keys
from readmit_trainer.resampling import (
    auroc_interval,
    draws,
    intervals,
    reflected,
    weighted_aurocs,
    weighted_average_precisions,
    weighted_calibration_errors,
)
from readmit_trainer.validation import calibration_error, hashed


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
    area = weighted_aurocs(np.array(risks), np.array(labels), np.array([weights], dtype=np.float32).T)[0]
    assert area == pytest.approx(brute_auroc(risks, labels, weights), nan_ok=True)


@settings(deadline=None)
@given(rows=st.lists(row, min_size=2, max_size=25).filter(lambda rows: any(one[1] and one[2] for one in rows)))
def test_the_weighted_average_precision_is_scikit_learns(rows: list[tuple[float, bool, int]]) -> None:
    risks, labels, weights = (np.array(column) for column in zip(*rows, strict=True))
    ours = weighted_average_precisions(risks, labels, weights[:, np.newaxis].astype(np.float32))[0]
    assert ours == pytest.approx(average_precision_score(labels, risks, sample_weight=weights))


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


def test_intervals_over_a_full_validation_split_take_a_second_or_so() -> None:
    started = time.thread_time()  # what other processes take is not ours
    intervals(*population(15_000, 2))
    assert time.thread_time() - started < 1.5


def test_every_score_lies_in_its_interval_and_is_the_plain_one() -> None:
    risks, labels, patients = population(3_000, 5, rows_per_patient=3)
    found = intervals(risks, labels, patients)
    plain = {
        "auroc": roc_auc_score(labels, risks),
        "average_precision": average_precision_score(labels, risks),
        "brier": np.mean((risks - labels) ** 2),
        "calibration_error": calibration_error(risks, labels),
    }
    assert {name: one.value for name, one in found.items()} == pytest.approx(plain)
    for name in ("auroc", "average_precision", "brier"):
        assert found[name].low < found[name].value < found[name].high
    assert (found["auroc"].low, found["auroc"].high) == pytest.approx(auroc_interval(risks, labels, patients))


def calibrated(rows: int, seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Risks that are exactly right, so that the true calibration error is 0."""
    random = np.random.default_rng(seed)
    risks = random.beta(2, 14, rows)
    return risks, random.random(rows) < risks, patient_keys(np.arange(rows))


def test_the_interval_of_a_calibration_error_holds_the_error_and_reaches_down_to_the_truth() -> None:
    found = [intervals(*calibrated(2_000, seed))["calibration_error"] for seed in range(20)]
    assert all(one.low <= one.value <= one.high for one in found)
    assert sum(one.low < 0.002 for one in found) > 10
    assert max(one.high for one in found) < 0.06


def test_a_score_that_resampling_pushes_up_is_reflected_and_never_negative() -> None:
    found = reflected(0.01, np.linspace(0.011, 0.031, 1_001))
    assert (found.value, found.low, found.high) == (0.01, 0.0, 0.01)
    found = reflected(0.10, np.linspace(0.09, 0.13, 1_001))
    assert (found.low, found.high) == pytest.approx((0.071, 0.109))


def test_a_draw_takes_as_many_patients_as_there_are_and_all_rows_of_each() -> None:
    patients = np.array([7, 7, 8, 9, 9, 9], dtype=np.uint64)
    weights = np.concatenate(draws(patients, 120), axis=1)
    assert weights.shape == (6, 120)
    assert (weights[0] == weights[1]).all()
    assert (weights[[0, 2, 3]].sum(axis=0) == 3).all()
    assert len({tuple(draw) for draw in weights.T.tolist()}) == 10  # every way to draw three of three came up


def test_draws_do_not_depend_on_how_often_or_in_which_order_they_are_asked_for() -> None:
    patients, others = patient_keys(np.arange(50)), [patient_keys(np.arange(n)) for n in (20, 30, 40)]
    first = [chunk.copy() for chunk in draws(patients, 150)]
    for keys in others:  # more than are kept
        draws(keys, 150)
    for chunk, again in zip(first, draws(patients, 150), strict=True):
        np.testing.assert_array_equal(chunk, again)


def test_rows_that_are_drawn_twice_count_twice_in_the_calibration_error() -> None:
    risks, labels = np.linspace(0.1, 0.9, 10), np.arange(10) % 2 == 0
    once = weighted_calibration_errors(risks, labels, np.ones((10, 1), dtype=np.float32))[0]
    twice = weighted_calibration_errors(risks, labels, np.full((10, 1), 2, dtype=np.float32))[0]
    assert once == pytest.approx(twice) == pytest.approx(np.abs(risks - labels).mean())
    first = weighted_calibration_errors(risks, labels, np.array([[3.0], *[[0.0]] * 9], dtype=np.float32))[0]
    assert first == pytest.approx(abs(risks[0] - labels[0]))
