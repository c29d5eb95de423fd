"""The pictures of a model, and the figures that stand in them."""

from __future__ import annotations

import io
import sys

import numpy as np
import pytest
from matplotlib.image import imread

from readmit_trainer.evidence import patient_keys
from readmit_trainer.plots import LearningPoint, bands_of, net_benefit, pictures, wilson
from readmit_trainer.resampling import Interval, intervals

RANDOM = np.random.default_rng(4)
ROWS = 3_000
RISKS = RANDOM.beta(1.5, 10, ROWS)
LABELS = RANDOM.random(ROWS) < RISKS
PATIENTS = patient_keys(np.arange(ROWS) // 2)
HELD_OUT = PATIENTS % np.uint64(2) == 1
SCORES = intervals(RISKS, LABELS, PATIENTS)
IMPORTANCES = {f"a feature with a name that goes on and on and on, number {n}": 1 / 40 for n in range(40)}


def drawn(risks: np.ndarray, batches: int = 3) -> dict[str, bytes]:
    curve = [LearningPoint(k, 15_000 * k, Interval(0.6 + k / 100, 0.59, 0.67)) for k in range(1, batches + 1)]
    return pictures(risks, LABELS, PATIENTS, HELD_OUT, 0.125, SCORES, IMPORTANCES, curve)


def test_every_picture_is_a_png_of_800_pixels_that_shows_something() -> None:
    found = drawn(RISKS)
    assert set(found) == {
        "roc.png", "precision_recall.png", "reliability.png", "decision_curve.png", "confusion_matrix.png",
        "importances.png", "learning_curve.png",
    }  # fmt: skip
    for name, content in found.items():
        pixels = imread(io.BytesIO(content), format="png")
        assert pixels.shape[:2] == (575, 805), name
        ink = pixels[..., :3].min(axis=2) < 0.9
        assert 0.005 < ink.mean() < 0.9, name
        assert not ink[:, [0, -1]].any(), f"{name} is cut off at its side"
        assert not ink[[0, -1]].any(), f"{name} is cut off at its top or bottom"


def test_other_risks_give_other_pictures_and_the_same_ones_the_same() -> None:
    first, again, other = drawn(RISKS), drawn(RISKS), drawn(RISKS[::-1].copy())
    assert first == again
    assert {name for name in first if first[name] == other[name]} == {"importances.png", "learning_curve.png"}


@pytest.mark.parametrize("risks", [np.full(ROWS, 0.1), np.where(LABELS, 0.9, 0.1)], ids=["one risk", "all right"])
def test_models_that_know_nothing_or_everything_can_be_drawn(risks: np.ndarray) -> None:
    assert len(drawn(risks, batches=1)) == 7


def test_drawing_leaves_no_state_behind() -> None:
    drawn(RISKS)
    assert "matplotlib.pyplot" not in sys.modules


def test_the_wilson_interval_is_the_published_one() -> None:
    low, high = wilson(np.array([0.0, 8.0, 10.0]), np.array([10.0, 10.0, 10.0]))
    assert low == pytest.approx([0.0, 0.4902, 0.7225], abs=1e-4)
    assert high == pytest.approx([0.2775, 0.9433, 1.0], abs=1e-4)


def test_following_up_everybody_is_worth_the_rate_less_the_odds_of_the_rest() -> None:
    thresholds = np.array([0.1, 0.25, 0.5])
    rate = LABELS.mean()
    found = net_benefit(np.ones(ROWS), LABELS, thresholds)
    assert found == pytest.approx(rate - (1 - rate) * thresholds / (1 - thresholds))
    assert net_benefit(np.zeros(ROWS), LABELS, thresholds).tolist() == [0, 0, 0]
    assert (net_benefit(LABELS.astype(float), LABELS, thresholds) == rate).all()


def test_the_bands_hold_the_curves() -> None:
    bands = bands_of(RISKS, LABELS, PATIENTS)
    order = np.argsort(-RISKS)
    hits, alarms = np.cumsum(LABELS[order]), np.cumsum(~LABELS[order])
    recall, false_alarms = hits / hits[-1], alarms / alarms[-1]
    inside = slice(5, 96)
    curve = np.interp(bands.grid, false_alarms, recall)[inside]
    assert (bands.recall[0, inside] <= curve).all()
    assert (curve <= bands.recall[1, inside]).all()
    precision = np.interp(bands.grid, recall, hits / (hits + alarms))[inside]
    assert (bands.precision[0, inside] - 0.02 <= precision).all()
    assert (precision <= bands.precision[1, inside] + 0.02).all()
    assert 0.01 < (bands.recall[1] - bands.recall[0])[inside].mean() < 0.2
