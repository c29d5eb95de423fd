"""One decision tree: the model that fits on a page."""

from __future__ import annotations

import json

import numpy as np
from sklearn.tree import DecisionTreeClassifier

from readmit_trainer.families.fitted import SEED, Fitted, Floats, Labels

_PARAMS: dict[str, float | int | str] = {"criterion": "log_loss", "max_depth": 10, "min_samples_leaf": 250}
# A leaf's probability is that of its rows and of so many imagined ones at the overall rate: never 0 nor 1.
_PRIOR_ROWS = 20.0


def fit(rows: Floats, labels: Labels, threads: int) -> Fitted:  # noqa: ARG001  a single tree has one thread
    """Fit; the model file is the tree's arrays, log-odds in the leaves."""
    model = DecisionTreeClassifier(**_PARAMS, random_state=SEED).fit(rows, labels)
    tree = model.tree_
    share = (tree.value[:, 0, 1] * tree.n_node_samples + _PRIOR_ROWS * labels.mean()) / (
        tree.n_node_samples + _PRIOR_ROWS
    )
    tree.value[:, 0, 0], tree.value[:, 0, 1] = 1.0 - share, share  # the library's model answers with them too
    is_leaf = tree.children_left < 0
    arrays = {
        "width": rows.shape[1],
        "feature": np.where(is_leaf, -1, tree.feature).tolist(),
        "threshold": np.where(is_leaf, 0.0, tree.threshold).tolist(),
        "left": tree.children_left.tolist(),
        "right": tree.children_right.tolist(),
        "value": np.log(share / (1.0 - share)).tolist(),
    }

    def probabilities(new_rows: Floats) -> Floats:
        return np.asarray(model.predict_proba(new_rows)[:, 1], dtype=np.float64)

    params = {**_PARAMS, "prior_rows": _PRIOR_ROWS}
    return Fitted("tree_arrays", json.dumps(arrays).encode(), params, probabilities)
