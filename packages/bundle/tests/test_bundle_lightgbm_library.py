"""LightGBM's C API says what its Python package says, without that package."""

from __future__ import annotations

import gc
import subprocess
import sys
from typing import Any

import lightgbm
import numpy as np
import pytest

from readmit_bundle.lightgbm_library import Booster, LightGbmError
from readmit_bundle.scorers import load_lightgbm

RANDOM = np.random.default_rng(5)
ROWS = RANDOM.integers(0, 9, (300, 4)).astype(np.float64)


def fitted(**parameters: Any) -> lightgbm.Booster:
    how = {"objective": "binary", "num_leaves": 7, "verbosity": -1, "num_threads": 1} | parameters
    labels = (ROWS[:, 0] + RANDOM.normal(0, 2, len(ROWS)) > 4).astype(int)
    return lightgbm.train(how, lightgbm.Dataset(ROWS, labels), num_boost_round=8)


def test_it_scores_and_explains_to_the_bit_as_the_package_does() -> None:
    theirs = fitted()
    ours = Booster(theirs.model_to_string())
    assert ours.num_feature() == theirs.num_feature()
    for asked in ({"raw_score": True}, {"pred_contrib": True}):
        for rows in (ROWS, ROWS[:1], np.asfortranarray(ROWS), ROWS[::3]):
            np.testing.assert_array_equal(ours.predict(rows, **asked), theirs.predict(rows, **asked))  # type: ignore[arg-type]


def test_a_model_of_many_classes_is_refused() -> None:
    with pytest.raises(LightGbmError, match="3 classes"):
        Booster(fitted(objective="multiclass", num_class=3).model_to_string())


@pytest.mark.parametrize("rows", [ROWS[:, :3], ROWS[0]])
def test_rows_of_another_shape_are_refused(rows: np.ndarray) -> None:
    with pytest.raises(LightGbmError, match="shape"):
        Booster(fitted().model_to_string()).predict(rows, raw_score=True)


def test_a_scorer_that_is_let_go_leaves_nothing_to_the_garbage_collector() -> None:
    """What it leaves adds up over reloads: after a start, collections are rare."""
    model = fitted().model_to_string().encode()
    load_lightgbm(model).one(ROWS[0])
    gc.collect()
    scorer = load_lightgbm(model)
    scorer.one(ROWS[0])
    scorer.many(ROWS)
    del scorer
    assert gc.collect() == 0


def test_scoring_imports_neither_the_package_nor_what_it_imports() -> None:
    """Half a second of each start, and 20 MB of each pod."""
    script = (
        "import sys; from readmit_bundle.scorers import load_lightgbm; load_lightgbm(sys.stdin.buffer.read());"
        "sys.exit(', '.join({'lightgbm', 'scipy', 'pandas', 'sklearn'} & set(sys.modules)) or 0)"
    )
    model = fitted().model_to_string().encode()
    done = subprocess.run([sys.executable, "-c", script], input=model, capture_output=True, check=False)
    assert done.returncode == 0, done.stderr.decode()
