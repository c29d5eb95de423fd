"""Explanations: Shapley values against their definition, and against the margin that they explain."""

from __future__ import annotations

import itertools
import json
import math
from typing import Any

import lightgbm
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from readmit_bundle import BundleRefused, NotExplained
from readmit_bundle.scorers import load_lightgbm, load_linear, load_scorer, load_tree

_WIDTH = 5


@st.composite
def trees(draw: st.DrawFn) -> dict[str, Any]:
    """Any tree of up to four levels over five features, some of which it asks again and again."""
    file: dict[str, Any] = {
        "width": _WIDTH,
        "feature": [],
        "threshold": [],
        "left": [],
        "right": [],
        "value": [],
        "rows": [],
    }

    def grow(rows: int, depth: int) -> int:
        node = len(file["feature"])
        for name, empty in (("feature", -1), ("threshold", 0.0), ("left", -1), ("right", -1)):
            file[name].append(empty)
        file["value"].append(draw(st.floats(-3, 3)))
        file["rows"].append(rows)
        if depth and rows > 1 and draw(st.booleans()):
            file["feature"][node] = draw(st.integers(0, _WIDTH - 1))
            file["threshold"][node] = float(draw(st.integers(-3, 3)))
            to_the_left = draw(st.integers(1, rows - 1))
            file["left"][node] = grow(to_the_left, depth - 1)
            file["right"][node] = grow(rows - to_the_left, depth - 1)
        return node

    grow(draw(st.integers(1, 200)), 4)
    return file


def _expected(file: dict[str, Any], row: Any, known: frozenset[int]) -> float:
    """The game: the mean of the leaves where only some features are known."""

    def below(node: int) -> float:
        left, right = file["left"][node], file["right"][node]
        if left < 0:
            return float(file["value"][node])
        if file["feature"][node] in known:
            return below(left if row[file["feature"][node]] <= file["threshold"][node] else right)
        share = file["rows"][left] / file["rows"][node]
        return share * below(left) + (1 - share) * below(right)

    return below(0)


@settings(max_examples=150, deadline=None)
@given(file=trees(), row=st.lists(st.integers(-4, 4), min_size=_WIDTH, max_size=_WIDTH))
def test_a_trees_values_are_shapleys_by_definition(file: dict[str, Any], row: list[int]) -> None:
    scorer = load_tree(json.dumps(file).encode())
    told, base = scorer.shapley(np.array(row, dtype=np.float64))
    features = range(_WIDTH)
    for one in features:
        others = [other for other in features if other != one]
        expected = 0.0
        for size in range(_WIDTH):
            weight = 1.0 / (_WIDTH * math.comb(_WIDTH - 1, size))
            for known in itertools.combinations(others, size):
                without = frozenset(known)
                expected += weight * (_expected(file, row, without | {one}) - _expected(file, row, without))
        assert told[one] == pytest.approx(expected, abs=1e-9)
    assert base == pytest.approx(_expected(file, row, frozenset()), abs=1e-9)
    assert base + told.sum() == pytest.approx(scorer.one(np.array(row, dtype=np.float64)), abs=1e-9)


def test_lightgbms_values_sum_to_the_margin() -> None:
    rng = np.random.default_rng(1)
    rows = rng.normal(size=(500, 6))
    labels = rows[:, 0] + rows[:, 1] * rows[:, 2] > 0
    parameters = {"objective": "binary", "verbose": -1, "num_threads": 1}
    booster = lightgbm.train(parameters, lightgbm.Dataset(rows, labels.astype(int)), num_boost_round=20)
    scorer = load_lightgbm(booster.model_to_string().encode())
    for row in rows[:20]:
        told, base = scorer.shapley(row)
        assert told.shape == (6,)
        assert base + told.sum() == pytest.approx(scorer.one(row), abs=1e-9)


def test_a_linear_models_values_are_distances_from_the_mean() -> None:
    file = {"intercept": -1.0, "coefficients": [0.5, -2.0], "means": [1.0, 3.0]}
    scorer = load_linear(json.dumps(file).encode())
    told, base = scorer.shapley(np.array([2.0, 3.0]))
    assert told.tolist() == [0.5, 0.0]
    assert base == pytest.approx(-1.0 + 0.5 - 6.0)
    assert base + told.sum() == pytest.approx(scorer.one(np.array([2.0, 3.0])))


def test_models_that_were_written_before_are_scored_and_not_explained() -> None:
    linear = load_linear(json.dumps({"intercept": 0.0, "coefficients": [1.0]}).encode())
    tree = {"width": 1, "feature": [-1], "threshold": [0.0], "left": [-1], "right": [-1], "value": [0.5]}
    for scorer in (linear, load_tree(json.dumps(tree).encode())):
        assert math.isfinite(scorer.one(np.array([1.0])))
        with pytest.raises(NotExplained, match="lacks"):
            scorer.shapley(np.array([1.0]))


@pytest.mark.parametrize(
    ("kind", "file"),
    [
        ("linear", {"intercept": 0.0, "coefficients": [1.0], "means": [1.0, 2.0]}),
        ("tree_arrays", {"rows": [5]}),
        ("tree_arrays", {"rows": [5, 2, 2]}),
        ("tree_arrays", {"rows": [2, 2, 0]}),
    ],
)
def test_numbers_that_contradict_each_other_are_refused(kind: Any, file: dict[str, Any]) -> None:
    stump = {"width": 1, "feature": [0, -1, -1], "threshold": [0.0] * 3, "left": [1, -1, -1], "right": [2, -1, -1],
             "value": [0.0, 1.0, 2.0]}  # fmt: skip
    with pytest.raises(BundleRefused):
        load_scorer(kind, json.dumps(file if kind == "linear" else stump | file).encode())
