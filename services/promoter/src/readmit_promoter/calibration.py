"""How far a model's risks are from what happens: expected calibration error, slope, and in the large."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from readmit_promoter.bootstrap import SCALE, Floats, Labels, Statistic, Weights, ratio, sums, whole
from readmit_promoter.elementary import logistic, logit

BINS = 10
_EDGE = 1e-6  # risks beyond are taken as this; their log-odds are -13.8 and 13.8
_ITERATIONS = 30
_STEEPEST = 100.0


def calibration(label: Labels, risk: Floats, inside: Labels) -> Statistic:
    """`calibration_error`, `in_the_large` and `slope` of the rows `inside`, (rows,) of booleans.

    The error is the mean distance of risk and rate over ten bins of equal size, those of all rows; in the large is the
    observed rate less the mean risk. The slope is that of the log-odds in a logistic regression of the outcome (Cox,
    Biometrika 45, 1958): below 1 risks are too extreme, above too timid. A resample's slope is one Newton step from
    that of all rows, as in Davison and Hinkley 1997, section 7.2. NaN where there is none to fit.
    """
    y, p = label[inside], risk[inside]
    gaps = whole(y - p)
    binned = np.zeros((len(p), BINS))
    for number, part in enumerate(np.array_split(np.argsort(p, kind="stable"), BINS)):
        binned[part, number] = gaps[part]
    z = logit(np.clip(p, _EDGE, 1 - _EDGE))
    fit = _fitted(y, z)
    columns = np.column_stack([gaps, binned, _terms(y, z, fit)])

    def figures(weights: Weights) -> Mapping[str, Floats]:
        drawn = weights[:, inside]
        total, summed = SCALE * drawn.sum(axis=1), sums(drawn, columns)
        return {
            "calibration_error": ratio(np.abs(summed[:, 1 : BINS + 1]).sum(axis=1), total),
            "in_the_large": ratio(summed[:, 0], total),
            "slope": fit[1] + _step(summed[:, BINS + 1 :])[1],
        }

    return figures


def _fitted(y: Labels, z: Floats) -> tuple[float, float]:
    """Intercept and slope of greatest likelihood by Newton's method from no recalibration; NaN where that fails."""
    a, b = 0.0, 1.0
    everybody = np.ones((1, len(y)), dtype=np.int32)
    for _ in range(_ITERATIONS):
        da, db = (float(step[0]) for step in _step(sums(everybody, _terms(y, z, (a, b)))))
        a, b = a + da, b + db
        if not max(abs(a), abs(b)) < _STEEPEST:
            return np.nan, np.nan
        if max(abs(da), abs(db)) < 1e-7:
            return a, b
    return np.nan, np.nan


def _terms(y: Labels, z: Floats, fit: tuple[float, float]) -> Floats:
    """Each row's part in the score (of intercept and slope) and in the information, as whole numbers: (rows, 5)."""
    if not np.isfinite(fit).all():
        return np.zeros((len(y), 5))
    p = logistic(np.clip(fit[0] + fit[1] * z, -40.0, 40.0))
    error, spread = y - p, p * (1 - p)
    return whole(np.column_stack([error, error * z, spread, spread * z, spread * z * z]))


def _step(summed: Floats) -> tuple[Floats, Floats]:
    """Newton's step of intercept and slope from sums of `_terms`, (resamples, 5); NaN where there is none."""
    score_a, score_b, aa, ab, bb = summed.T / SCALE
    determinant = aa * bb - ab * ab
    solvable = np.where(determinant > 1e-9, determinant, 0.0)
    return ratio(bb * score_a - ab * score_b, solvable), ratio(aa * score_b - ab * score_a, solvable)
