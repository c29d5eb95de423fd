"""Calibration maps: what each formula says, and that none of them turns patients round."""

from __future__ import annotations

import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError

from readmit_bundle import Beta, Calibration, Identity, Isotonic, Platt

MAPS: list[Any] = [
    Identity(),
    Platt(a=0.7, b=-0.3),
    Beta(a=0.8, b=0.2, c=-0.1),
    Isotonic(margins=(-3.0, -1.0, 0.5), risks=(0.02, 0.2, 0.2)),
]
MARGIN = st.floats(-800, 800)


@pytest.mark.parametrize("one", MAPS, ids=lambda one: one.method)
def test_a_map_survives_json(one: Any) -> None:
    adapter: TypeAdapter[Any] = TypeAdapter(Calibration)
    assert adapter.validate_json(one.model_dump_json()) == one


@pytest.mark.parametrize("one", MAPS, ids=lambda one: one.method)
@given(first=MARGIN, second=MARGIN)
def test_a_higher_margin_never_means_a_lower_risk(one: Any, first: float, second: float) -> None:
    low, high = sorted((first, second))
    assert 0.0 <= one.risk(low) <= one.risk(high) <= 1.0


@given(margin=st.floats(-30, 30))
def test_the_formulas_are_those_of_the_papers(margin: float) -> None:
    p = 1 / (1 + math.exp(-margin))
    assert Identity().risk(margin) == pytest.approx(p, rel=1e-12)
    assert Platt(a=0.7, b=-0.3).risk(margin) == pytest.approx(1 / (1 + math.exp(-(0.7 * margin - 0.3))), rel=1e-12)
    if 1e-9 < p < 1 - 1e-9:
        odds = math.exp(-0.1) * p**0.8 / (1 - p) ** 0.2
        assert Beta(a=0.8, b=0.2, c=-0.1).risk(margin) == pytest.approx(odds / (1 + odds), rel=1e-6)


def test_beyond_its_knots_an_isotonic_map_is_level_and_between_them_straight() -> None:
    one = Isotonic(margins=(-3.0, -1.0, 0.5), risks=(0.02, 0.2, 0.3))
    assert [one.risk(m) for m in (-9.0, -3.0, -2.0, -1.0, 0.5, 9.0)] == pytest.approx([0.02, 0.02, 0.11, 0.2, 0.3, 0.3])


@pytest.mark.parametrize(
    "fields",
    [
        {"method": "platt", "a": -1.0, "b": 0.0},
        {"method": "beta", "a": -0.1, "b": 1.0, "c": 0.0},
        {"method": "isotonic", "margins": [0.0, 1.0], "risks": [0.3, 0.2]},
        {"method": "isotonic", "margins": [0.0, 0.0], "risks": [0.1, 0.2]},
        {"method": "isotonic", "margins": [0.0, 1.0], "risks": [0.1]},
        {"method": "isotonic", "margins": [0.0, 1.0], "risks": [0.1, 1.2]},
        {"method": "temperature", "a": 1.0},
    ],
)
def test_a_map_that_would_turn_patients_round_or_is_unknown_is_refused(fields: dict[str, Any]) -> None:
    adapter: TypeAdapter[Any] = TypeAdapter(Calibration)
    with pytest.raises(ValidationError):
        adapter.validate_python(fields)
