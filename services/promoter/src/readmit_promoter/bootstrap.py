"""The bootstrap beneath every figure: patients are drawn with replacement, each with all of its rows.

The encounters of one patient resemble each other, and counting them as independent would make noise look like evidence
(Field and Welsh, "Bootstrapping clustered data", Journal of the Royal Statistical Society B 69(3), 2007, 369-390). The
raw bits of PCG64 are stable over numpy's versions, and the figures of `discrimination`, `calibration` and `net_benefit`
rest on sums of whole numbers, which do not depend on their order: the same evidence gives the same intervals, bit for
bit.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Labels = NDArray[np.bool_]
Keys = NDArray[np.uint64]
Weights = NDArray[np.int32]  #: (resamples, rows): how often each row was drawn
#: Figures by name, one of each for every row of the weights. NaN where one is not defined.
Statistic = Callable[[Weights], Mapping[str, Floats]]

#: Whole numbers stand for multiples of 1 / SCALE. Sums of them stay below 2**53 for more rows than evidence can have,
#: so float64 holds them exactly and a matrix product gives the same bits with any BLAS.
SCALE = 2.0**26
_CHUNK = 50  # resamples at a time: 3 MB of weights for 15,000 rows


@dataclass(frozen=True, slots=True)
class Interval:
    """A figure on all rows, and the ends of two one-sided intervals (see `Distribution.interval`)."""

    point: float
    low: float
    high: float


@dataclass(frozen=True, slots=True, eq=False)
class Distribution:
    """A figure on all rows, and on each resample, ascending."""

    point: float
    drawn: Floats

    def interval(self, error_rate: float) -> Interval | None:
        """Lower and upper end, each of a one-sided interval at `error_rate`; together they enclose 1 - 2 * error_rate.

        None where the figure is not defined on every resample, or the resamples are too few for the error rate.
        """
        tail = int(error_rate * (len(self.drawn) + 1)) - 1
        if tail < 0 or not np.isfinite(self.point) or not np.isfinite(self.drawn).all():
            return None
        return Interval(self.point, float(self.drawn[tail]), float(self.drawn[len(self.drawn) - 1 - tail]))

    def reflected(self, error_rate: float) -> Interval | None:
        """The interval turned round its point, for a figure >= 0 that noise only pushes up.

        Davison and Hinkley, "Bootstrap Methods and their Application", 1997, equation 5.6. The calibration error of a
        sample lies above the truth, and that of a resample above the sample's.
        """
        plain = self.interval(error_rate)
        if plain is None:
            return None
        low, high = 2 * plain.point - plain.high, 2 * plain.point - plain.low
        return Interval(plain.point, max(0.0, min(plain.point, low)), max(plain.point, high))


def flattened(name: str, figure: Interval | None) -> dict[str, float | None]:
    """As three columns: `name`, `name_low`, `name_high`."""
    if figure is None:
        return dict.fromkeys((name, f"{name}_low", f"{name}_high"))
    return {name: figure.point, f"{name}_low": figure.low, f"{name}_high": figure.high}


def bootstrap(
    statistics: Sequence[Statistic], patient: Keys, *, resamples: int, seed: int
) -> Mapping[str, Distribution]:
    """Every figure of every statistic on the same resamples; the names must differ between statistics."""

    def figures(weights: Weights) -> dict[str, Floats]:
        return {name: figure for statistic in statistics for name, figure in statistic(weights).items()}

    points = figures(np.ones((1, len(patient)), dtype=np.int32))
    parts = [figures(weights) for weights in _resampled(patient, resamples, seed)]
    return {
        name: Distribution(float(point[0]), np.sort(np.concatenate([part[name] for part in parts])))
        for name, point in points.items()
    }


def whole(values: Floats) -> Floats:
    """Values of at most 16 in size as whole multiples of 1 / SCALE, still float64."""
    return np.rint(values * SCALE)


def sums(weights: Weights, columns: Floats) -> Floats:
    """Weighted sums of whole numbers, (rows, k), for each resample: (resamples, k). Exact."""
    return weights.astype(np.float64) @ columns


def ratio(above: Floats, below: Floats) -> Floats:
    """Quotients; NaN where there is nothing to divide by."""
    quotients: Floats = np.divide(above, below, out=np.full(np.shape(above), np.nan), where=below > 0)
    return quotients


def _resampled(patient: Keys, resamples: int, seed: int) -> Iterator[Weights]:
    """How often each row stands in each resample, when as many patients as there are are drawn with replacement."""
    patients, member = np.unique(patient, return_inverse=True)
    bits = np.random.PCG64(seed)
    for start in range(0, resamples, _CHUNK):
        chunk = min(_CHUNK, resamples - start)
        drawn = (bits.random_raw((chunk, len(patients))) % np.uint64(len(patients))).astype(np.int64)
        drawn += np.arange(chunk)[:, np.newaxis] * len(patients)  # each resample counts in a range of its own
        counts = np.bincount(drawn.ravel(), minlength=chunk * len(patients)).reshape(chunk, len(patients))
        yield counts.astype(np.int32)[:, member]
