"""One decision tree: the model that fits on a page."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from sklearn.tree import DecisionTreeClassifier

from readmit_trainer.families.fitted import SEED, Fitted, Floats, FoldScore, Labels, Params, TrainingRows, log_loss

if TYPE_CHECKING:
    import optuna


class DecisionTree:
    """Grown by log-loss, then shrunk: each node's rate leans on its parent's as if `prior_rows` rows stood behind that.

    Hierarchical shrinkage (Agarwal and others 2022), which lets a tree grow deep without believing its small leaves.
    """

    start: ClassVar[Params] = {"max_depth": 12, "min_samples_leaf": 40, "prior_rows": 4000.0}

    def __init__(self, data: TrainingRows) -> None:
        self._data = data

    def suggest(self, trial: optuna.Trial) -> Params:
        """How far it grows, and how far its leaves are held back."""
        return {
            "max_depth": trial.suggest_int("max_depth", 4, 14),
            "min_samples_leaf": trial.suggest_int("min_samples_leaf", 30, 800, log=True),
            "prior_rows": trial.suggest_float("prior_rows", 100.0, 20_000.0, log=True),
        }

    def score_fold(self, params: Params, held_out: int) -> FoldScore:
        """One tree on the other folds."""
        rows, labels, held_rows, held_labels = self._data.split(held_out)
        model = _grow(rows, labels, params)
        return FoldScore(log_loss(held_labels, model.predict_proba(held_rows)[:, 1]), params)

    def settle(self, params: Params, folds: Sequence[Params]) -> Params:  # noqa: ARG002  nothing is settled
        """As suggested."""
        return params

    def fit(self, params: Params) -> Fitted:
        """The model file is the tree's arrays, log-odds in the leaves."""
        model = _grow(self._data.rows, self._data.labels, params)
        tree = model.tree_
        is_leaf = tree.children_left < 0
        share = tree.value[:, 0, 1]
        arrays = {
            "width": self._data.rows.shape[1],
            "feature": np.where(is_leaf, -1, tree.feature).tolist(),
            "threshold": np.where(is_leaf, 0.0, tree.threshold).tolist(),
            "left": tree.children_left.tolist(),
            "right": tree.children_right.tolist(),
            "value": np.log(share / (1.0 - share)).tolist(),
            "rows": tree.n_node_samples.tolist(),
        }

        def probabilities(rows: Floats) -> Floats:
            return np.asarray(model.predict_proba(rows)[:, 1], dtype=np.float64)

        importances = np.asarray(model.feature_importances_, dtype=np.float64)
        shown = {**params, "criterion": "log_loss"}
        return Fitted("tree_arrays", json.dumps(arrays).encode(), shown, probabilities, importances)


def _grow(rows: Floats, labels: Labels, params: Params) -> Any:
    """A fitted tree whose own probabilities are the shrunk ones."""
    growth = {name: value for name, value in params.items() if name != "prior_rows"}
    prior_rows = float(params["prior_rows"])
    model = DecisionTreeClassifier(criterion="log_loss", random_state=SEED, **growth).fit(rows, labels)
    tree = model.tree_
    raw, rows_of = tree.value[:, 0, 1].copy(), tree.n_node_samples
    share = raw.copy()
    for parent in np.flatnonzero(tree.children_left >= 0).tolist():  # a parent stands before its children
        for child in (tree.children_left[parent], tree.children_right[parent]):
            share[child] = share[parent] + (raw[child] - raw[parent]) / (1.0 + prior_rows / rows_of[parent])
    tree.value[:, 0, 0], tree.value[:, 0, 1] = 1.0 - share, share
    return model
