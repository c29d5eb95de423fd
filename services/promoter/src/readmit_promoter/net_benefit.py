"""Net benefit: readmissions caught less needless follow-ups at their exchange rate, per encounter.

Vickers and Elkin, "Decision curve analysis", Medical Decision Making 26(6), 2006, 565-574. Who acts from risk t on says
that a needless follow-up costs t / (1 - t) of a missed readmission. To follow up nobody has a net benefit of 0.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from readmit_promoter.bootstrap import Floats, Labels, Statistic, Weights, ratio, sums


def over_default(label: Labels, risk: Floats, threshold: float) -> Statistic:
    """`net_benefit`, and `net_benefit_gain`: over the better of following up everybody and nobody."""
    columns = np.column_stack([_caught(label, risk, threshold), label, ~label]).astype(np.float64)
    odds = threshold / (1 - threshold)

    def figures(weights: Weights) -> Mapping[str, Floats]:
        caught, needless, positives, negatives = sums(weights, columns).T
        total = positives + negatives
        benefit = ratio(caught - odds * needless, total)
        everybody = ratio(positives - odds * negatives, total)
        return {"net_benefit": benefit, "net_benefit_gain": benefit - np.maximum(everybody, 0.0)}

    return figures


def difference(label: Labels, risk: Floats, than: Floats, threshold: float) -> Statistic:
    """`net_benefit_difference`: of one model less that of another, at one threshold on the same rows."""
    first, second = _caught(label, risk, threshold), _caught(label, than, threshold)
    columns = first.astype(np.float64) - second
    odds = threshold / (1 - threshold)

    def figures(weights: Weights) -> Mapping[str, Floats]:
        caught, needless = sums(weights, columns).T
        return {"net_benefit_difference": ratio(caught - odds * needless, weights.sum(axis=1).astype(np.float64))}

    return figures


def _caught(label: Labels, risk: Floats, threshold: float) -> Labels:
    """Whether each row is a readmission caught, and whether it is a needless follow-up: (rows, 2)."""
    flagged = risk >= threshold
    return np.column_stack([flagged & label, flagged & ~label])
