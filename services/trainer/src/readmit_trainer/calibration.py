"""Fitting and choosing a calibration map, on validation rows that nothing else is measured on."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from sklearn.isotonic import IsotonicRegression
from sklearn.linear_model import LogisticRegression

from readmit_bundle import Beta, Calibration, Identity, Isotonic, Platt
from readmit_trainer.families.fitted import row_losses

Floats = NDArray[np.float64]
Labels = NDArray[np.bool_]
Keys = NDArray[np.uint64]

_FOLDS = 5
#: The farthest that an isotonic map goes: a step of few patients must not say "never" or "always".
_FLOOR = 1e-3


@dataclass(frozen=True, slots=True)
class Chosen:
    """The map, and the cross-validated log loss (nats) of every map that was tried."""

    calibration: Calibration
    losses: Mapping[str, float]


def choose(margins: Floats, labels: Labels, patients: Keys) -> Chosen:
    """The simplest map that is not worse than the best by more than a standard error, refitted on all rows.

    Log losses are cross-validated in folds of whole patients; the standard error is that of the rows' differences. A
    fold without both classes cannot be fitted on and leaves the identity.
    """
    fold = (patients >> np.uint64(8)) % np.uint64(_FOLDS)
    losses: dict[str, Floats] = {}
    for method, fit in _FITS.items():
        risks = np.empty(len(labels))
        for held_out in range(_FOLDS):
            out = fold == held_out
            if out.any():
                risks[out] = apply(fit(margins[~out], labels[~out]), margins[out])
        losses[method] = row_losses(labels, risks)
    best = min(losses.values(), key=lambda of_rows: of_rows.mean())
    simplest = next(method for method, of_rows in losses.items() if _as_good(of_rows - best))
    means = {method: float(of_rows.mean()) for method, of_rows in losses.items()}
    return Chosen(_FITS[simplest](margins, labels), means)


def apply(calibration: Calibration, margins: Floats) -> Floats:
    """Risks of margins, as serving computes them."""
    return np.array([calibration.risk(margin) for margin in margins.tolist()], dtype=np.float64)


def fit_platt(margins: Floats, labels: Labels) -> Calibration:
    """Platt's map by maximum likelihood; the identity when its slope would not be positive."""
    if _says_nothing(margins, labels):
        return Identity()
    model = LogisticRegression(C=np.inf).fit(margins.reshape(-1, 1), labels)
    slope, intercept = float(model.coef_[0, 0]), float(model.intercept_[0])
    return Platt(a=slope, b=intercept) if slope > 0 else Identity()


def fit_beta(margins: Floats, labels: Labels) -> Calibration:
    """Kull's map by maximum likelihood; a coefficient that would be negative is left out, as in the paper."""
    if _says_nothing(margins, labels):
        return Identity()
    # ln p and -ln(1 - p) of the scorer's probability.
    features = np.column_stack([-np.logaddexp(0.0, -margins), np.logaddexp(0.0, margins)])
    kept = [0, 1]
    while kept:
        model = LogisticRegression(C=np.inf, max_iter=1000).fit(features[:, kept], labels)
        slopes = model.coef_[0]
        if (slopes >= 0).all():
            a, b = (float(slopes[kept.index(i)]) if i in kept else 0.0 for i in (0, 1))
            return Beta(a=a, b=b, c=float(model.intercept_[0]))
        kept.pop(int(np.argmin(slopes)))
    return Identity()


def fit_isotonic(margins: Floats, labels: Labels) -> Calibration:
    """The non-decreasing map of least squares, straight between its knots."""
    if _says_nothing(margins, labels):
        return Identity()
    model = IsotonicRegression(y_min=_FLOOR, y_max=1.0 - _FLOOR, out_of_bounds="clip").fit(margins, labels)
    return Isotonic(margins=tuple(model.X_thresholds_.tolist()), risks=tuple(model.y_thresholds_.tolist()))


def _as_good(behind: Floats) -> bool:
    return bool(behind.mean() <= behind.std() / np.sqrt(len(behind)))


def _identity(margins: Floats, labels: Labels) -> Calibration:  # noqa: ARG001  nothing to fit
    return Identity()


def _says_nothing(margins: Floats, labels: Labels) -> bool:
    return bool(np.ptp(margins) == 0 or labels.all() or not labels.any())


#: From the simplest to the freest.
_FITS: Mapping[str, Callable[[Floats, Labels], Calibration]] = {
    "identity": _identity,
    "platt": fit_platt,
    "beta": fit_beta,
    "isotonic": fit_isotonic,
}
