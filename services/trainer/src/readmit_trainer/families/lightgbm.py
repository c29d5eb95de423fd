"""Gradient-boosted trees."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar

import lightgbm
import numpy as np

from readmit_trainer.families.fitted import SEED, Fitted, Floats, FoldScore, Params, TrainingRows

if TYPE_CHECKING:
    import optuna

# The search takes large steps and stops by itself; the last fit takes small ones, and as many more.
SEARCH_RATE, RATE = 0.06, 0.03
MAX_TREES, _PATIENCE = 600, 40


class LightGbm:
    """Log-loss without reweighting the rare class, so that probabilities stay honest.

    With a model to go on from, its trees stay as they are and new ones correct them on the rows that are given here.
    """

    start: ClassVar[Params] = {"num_leaves": 15, "min_child_samples": 20, "feature_fraction": 0.5, "lambda_l2": 1.0}

    def __init__(self, data: TrainingRows) -> None:
        self._data = data
        self._before = None if data.start is None else lightgbm.Booster(model_str=data.start.decode())
        self._fixed: dict[str, Any] = {
            "objective": "binary", "bagging_fraction": 0.8, "bagging_freq": 1, "seed": SEED, "deterministic": True,
            "force_row_wise": True, "feature_pre_filter": False, "verbosity": -1, "num_threads": data.threads,
        }  # fmt: skip

    def suggest(self, trial: optuna.Trial) -> Params:
        """Size of the trees, and how much they are held back."""
        return {
            "num_leaves": trial.suggest_int("num_leaves", 7, 63, log=True),
            "min_child_samples": trial.suggest_int("min_child_samples", 10, 300, log=True),
            "feature_fraction": trial.suggest_float("feature_fraction", 0.2, 1.0),
            "lambda_l2": trial.suggest_float("lambda_l2", 0.1, 50.0, log=True),
        }

    def score_fold(self, params: Params, held_out: int) -> FoldScore:
        """Stops when the held-out loss no longer falls; `num_trees` is the best number, at the last fit's rate."""
        train, held = self._folds[held_out]
        booster = lightgbm.train(
            {**self._fixed, **params, "learning_rate": SEARCH_RATE}, train, num_boost_round=MAX_TREES,
            valid_sets=[held], callbacks=[lightgbm.early_stopping(_PATIENCE, verbose=False)],
        )  # fmt: skip
        trees = round(booster.best_iteration * SEARCH_RATE / RATE)
        loss = booster.best_score["valid_0"]["binary_logloss"]
        return FoldScore(float(loss), {**params, "num_trees": trees})

    def settle(self, params: Params, folds: Sequence[Params]) -> Params:
        """The median number of trees: a fold that stops late must not decide alone."""
        trees = int(np.median([int(fold["num_trees"]) for fold in folds]))
        return {**params, "num_trees": max(1, trees)}

    def fit(self, params: Params) -> Fitted:
        """The model file is LightGBM's own text format."""
        told = {**params, "learning_rate": RATE}
        trees = int(told.pop("num_trees"))
        # Given the earlier model itself, LightGBM puts the old trees and the new ones into one model.
        rows = self._binned if self._before is None else self._bin(None)
        booster = lightgbm.train({**self._fixed, **told}, rows, num_boost_round=trees, init_model=self._before)
        return self._fitted(booster, told)

    def _fitted(self, booster: lightgbm.Booster, told: Params) -> Fitted:
        threads = self._data.threads

        def probabilities(rows: Floats) -> Floats:
            return np.asarray(booster.predict(rows, num_threads=threads), dtype=np.float64)

        gains = np.asarray(booster.feature_importance("gain"), dtype=np.float64)
        shown = {**told, "num_trees": booster.num_trees(), "bagging_fraction": self._fixed["bagging_fraction"]}
        return Fitted("lightgbm_text", booster.model_to_string().encode(), shown, probabilities, gains)

    @cached_property
    def _binned(self) -> lightgbm.Dataset:
        # Bins are made without looking at labels, so that folds may share them: a search bins once.
        before = self._before
        margins = None if before is None else before.predict(
            self._data.rows, raw_score=True, num_threads=self._data.threads
        )  # fmt: skip
        return self._bin(margins).construct()

    def _bin(self, margins: Any) -> lightgbm.Dataset:
        """All rows, with the log-odds (n,) that trees are to correct; None: there are none yet."""
        return lightgbm.Dataset(
            self._data.rows, self._data.labels.astype(np.float64), init_score=margins, params=self._fixed,
            free_raw_data=False,
        )  # fmt: skip

    @cached_property
    def _folds(self) -> list[tuple[lightgbm.Dataset, lightgbm.Dataset]]:
        parts = []
        for held_out in range(self._data.folds):
            out = self._data.fold == held_out
            inside, outside = (np.flatnonzero(where).tolist() for where in (~out, out))
            parts.append((self._binned.subset(inside).construct(), self._binned.subset(outside).construct()))
        return parts
