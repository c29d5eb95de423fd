"""Choosing the calibration map by what the data say."""

from __future__ import annotations

import numpy as np
import pytest

from readmit_bundle import Beta, Identity, Isotonic, Platt
from readmit_trainer.calibration import apply, choose, fit_beta, fit_isotonic, fit_platt
from readmit_trainer.validation import calibration_error, hashed

ROWS = 24_000
RANDOM = np.random.default_rng(11)
MARGINS = RANDOM.normal(-1.5, 1.2, ROWS)
PATIENTS = hashed(range(ROWS), b"test")


def drawn(risks: np.ndarray, seed: int = 5) -> np.ndarray:
    return np.asarray(np.random.default_rng(seed).random(ROWS) < risks)


TRUE_BETA = Beta(a=0.2, b=2.0, c=0.1)
STEPS = Isotonic(margins=(-9.0, -2.6, -2.5, -1.0, -0.9, 9.0), risks=(0.02, 0.02, 0.2, 0.2, 0.7, 0.7))


def test_margins_that_are_right_are_left_alone() -> None:
    assert choose(MARGINS, drawn(apply(Identity(), MARGINS)), PATIENTS).calibration == Identity()


@pytest.mark.parametrize("true", [Platt(a=0.5, b=-0.7), TRUE_BETA, STEPS], ids=lambda one: one.method)
def test_the_map_that_the_data_follow_is_chosen_and_calibrates_new_rows(true: Platt | Beta | Isotonic) -> None:
    risks = apply(true, MARGINS)
    chosen = choose(MARGINS, drawn(risks), PATIENTS)
    assert chosen.calibration.method == true.method
    assert chosen.losses["identity"] > chosen.losses[true.method] + 0.001
    fresh = drawn(risks, seed=6)
    assert calibration_error(apply(chosen.calibration, MARGINS), fresh) < 0.015
    assert calibration_error(apply(Identity(), MARGINS), fresh) > 0.03


def test_fitted_coefficients_are_those_that_drew_the_labels() -> None:
    platt = fit_platt(MARGINS, drawn(apply(Platt(a=0.5, b=-0.7), MARGINS)))
    assert isinstance(platt, Platt)
    assert (platt.a, platt.b) == pytest.approx((0.5, -0.7), abs=0.05)
    beta = fit_beta(MARGINS, drawn(apply(TRUE_BETA, MARGINS)))
    assert isinstance(beta, Beta)
    assert (beta.a, beta.b, beta.c) == pytest.approx((0.2, 2.0, 0.1), abs=0.2)


def test_a_map_that_would_turn_patients_round_is_not_fitted() -> None:
    labels = drawn(apply(Identity(), MARGINS))
    assert fit_platt(-MARGINS, labels) == Identity()
    turned = fit_beta(-MARGINS, labels)
    assert isinstance(turned, Identity) or (turned.method == "beta" and turned.a >= 0 <= turned.b)


@pytest.mark.parametrize("fit", [fit_platt, fit_beta, fit_isotonic])
def test_where_nothing_can_be_learned_the_identity_stays(fit: object) -> None:
    assert callable(fit)
    assert fit(np.zeros(10), np.arange(10) < 5) == Identity()
    assert fit(np.arange(10.0), np.ones(10, dtype=bool)) == Identity()
