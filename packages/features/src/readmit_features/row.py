"""The single-row form of the encoder: what serving uses. NumPy and dictionaries, a few microseconds."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
from numpy.typing import NDArray

from readmit_contracts.encounter import AGE_BANDS, Kind
from readmit_contracts.history import HISTORY, HISTORY_KEYS, INPUTS_BY_KEY
from readmit_contracts.prediction import FieldWarning
from readmit_features import icd9
from readmit_features.cleaning import Value
from readmit_features.spec import CategoricalFeature, FeatureSpec, TargetTable, band_middle

_Table = tuple[str, Callable[[str], str] | None, dict[Value, int], int]

#: Codes remembered per table before its memory starts afresh.
_REMEMBERED = 4096

READINGS: Mapping[str, Callable[[str], str]] = {"icd9_group": icd9.group}
_AGE_MIDDLES: dict[Value, float] = {band: band_middle(band) for band in AGE_BANDS}


class RowEncoder:
    """Encodes one cleaned encounter (values by `Column.key`) into the row of numbers that `spec` describes.

    Thread-safe: all that changes once it is built is a memory of codes. An absent key means missing.
    """

    def __init__(self, spec: FeatureSpec) -> None:
        self.spec = spec
        self.width = len(spec.names)
        self.reads_history = spec.reads_history
        # Plain tuples: to look into the spec's models takes longer than the arithmetic.
        self._numbers = [(f.column, f.reading, f.fill, f.low, f.high) for f in spec.numeric]
        self._differences = [(f.column, f.subtracted, f.low, f.high) for f in spec.differences]
        self._tallies = [(feature.columns, frozenset(feature.values)) for feature in spec.tallies]
        self._targets = [(target.column, _Remembered(spec.tables[target.table])) for target in spec.targets]
        self._tables: list[_Table] = []
        start = len(spec.numeric) + len(spec.differences) + len(spec.tallies) + len(spec.targets)
        for feature in spec.categorical:
            self._tables.append(_table(feature, start))
            start += len(feature.names)
        #: The columns whose values may be new.
        self._growing = [table for table in self._tables if INPUTS_BY_KEY[table[0]].kind in {Kind.OPEN, Kind.DIAGNOSIS}]

    def encode(self, values: Mapping[str, Value]) -> NDArray[np.float64]:
        """One row, shape (width,)."""
        get = values.get
        head: list[float] = []
        add = head.append
        for column, reading, fill, low, high in self._numbers:
            value = get(column)
            if reading == "number":
                if value is None:
                    add(fill)
                else:
                    number = float(value)  # nearly always within: spare it two calls
                    add(number if low <= number <= high else min(max(number, low), high))
            elif reading == "band_middle":
                add(_AGE_MIDDLES.get(value, fill))
            else:
                add(0.0 if value is None else 1.0)
        for column, other, low, high in self._differences:
            value, subtracted = get(column), get(other)
            apart = 0.0 if value is None or subtracted is None else float(value) - float(subtracted)
            add(min(max(apart, low), high))
        for columns, counted in self._tallies:
            add(float(sum(map(counted.__contains__, map(get, columns)))))
        for column, remembered in self._targets:
            add(remembered[get(column)])
        row = np.zeros(self.width)
        row[: len(head)] = head
        for column, read, table, elsewhere in self._tables:
            value = get(column)
            if read is not None and value is not None:
                value = read(str(value))
            row[table.get(value, elsewhere)] = 1.0
        return row

    def unseen(self, values: Mapping[str, Value]) -> list[FieldWarning]:
        """One warning per open or diagnosis column whose value training did not see often enough to know."""
        warnings: dict[str, FieldWarning] = {}
        for column, read, table, _ in self._growing:
            value = values.get(column)
            if value is not None and (value if read is None else read(str(value))) not in table:
                warnings[column] = _rare(column, value, "read as any other value")
        for column, remembered in self._targets:
            value, encoded = values.get(column), remembered.table
            if isinstance(value, str) and value not in encoded.codes and icd9.category(value) not in encoded.categories:
                warnings.setdefault(column, _rare(column, value, "read as any other code of its group"))
        return list(warnings.values())


class _Remembered(dict[Value, float]):
    """`log_odds` of one table, by code; what was asked for once is not looked up again."""

    def __init__(self, table: TargetTable) -> None:
        super().__init__()
        self.table = table

    def __missing__(self, code: Value) -> float:
        if len(self) >= _REMEMBERED:
            self.clear()
        found = self[code] = log_odds(self.table, code)
        return found


def log_odds(table: TargetTable, code: Value) -> float:
    """What the table says of a diagnosis code, at the finest level that it knows."""
    if code is None:
        return table.missing
    text = str(code)
    found = table.codes.get(text)
    if found is None:
        found = table.categories.get(icd9.category(text))
    return table.groups.get(icd9.group(text), table.other) if found is None else found


def _rare(column: str, value: Value, read_as: str) -> FieldWarning:
    name = INPUTS_BY_KEY[column].name
    return FieldWarning(
        field=f"{HISTORY}.{name}" if column in HISTORY_KEYS else name,
        value=value,
        message=f"rare in training, or never seen: {read_as}",
    )


def _table(feature: CategoricalFeature, start: int) -> _Table:
    """Where each value's 1 stands; the last but one place is for any other value, the last for missing."""
    known = feature.values
    as_number = INPUTS_BY_KEY[feature.column].is_number
    table: dict[Value, int] = {int(value) if as_number else value: start + i for i, value in enumerate(known)}
    table[None] = start + len(known) + 1
    return feature.column, READINGS.get(feature.reading), table, start + len(known)
