"""Logistic regression on standardised features: the model that every other one has to beat."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar

import numpy as np
from sklearn.linear_model import LogisticRegression as Regression

from readmit_trainer.families.fitted import Fitted, Floats, FoldScore, Labels, Params, TrainingRows, log_loss

if TYPE_CHECKING:
    import optuna

# A feature that hardly varies in training may vary more later (a payer that only then was recorded): divided by a tiny
# deviation it would carry the margin away. With this floor it weighs little, and the penalty holds its coefficient.
_LEAST_SCALE = 0.3

_FIXED: Params = {"solver": "lbfgs", "max_iter": 300}


class LogisticRegression:
    """The scaling is part of the fit, and folded into the coefficients afterwards."""

    start: ClassVar[Params] = {"C": 0.003}

    def __init__(self, data: TrainingRows) -> None:
        self._data = data

    def suggest(self, trial: optuna.Trial) -> Params:
        """The inverse of the penalty."""
        return {"C": trial.suggest_float("C", 1e-4, 1.0, log=True)}

    def score_fold(self, params: Params, held_out: int) -> FoldScore:
        """One regression on the other folds."""
        rows, labels, held_rows, held_labels = self._data.split(held_out)
        probabilities = _regress(rows, labels, params).probabilities(held_rows)
        return FoldScore(log_loss(held_labels, probabilities), params)

    def settle(self, params: Params, folds: Sequence[Params]) -> Params:  # noqa: ARG002  nothing is settled
        """As suggested."""
        return params

    def fit(self, params: Params) -> Fitted:
        """The model file is the coefficients, for features that are not scaled."""
        return _regress(self._data.rows, self._data.labels, params)


def _regress(rows: Floats, labels: Labels, params: Params) -> Fitted:
    centre, scale = rows.mean(axis=0), rows.std(axis=0)
    scale = np.maximum(scale, _LEAST_SCALE)
    model = Regression(**_FIXED, **params).fit((rows - centre) / scale, labels)
    coefficients = model.coef_[0] / scale
    intercept = float(model.intercept_[0] - coefficients @ centre)
    file = {"intercept": intercept, "coefficients": coefficients.tolist(), "means": centre.tolist()}

    def probabilities(new_rows: Floats) -> Floats:
        return np.asarray(model.predict_proba((new_rows - centre) / scale)[:, 1], dtype=np.float64)

    importances = np.abs(model.coef_[0])
    return Fitted("linear", json.dumps(file).encode(), {**_FIXED, **params}, probabilities, importances)
