"""The figures of the gates against their definitions, and that they are the same bits everywhere."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from readmit_promoter import net_benefit
from readmit_promoter.bootstrap import Distribution, Floats, Interval, Labels, bootstrap
from readmit_promoter.calibration import calibration
from readmit_promoter.elementary import exp, log, logistic, logit
from readmit_promoter.gates import within
from readmit_promoter.verdict import Status

FINITE = st.floats(min_value=2.0**-1000, max_value=2.0**1000)


def once(values: float) -> Floats:
    return np.array([values])


@given(FINITE)
@settings(max_examples=500, deadline=None)
def test_log_is_within_a_few_bits_of_the_truth(x: float) -> None:
    assert float(log(once(x))[0]) == pytest.approx(math.log(x), rel=4e-16, abs=2e-16)


@given(st.floats(-700, 700))
@settings(max_examples=500, deadline=None)
def test_exp_is_within_a_few_bits_of_the_truth(x: float) -> None:
    assert float(exp(once(x))[0]) == pytest.approx(math.exp(x), rel=1e-15)


def test_log_and_exp_give_the_bits_that_they_gave_when_they_were_written() -> None:
    """Pinned: made of operations that IEEE 754 defines, they can differ on no machine."""
    assert float(logit(once(0.1))[0]).hex() == "-0x1.193ea7aad030ap+1"
    assert float(logistic(once(-2.2))[0]).hex() == "0x1.9893f80876febp-4"
    assert float(log(once(3.0))[0]).hex() == "0x1.193ea7aad030bp+0"


def drawn(label: Labels, risk: Floats, rows: int = 1) -> dict[str, Distribution]:
    inside = np.ones(len(label), dtype=np.bool_)
    patient = np.arange(len(label), dtype=np.uint64) // np.uint64(rows)
    return dict(bootstrap([calibration(label, risk, inside)], patient, resamples=200, seed=3))


def population(rows: int, slope: float = 1.0, shift: float = 0.0, seed: int = 0) -> tuple[Labels, Floats]:
    """Outcomes of a logistic model, and risks whose log-odds need this slope and shift to be right."""
    random = np.random.default_rng(seed)
    truth = random.normal(-1.5, 1.0, rows)
    label = random.random(rows) < 1 / (1 + np.exp(-truth))
    return label, 1 / (1 + np.exp(-(truth - shift) / slope))


def test_calibration_figures_are_their_definitions() -> None:
    label, risk = population(2000, slope=0.7, shift=0.3)
    found = drawn(label, risk)
    bins = np.array_split(np.argsort(risk, kind="stable"), 10)
    error = sum(abs(risk[one].sum() - label[one].sum()) for one in bins) / len(risk)
    assert found["calibration_error"].point == pytest.approx(error, abs=1e-7)
    assert found["in_the_large"].point == pytest.approx(label.mean() - risk.mean(), abs=1e-7)
    z = np.log(risk / (1 - risk))

    def gradient(a: float, b: float) -> Floats:
        p = 1 / (1 + np.exp(-(a + b * z)))
        return np.array([(label - p).mean(), ((label - p) * z).mean()])

    slope = found["slope"].point
    offsets = np.linspace(-2, 2, 4001)
    best = min(offsets, key=lambda a: abs(gradient(a, slope)[0]))
    assert gradient(best, slope) == pytest.approx([0, 0], abs=1e-3)


@pytest.mark.parametrize("slope", [0.6, 1.0, 1.6])
def test_the_slope_is_found_and_its_interval_covers_the_truth_as_often_as_it_says(slope: float) -> None:
    """40 populations; an interval of 90 % misses in 4 of them, and in more than 11 by a chance of 1 in 3,000."""
    missed = 0
    for seed in range(40):
        interval = drawn(*population(1500, slope=slope, seed=seed))["slope"].interval(0.05)
        assert interval is not None
        missed += not interval.low <= slope <= interval.high
    assert missed <= 11


@pytest.mark.parametrize(
    ("label", "risk"),
    [
        (np.arange(100) % 3 == 0, np.full(100, 0.3)),  # one risk for all
        (np.arange(100) > 50, np.arange(100) / 100),  # told apart without fail: the slope has no end
        (np.zeros(100, dtype=np.bool_), np.arange(100) / 100),
    ],
)
def test_where_no_slope_can_be_fitted_there_is_none(label: Labels, risk: Floats) -> None:
    found = drawn(label, risk)
    assert found["slope"].interval(0.05) is None
    assert found["calibration_error"].interval(0.05) is not None


ROWS = st.lists(st.tuples(st.booleans(), st.integers(0, 10), st.integers(0, 10)), min_size=1, max_size=40)


@given(ROWS, st.integers(0, 9))
@settings(max_examples=200, deadline=None)
def test_net_benefit_is_its_definition(rows: list[tuple[bool, int, int]], tenths: int) -> None:
    """Vickers and Elkin 2006, page 567: TP / n - FP / n * pt / (1 - pt)."""
    label, first, second = (np.array(column) for column in zip(*rows, strict=True))
    label, first, second, threshold = label.astype(np.bool_), first / 10, second / 10, tenths / 10

    def benefit(flagged: Labels) -> float:
        caught, needless = int((flagged & label).sum()), int((flagged & ~label).sum())
        return (caught - needless * threshold / (1 - threshold)) / len(label)

    patient = np.arange(len(label), dtype=np.uint64)
    own, both = (
        bootstrap([statistic], patient, resamples=100, seed=1)
        for statistic in (
            net_benefit.over_default(label, first, threshold),
            net_benefit.difference(label, first, second, threshold),
        )
    )
    everybody = benefit(np.ones_like(label))
    assert own["net_benefit"].point == pytest.approx(benefit(first >= threshold), abs=1e-12)
    assert own["net_benefit_gain"].point == pytest.approx(benefit(first >= threshold) - max(0.0, everybody), abs=1e-12)
    expected = benefit(first >= threshold) - benefit(second >= threshold)
    assert both["net_benefit_difference"].point == pytest.approx(expected, abs=1e-12)


def test_figures_are_the_same_bits_as_when_they_were_written() -> None:
    """Pinned, so that a change of library or platform that would alter an old decision is seen."""
    position = np.arange(600, dtype=np.uint64)
    label = position % np.uint64(7) == 0
    risk = 0.05 + ((position * np.uint64(37)) % np.uint64(101)).astype(np.float64) / 101 * 0.3 + 0.2 * label
    statistics = [calibration(label, risk, position % np.uint64(2) == 0), net_benefit.over_default(label, risk, 0.2)]
    found = bootstrap(statistics, position // np.uint64(3), resamples=200, seed=5)
    told = {name: figure.interval(0.05) for name, figure in found.items()}
    assert told == PINNED


def test_a_figure_that_noise_only_pushes_up_has_its_interval_turned_round() -> None:
    distribution = Distribution(0.02, np.linspace(0.021, 0.04, 99))
    plain, turned = distribution.interval(0.05), distribution.reflected(0.05)
    assert plain is not None
    assert turned is not None
    assert plain.low > plain.point
    assert turned.low <= turned.point <= turned.high
    assert turned.low == pytest.approx(max(0.0, 0.04 - plain.high))


def test_an_interval_that_is_not_to_be_had_is_none() -> None:
    whole = Distribution(0.5, np.linspace(0, 1, 100))
    assert whole.interval(0.05) is not None
    assert whole.interval(0.009) is None
    assert Distribution(0.5, np.append(np.linspace(0, 1, 99), np.nan)).interval(0.05) is None
    assert Distribution(math.nan, np.linspace(0, 1, 100)).reflected(0.05) is None


@pytest.mark.parametrize(
    ("low", "high", "status"),
    [
        (0.9, 1.1, Status.PASS),
        (0.8, 1.2, Status.PASS),
        (0.7, 1.1, Status.INSUFFICIENT),
        (0.9, 1.3, Status.INSUFFICIENT),
        (0.1, 0.7, Status.FAIL),
        (1.3, 1.4, Status.FAIL),
        (0.1, 2.0, Status.INSUFFICIENT),
    ],
)
def test_a_limit_is_kept_broken_or_neither(low: float, high: float, status: Status) -> None:
    assert within(Interval((low + high) / 2, low, high), 0.8, 1.2) is status
    assert within(None, 0.8, 1.2) is Status.INSUFFICIENT


PINNED = {
    "calibration_error": Interval(0.18310231044888498, 0.16028946648455328, 0.20201802629965088),
    "in_the_large": Interval(-0.08372937306761742, -0.10579207996527354, -0.059636080643803775),
    "slope": Interval(6.7968970249071985, 4.9198054565181195, 8.152448357680743),
    "net_benefit": Interval(0.03791666666666667, 0.01625, 0.05875),
    "net_benefit_gain": Interval(0.03791666666666667, 0.01625, 0.05875),
}
