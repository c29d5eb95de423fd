"""Exact Shapley values of one decision tree.

The game is TreeSHAP's (Lundberg, Erion and Lee 2018, "Consistent Individualized Feature Attribution for Tree
Ensembles", path-dependent): of a set of known features it gives the mean of the leaves, where a split on an unknown
feature sends a row both ways, weighted by the rows of training that went there. A leaf's part of it is a product over
the features on its path, and the Shapley values of a product follow from one polynomial.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Paths:
    """The tree by its leaves: arrays of shape (leaves, d), one column per different feature on the way to a leaf.

    Known, feature `feature` leads to the leaf where `low` < x <= `high`; unknown, with the share `share`. A leaf with
    fewer than d features has columns that always lead to it. `value` (leaves,) are the margins, `base` their mean.
    """

    width: int
    feature: NDArray[np.int64]
    low: Floats
    high: Floats
    share: Floats
    value: Floats
    base: float

    def values(self, row: Floats) -> Floats:
        """Shapley values of a row, shape (width,); with `base` they sum to its margin. Some milliseconds."""
        leaves, d = self.feature.shape
        x = row[self.feature]
        leads = ((x > self.low) & (x <= self.high)).astype(np.float64)
        # polynomial[:, k]: the sum, over sets of k known features, of the product of what each says of the leaf.
        polynomial = np.zeros((leaves, d + 1))
        polynomial[:, 0] = 1.0
        for j in range(d):
            known = polynomial[:, :-1] * leads[:, j, None]
            polynomial *= self.share[:, j, None]
            polynomial[:, 1:] += known
        weights = [1.0 / (d * math.comb(d - 1, k)) for k in range(d)]
        told = np.zeros(self.width)
        for j in range(d):
            share, lead = self.share[:, j], leads[:, j]
            # Without feature j: the polynomial divided by (share + lead * t), lead being 0 or 1.
            weighted, rest = np.zeros(leaves), np.zeros(leaves)
            for k in range(d - 1, -1, -1):
                rest = np.where(lead > 0.0, polynomial[:, k + 1] - share * rest, polynomial[:, k] / share)
                weighted += weights[k] * rest
            told += np.bincount(self.feature[:, j], self.value * (lead - share) * weighted, minlength=self.width)
        return told


def paths_of(
    feature: Sequence[int],
    threshold: Sequence[float],
    left: Sequence[int],
    right: Sequence[int],
    value: Sequence[float],
    rows: Sequence[int],
    width: int,
) -> Paths:
    """The paths of a tree in parallel arrays: left where x[feature] <= threshold, `rows` of training at each node."""
    leaves: list[tuple[dict[int, tuple[float, float, float]], float]] = []
    pending: list[tuple[int, dict[int, tuple[float, float, float]]]] = [(0, {})]
    while pending:
        node, way = pending.pop()
        if left[node] < 0:
            leaves.append((way, value[node]))
            continue
        low, high, share = way.get(feature[node], (-math.inf, math.inf, 1.0))
        for child, edge in (
            (left[node], (low, min(high, threshold[node]))),
            (right[node], (max(low, threshold[node]), high)),
        ):
            pending.append((child, way | {feature[node]: (*edge, share * rows[child] / rows[node])}))
    d = max(1, *(len(way) for way, _ in leaves))
    nothing = (0, (-math.inf, math.inf, 1.0))
    columns = [[*way.items(), *[nothing] * (d - len(way))] for way, _ in leaves]
    bounds = np.array([[edge for _, edge in path] for path in columns])
    margins = np.array([margin for _, margin in leaves])
    return Paths(
        width=width,
        feature=np.array([[name for name, _ in path] for path in columns]),
        low=bounds[:, :, 0],
        high=bounds[:, :, 1],
        share=bounds[:, :, 2],
        value=margins,
        base=float(margins @ bounds[:, :, 2].prod(axis=1)),
    )
