"""Gradient-boosted trees."""

from __future__ import annotations

import lightgbm
import numpy as np

from readmit_trainer.families.fitted import SEED, Fitted, Floats, Labels

# Log-loss without reweighting the rare class, so that probabilities stay honest; many small, well-fed, regularised
# trees, since most of the signal is additive and the rest is noise.
_PARAMS: dict[str, float | int | str] = {
    "objective": "binary",
    "learning_rate": 0.03,
    "num_leaves": 15,
    "min_child_samples": 100,
    "feature_fraction": 0.3,
    "bagging_fraction": 0.8,
    "bagging_freq": 1,
    "lambda_l2": 10.0,
}
_TREES = 500


def fit(rows: Floats, labels: Labels, threads: int) -> Fitted:
    """Fit; the model file is LightGBM's own text format."""
    fixed = {"seed": SEED, "deterministic": True, "force_row_wise": True, "verbosity": -1, "num_threads": threads}
    data = lightgbm.Dataset(rows, labels.astype(np.float64))
    booster = lightgbm.train({**_PARAMS, **fixed}, data, num_boost_round=_TREES)

    def probabilities(new_rows: Floats) -> Floats:
        return np.asarray(booster.predict(new_rows, num_threads=threads), dtype=np.float64)

    return Fitted("lightgbm_text", booster.model_to_string().encode(), {**_PARAMS, "num_trees": _TREES}, probabilities)
