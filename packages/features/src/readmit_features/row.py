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

READINGS: Mapping[str, Callable[[str], str]] = {"icd9_group": icd9.group}
_AGE_MIDDLES: dict[Value, float] = {band: band_middle(band) for band in AGE_BANDS}


class RowEncoder:
    """Encodes one cleaned encounter (values by `Column.key`) into the row of numbers that `spec` describes.

    Thread-safe: built once, never changed. An absent key means missing.
    """

    def __init__(self, spec: FeatureSpec) -> None:
        self.spec = spec
        self.width = len(spec.names)
        self._tallies = [(feature.columns, frozenset(feature.values)) for feature in spec.tallies]
        self._tables: list[_Table] = []
        self._targets = [(target.column, spec.tables[target.table]) for target in spec.targets]
        start = len(spec.numeric) + len(spec.differences) + len(spec.tallies) + len(spec.targets)
        for feature in spec.categorical:
            self._tables.append(_table(feature, start))
            start += len(feature.names)

    def encode(self, values: Mapping[str, Value]) -> NDArray[np.float64]:
        """One row, shape (width,)."""
        get = values.get
        head: list[float] = []
        for feature in self.spec.numeric:
            value = get(feature.column)
            if feature.reading == "band_middle":
                head.append(_AGE_MIDDLES.get(value, feature.fill))
            elif feature.reading == "is_known":
                head.append(0.0 if value is None else 1.0)
            else:
                head.append(feature.fill if value is None else min(max(float(value), feature.low), feature.high))
        for difference in self.spec.differences:
            value, subtracted = get(difference.column), get(difference.subtracted)
            apart = 0.0 if value is None or subtracted is None else float(value) - float(subtracted)
            head.append(min(max(apart, difference.low), difference.high))
        for columns, counted in self._tallies:
            head.append(float(sum(map(counted.__contains__, map(get, columns)))))
        for column, encoded in self._targets:
            head.append(log_odds(encoded, get(column)))
        row = np.zeros(self.width)
        row[: len(head)] = head
        for column, read, table, other in self._tables:
            value = get(column)
            if read is not None and value is not None:
                value = read(str(value))
            row[table.get(value, other)] = 1.0
        return row

    def unseen(self, values: Mapping[str, Value]) -> list[FieldWarning]:
        """One warning per open or diagnosis column whose value training did not see often enough to know."""
        warnings: dict[str, FieldWarning] = {}
        for column, read, table, _ in self._tables:
            value = values.get(column)
            if value is None or INPUTS_BY_KEY[column].kind not in {Kind.OPEN, Kind.DIAGNOSIS}:
                continue
            if (value if read is None else read(str(value))) not in table:
                warnings[column] = _rare(column, value, "read as any other value")
        for column, encoded in self._targets:
            value = values.get(column)
            if isinstance(value, str) and value not in encoded.codes and icd9.category(value) not in encoded.categories:
                warnings.setdefault(column, _rare(column, value, "read as any other code of its group"))
        return list(warnings.values())


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
