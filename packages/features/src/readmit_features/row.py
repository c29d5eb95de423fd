"""The single-row form of the encoder: what serving uses. NumPy and dictionaries, a few microseconds."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
from numpy.typing import NDArray

from readmit_contracts.encounter import AGE_BANDS, BY_KEY, Kind
from readmit_contracts.prediction import FieldWarning
from readmit_features import icd9
from readmit_features.cleaning import Value
from readmit_features.spec import CategoricalFeature, FeatureSpec, band_middle

_Table = tuple[str, Callable[[str], str] | None, dict[Value, int], int]

READINGS: Mapping[str, Callable[[str], str]] = {"icd9_group": icd9.group, "icd9_category": icd9.category}
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
        start = len(spec.numeric) + len(spec.tallies)
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
            else:
                head.append(feature.fill if value is None else float(value))
        for columns, counted in self._tallies:
            head.append(float(sum(map(counted.__contains__, map(get, columns)))))
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
            if value is None or BY_KEY[column].kind not in {Kind.OPEN, Kind.DIAGNOSIS}:
                continue
            if (value if read is None else read(str(value))) not in table:
                warnings[column] = FieldWarning(
                    field=BY_KEY[column].name,
                    value=value,
                    message="rare in training, or never seen: read as any other value",
                )
        return list(warnings.values())


def _table(feature: CategoricalFeature, start: int) -> _Table:
    """Where each value's 1 stands; the last but one place is for any other value, the last for missing."""
    known = feature.values
    as_number = BY_KEY[feature.column].is_number
    table: dict[Value, int] = {int(value) if as_number else value: start + i for i, value in enumerate(known)}
    table[None] = start + len(known) + 1
    return feature.column, READINGS.get(feature.reading), table, start + len(known)
