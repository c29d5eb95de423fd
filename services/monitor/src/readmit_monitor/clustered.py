"""AUROC, and risk against outcome, of encounters of which several may be of one patient, with standard errors.

AUROC: N. Obuchowski, Nonparametric analysis of clustered ROC curve data, Biometrics 53, 1997. With one encounter of
each patient it is that of E. DeLong, D. DeLong and D. Clarke-Pearson, Biometrics 44, 1988.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Labels = NDArray[np.bool_]
#: For each row the number of its patient: 0, 1, …, with none left out.
Patients = NDArray[np.intp]


class Estimate(NamedTuple):
    """A figure and its standard error."""

    value: float
    error: float


def in_the_large(label: Labels, risk: Floats, patient: Patients) -> Estimate:
    """Share of positive rows less the mean risk. Takes two patients or more.

    The standard error is that which the risks imply, were they right, where that is larger: a window that happens to
    hold few positive rows would otherwise look surer of it than it can be.
    """
    gaps = label - risk
    value = float(gaps.mean())
    sums = np.bincount(patient, gaps - value)
    found, implied = _few(len(sums)) * float(sums @ sums), float((risk * (1 - risk)).sum())
    return Estimate(value, math.sqrt(max(found, implied)) / len(gaps))


def auroc(label: Labels, risk: Floats, patient: Patients) -> Estimate:
    """Chance that a positive row has the higher risk of two; a tie counts one half. Takes two patients of each class.

    A row's component is the share of the other class that it beats, or that beats it; components are summed by patient.
    """
    positives, negatives = risk[label], risk[~label]
    above = _share_below(negatives, positives)
    below = 1 - _share_below(positives, negatives)
    value = float(above.mean())
    patients = int(patient.max()) + 1
    first = np.bincount(patient[label], above - value, patients) / len(positives)
    second = np.bincount(patient[~label], below - value, patients) / len(negatives)
    variance = (
        _few(len(np.unique(patient[label]))) * float(first @ first)
        + _few(len(np.unique(patient[~label]))) * float(second @ second)
        + 2 * _few(patients) * float(first @ second)
    )
    return Estimate(value, math.sqrt(max(0.0, variance)))


def _share_below(values: Floats, of: Floats) -> Floats:
    """For each number of `of`, the share of `values` that are smaller; equal ones count one half."""
    ordered = np.sort(values)
    ranks = np.searchsorted(ordered, of, side="left") + np.searchsorted(ordered, of, side="right")
    return np.asarray(ranks / (2 * len(values)))


def _few(clusters: int) -> float:
    """What a sum of squares over clusters has to be multiplied with to be without bias."""
    return clusters / (clusters - 1)
