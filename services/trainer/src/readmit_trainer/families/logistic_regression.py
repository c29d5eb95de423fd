"""Logistic regression on standardised features: the model that every other one has to beat."""

from __future__ import annotations

import json

import numpy as np
from sklearn.linear_model import LogisticRegression

from readmit_trainer.families.fitted import Fitted, Floats, Labels

_PARAMS: dict[str, float | int | str] = {"C": 0.01, "solver": "lbfgs", "max_iter": 300}


def fit(rows: Floats, labels: Labels, threads: int) -> Fitted:  # noqa: ARG001  the worker bounds BLAS's threads
    """Fit; the model file is the coefficients, the scaling folded in."""
    centre, scale = rows.mean(axis=0), rows.std(axis=0)
    scale[scale == 0] = 1.0
    model = LogisticRegression(**_PARAMS).fit((rows - centre) / scale, labels)
    coefficients = model.coef_[0] / scale
    linear = {
        "intercept": float(model.intercept_[0] - coefficients @ centre),
        "coefficients": coefficients.tolist(),
    }

    def probabilities(new_rows: Floats) -> Floats:
        return np.asarray(model.predict_proba((new_rows - centre) / scale)[:, 1], dtype=np.float64)

    return Fitted("linear", json.dumps(linear).encode(), _PARAMS, probabilities)
