"""The population stability index, and how large it is by chance alone.

PSI: N. Siddiqi, Credit Risk Scorecards, 2006. By the rule of thumb, below 0.1 nothing has changed, and from 0.2 or 0.25
on the population is another one. Its distribution when nothing has changed: B. Yurdakul, Statistical Properties of
Population Stability Index, 2018: (1/n + 1/m) times chi-square with B - 1 degrees of freedom, n and m rows in B bins.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import NormalDist

#: The rule of thumb: above this, it matters.
FLOOR = 0.2


def psi(reference: Sequence[int], window: Sequence[int]) -> float:
    """Sum of (p - q) ln(p / q) over the bins.

    Half a row is added to each bin that is empty on one side; a bin that is empty on both says nothing.
    """
    pairs = _occupied(reference, window)
    rows, against = sum(w for _, w in pairs), sum(r for r, _ in pairs)
    return sum((w / rows - r / against) * math.log((w / rows) / (r / against)) for r, w in pairs)


def threshold(reference: Sequence[int], window: Sequence[int], false_alarms: float) -> float:
    """What PSI must exceed: the rule of thumb, and what chance exceeds with probability `false_alarms`.

    In large windows the rule of thumb is the larger of the two, in small ones chance is.
    """
    degrees = len(_occupied(reference, window)) - 1
    if degrees < 1:
        return FLOOR
    by_chance = (1 / sum(window) + 1 / sum(reference)) * chi_square_quantile(degrees, 1 - false_alarms)
    return max(FLOOR, by_chance)


def chi_square_quantile(degrees: int, probability: float) -> float:
    """By the approximation of Wilson and Hilferty, 1931; from 0.999 on too large by 0 to 10 %, the safe side."""
    spread = 2 / (9 * degrees)
    return float(degrees * (1 - spread + NormalDist().inv_cdf(probability) * math.sqrt(spread)) ** 3)


def _occupied(reference: Sequence[int], window: Sequence[int]) -> list[tuple[float, float]]:
    pairs = [(r, w) for r, w in zip(reference, window, strict=True) if r or w]
    return [(r or 0.5, w or 0.5) for r, w in pairs]
