"""AUROC and calibration in the large, with their standard errors, against computations of another kind."""

from __future__ import annotations

import numpy as np
import pytest

from readmit_monitor.clustered import Estimate, Floats, Labels, Patients, auroc, in_the_large

Rows = tuple[Labels, Floats, Patients]


def rows_of(patients: int, each: int, seed: int, *, ties: bool = False) -> Rows:
    """Encounters of patients who differ from each other in risk and in what the risk does not know."""
    rng = np.random.default_rng(seed)
    patient = np.repeat(np.arange(patients), each)
    z = rng.normal(size=patients)[patient] + 0.3 * rng.normal(size=len(patient))
    unknown = 1.5 * rng.normal(size=patients)[patient]
    risk = 1 / (1 + np.exp(1.5 - z))
    label = rng.random(len(patient)) < 1 / (1 + np.exp(1.5 - z - unknown))
    return label, np.round(risk, 1) if ties else risk, patient


def one_by_one(label: Labels, risk: Floats) -> float:
    """AUROC by its definition: over every pair."""
    pairs = [(p > n) + (p == n) / 2 for p in risk[label] for n in risk[~label]]
    return float(np.mean(pairs))


@pytest.mark.parametrize("ties", [False, True])
def test_auroc_is_the_share_of_pairs_that_are_in_order(ties: bool) -> None:
    label, risk, patient = rows_of(60, 2, 3, ties=ties)
    assert auroc(label, risk, patient).value == pytest.approx(one_by_one(label, risk), abs=1e-12)


@pytest.mark.parametrize("ties", [False, True])
def test_with_one_encounter_of_each_patient_the_error_is_delongs(ties: bool) -> None:
    label, risk, patient = rows_of(200, 1, 5, ties=ties)
    order = (risk[label][:, None] > risk[~label]) + (risk[label][:, None] == risk[~label]) / 2
    by_delong = order.mean(axis=1).var(ddof=1) / label.sum() + order.mean(axis=0).var(ddof=1) / (~label).sum()
    assert auroc(label, risk, patient).error == pytest.approx(float(np.sqrt(by_delong)), rel=1e-12)


def resampled(rows: Rows, times: int) -> tuple[float, float]:
    """Standard deviations of both figures when patients, with all of their encounters, are drawn again."""
    label, risk, patient = rows
    places = [np.flatnonzero(patient == number) for number in range(patient.max() + 1)]
    rng = np.random.default_rng(1)
    found = []
    for _ in range(times):
        drawn = np.concatenate([places[number] for number in rng.integers(0, len(places), len(places))])
        gaps = label[drawn] - risk[drawn]
        found.append((auroc(label[drawn], risk[drawn], np.arange(len(drawn))).value, gaps.mean()))
    of_auroc, of_gap = np.std(found, axis=0)
    return float(of_auroc), float(of_gap)


def alone(rows: Rows) -> tuple[Estimate, Estimate]:
    """As if each encounter were of another patient."""
    label, risk, _ = rows
    return auroc(label, risk, np.arange(len(label))), in_the_large(label, risk, np.arange(len(label)))


def test_the_errors_are_those_of_drawing_patients_again_and_not_encounters() -> None:
    rows = rows_of(300, 4, 7)
    drawn = resampled(rows, 2_000)
    for found, single, expected in zip((auroc(*rows), in_the_large(*rows)), alone(rows), drawn, strict=True):
        assert found.error == pytest.approx(expected, rel=0.08)
        assert single.error < 0.8 * expected


def test_a_window_that_happens_to_hold_few_positives_is_no_surer_of_it_than_the_risks_imply() -> None:
    risk, patient = np.full(1_000, 0.1), np.arange(1_000)
    few, usual, many = (np.arange(1_000) < count for count in (40, 100, 160))
    implied = np.sqrt(0.1 * 0.9 / 1_000)
    assert in_the_large(few, risk, patient) == pytest.approx((-0.06, implied))
    assert in_the_large(usual, risk, patient) == pytest.approx((0.0, implied), rel=0.01)
    assert in_the_large(many, risk, patient).error > 1.2 * implied


def test_risks_that_are_wholly_right_or_wholly_wrong_have_no_error() -> None:
    label = np.arange(100) < 40
    for risk, value in ((label.astype(float), 1.0), (1.0 - label, 0.0)):
        assert auroc(label, risk, np.arange(100)) == (value, 0.0)
