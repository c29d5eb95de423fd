"""The arithmetic of AUROC under reweighting, against its definition, and the bootstrap's promise."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from readmit_promoter.bootstrap import Floats, Interval, Keys, Labels, bootstrap
from readmit_promoter.discrimination import auroc, difference, own, rank


def by_definition(label: NDArray[np.bool_], risk: NDArray[np.float64], weight: NDArray[np.int64]) -> float:
    """The chance that a positive scores above a negative, over all pairs; a tie counts one half."""
    won = pairs = 0.0
    for i in np.flatnonzero(label):
        for j in np.flatnonzero(~label):
            pair = float(weight[i] * weight[j])
            pairs += pair
            won += pair * (1.0 if risk[i] > risk[j] else 0.5 if risk[i] == risk[j] else 0.0)
    return won / pairs if pairs else 0.5


def interval(label: Labels, risk: Floats, patient: Keys, *, resamples: int, seed: int) -> Interval | None:
    """Of the AUROC, in the policy in force."""
    return bootstrap([own(label, risk)], patient, resamples=resamples, seed=seed)["auroc"].interval(0.05)


# Few distinct risks, so that ties are common; weights of zero, so that a class can vanish.
ROWS = st.lists(st.tuples(st.booleans(), st.integers(0, 5), st.integers(0, 4)), min_size=1, max_size=25)


@given(ROWS)
@settings(max_examples=300, deadline=None)
def test_weighted_auroc_is_the_share_of_pairs_won_with_ties_counting_one_half(
    rows: list[tuple[bool, int, int]],
) -> None:
    label, risk, weight = (np.array(column) for column in zip(*rows, strict=True))
    expected = by_definition(label.astype(bool), risk / 5, weight)
    assert auroc(rank(label.astype(bool), risk / 5), weight[np.newaxis, :].astype(np.int32))[0] == pytest.approx(
        expected, abs=1e-12
    )


def test_each_resample_draws_whole_patients() -> None:
    """Two rows of each patient, one of each class: whichever patients are drawn, the order is the same."""
    patient = np.repeat(np.arange(50, dtype=np.uint64), 2)
    label = np.tile([True, False], 50)
    risk = np.where(label, 0.8, 0.2)
    assert interval(label, risk, patient, resamples=100, seed=1) == Interval(1.0, 1.0, 1.0)


def test_rows_of_one_patient_count_as_one_observation() -> None:
    """Copying every row of a patient ten times adds no knowledge, so that the interval stays as wide."""
    random = np.random.default_rng(3)
    label, risk = random.random(300) < 0.3, random.random(300)
    patient = np.arange(300, dtype=np.uint64)
    once = interval(label, risk, patient, resamples=400, seed=5)
    copied = interval(np.repeat(label, 10), np.repeat(risk, 10), np.repeat(patient, 10), resamples=400, seed=5)
    assert once is not None
    assert copied == once


def test_the_same_evidence_gives_the_same_figures_for_ever() -> None:
    """Pinned, so that a change of library or platform that would alter an old decision is seen."""
    position = np.arange(400, dtype=np.uint64)
    label = position % np.uint64(7) == 0
    risk = ((position * np.uint64(37)) % np.uint64(101)).astype(np.float64) / 101 * 0.7 + 0.3 * label
    figure = interval(label, risk, position // np.uint64(3), resamples=200, seed=2**200 + 1)
    assert figure == Interval(0.8285944746924784, 0.7790512113738576, 0.8697406340057637)


def test_a_candidate_that_is_no_better_wins_in_about_one_case_of_twenty() -> None:
    """600 comparisons of two models that see the same risk through noise of the same size."""
    random = np.random.default_rng(11)
    rows, trials = 500, 600
    wins = 0
    for trial in range(trials):
        patient = random.integers(0, rows // 2, rows).astype(np.uint64)
        frailty = random.normal(size=rows)[patient.astype(np.intp)]  # what the encounters of one patient share
        label = random.random(rows) < 1 / (1 + np.exp(1.5 - frailty))
        first, second = (frailty + 0.7 * random.normal(size=rows) for _ in range(2))
        drawn = bootstrap([difference(label, first, second)], patient, resamples=200, seed=trial)
        figure = drawn["auroc_difference"].interval(0.05)
        assert figure is not None
        wins += figure.low > 0
    assert 0.02 < wins / trials < 0.08
