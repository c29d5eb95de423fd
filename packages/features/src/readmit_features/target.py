"""Target encoding of diagnosis codes: fitting its tables. pandas (an extra): serving never imports this module.

Each rate is shrunk towards that of the level above (code, category, group, all) by so many imagined rows: an empirical
Bayes estimate, Micci-Barreca 2001, "A preprocessing scheme for high-cardinality categorical attributes". A row that
helps to fit a model must not see its own label in its encoding, so training rows are encoded out of fold, the folds
being made of whole patients.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from readmit_features import icd9
from readmit_features.row import log_odds
from readmit_features.spec import TargetTable

Floats = NDArray[np.float64]
Labels = NDArray[np.bool_]

#: Imagined rows at the rate of the level above.
_CODE_ROWS, _CATEGORY_ROWS, _GROUP_ROWS = 20.0, 50.0, 100.0


@dataclass(frozen=True)
class CodeColumns:
    """Columns of diagnosis codes that share a table, with the labels of their rows and the fold of each (< `folds`)."""

    columns: Sequence[pd.Series]
    labels: Labels
    fold: NDArray[np.int64]
    folds: int

    @cached_property
    def _codes(self) -> tuple[NDArray[np.int64], list[str]]:
        """Place of each value, the columns behind one another (-1: missing), and the codes."""
        places, codes = pd.factorize(pd.concat([column.astype("object") for column in self.columns]))
        return places.astype(np.int64), [str(code) for code in codes]

    @cached_property
    def _counts(self) -> tuple[Floats, Floats]:
        """Rows and positives by fold and code, shape (folds, codes + 1); missing is the last."""
        places, codes = self._codes
        width = len(codes) + 1
        at = np.tile(self.fold, len(self.columns)) * width + np.where(places < 0, len(codes), places)
        shape, cells = (self.folds, width), self.folds * width
        rows = np.bincount(at, minlength=cells).reshape(shape)
        positives = np.bincount(at, np.tile(self.labels, len(self.columns)), cells).reshape(shape)
        return rows.astype(np.float64), positives.astype(np.float64)

    def table(self, min_rows: int) -> TargetTable:
        """Fitted on all rows. Codes and categories of fewer than `min_rows` values are left to the level above."""
        rows, positives = self._counts
        return _table(self._codes[1], rows.sum(axis=0), positives.sum(axis=0), min_rows)

    def out_of_fold(self, min_rows: int) -> list[Floats]:
        """Per column the encoding of each row by a table that was fitted without the rows of its fold."""
        rows, positives = self._counts
        places, codes = self._codes
        encoded = np.empty(len(places))
        fold = np.tile(self.fold, len(self.columns))
        for held_out in range(self.folds):
            others = np.arange(self.folds) != held_out
            table = _table(codes, rows[others].sum(axis=0), positives[others].sum(axis=0), min_rows)
            values = np.array([*(log_odds(table, code) for code in codes), table.missing])
            mine = fold == held_out
            encoded[mine] = values[places[mine]]  # missing is -1, the last
        return np.split(encoded, len(self.columns))


def _table(codes: Sequence[str], rows: Floats, positives: Floats, min_rows: int) -> TargetTable:
    known_rows, known_positives = rows[:-1], positives[:-1]
    overall = (known_positives.sum() + 1.0) / (known_rows.sum() + 2.0)
    groups = _rates(codes, icd9.group, known_rows, known_positives, _GROUP_ROWS, lambda _: overall)
    categories = _rates(
        codes, icd9.category, known_rows, known_positives, _CATEGORY_ROWS, lambda c: groups[icd9.group(c)][1]
    )
    singly = _rates(codes, str, known_rows, known_positives, _CODE_ROWS, lambda c: categories[icd9.category(c)][1])
    missing = (positives[-1] + _GROUP_ROWS * overall) / (rows[-1] + _GROUP_ROWS)
    return TargetTable(
        codes=_frequent(singly, min_rows),
        categories=_frequent(categories, min_rows),
        groups=_frequent(groups, min_rows),
        other=_log_odds(overall),
        missing=_log_odds(missing),
    )


def _rates(
    codes: Sequence[str],
    level: Callable[[str], str],
    rows: Floats,
    positives: Floats,
    imagined: float,
    above: Callable[[str], float],
) -> dict[str, tuple[float, float]]:
    """Rows and shrunk rate of each value of a level. `above` gives the rate above, for any code of the value."""
    sums: dict[str, list[float]] = {}
    for code, n, s in zip(codes, rows.tolist(), positives.tolist(), strict=True):
        total = sums.setdefault(level(code), [0.0, 0.0, above(code)])
        total[0] += n
        total[1] += s
    return {value: (n, (s + imagined * prior) / (n + imagined)) for value, (n, s, prior) in sums.items()}


def _frequent(rates: dict[str, tuple[float, float]], min_rows: int) -> dict[str, float]:
    return {value: _log_odds(rate) for value, (rows, rate) in sorted(rates.items()) if rows >= min_rows}


def _log_odds(rate: float) -> float:
    """Rounded to float32, so that trees that compare in float32 see what everybody sees."""
    return float(np.float32(math.log(rate / (1.0 - rate))))


def fold_of(patients: Iterable[int], folds: int) -> NDArray[np.int64]:
    """The fold of each row, always the same for a patient."""
    numbers = np.fromiter(patients, dtype=np.uint64)
    # SplitMix64's finaliser (Steele et al. 2014): patient numbers are not evenly spread by themselves.
    with np.errstate(over="ignore"):
        mixed = (numbers ^ (numbers >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return ((mixed ^ (mixed >> np.uint64(31))) % np.uint64(folds)).astype(np.int64)
