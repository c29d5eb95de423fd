"""Made-up columns, each as places in a short list of values, and their text: no Python object per cell."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from readmit_contracts.encounter import COLUMNS, MISSING_MARKER

Places = NDArray[np.int64]
Numbers = NDArray[np.float64]
Flags = NDArray[np.bool_]

#: Lines made into text at once: their bytes stay in the processor's cache.
_LINES = 5_000


@dataclass(frozen=True, slots=True)
class Drawn:
    """A column: for each row, the place of its value in a short list."""

    places: Places
    values: tuple[str, ...]

    def numbers(self) -> Numbers:
        """Each row's value as a number. Raises ValueError if one is none."""
        return np.array(self.values).astype(float)[self.places]

    def among(self, *values: str) -> Flags:
        """Which rows have one of these values."""
        return np.isin(self.values, values)[self.places]

    def at(self, rows: Places) -> Drawn:
        """The column of these rows, in their order."""
        return Drawn(self.places[rows], self.values)

    def unless(self, missing: Flags) -> Drawn:
        """The same column with the marker of the data set where it is missing."""
        return Drawn(np.where(missing, len(self.values), self.places), (*self.values, MISSING_MARKER))


@dataclass(frozen=True, slots=True)
class Block:
    """Encounters: identifiers by key, and every other column by key."""

    identifiers: Mapping[str, Places]
    drawn: Mapping[str, Drawn]

    def texts(self, key: str) -> list[str]:
        """The cells of one column."""
        if key in self.identifiers:
            return [str(number) for number in self.identifiers[key].tolist()]
        values = self.drawn[key].values
        return [values[place] for place in self.drawn[key].places.tolist()]

    def csv(self) -> Iterator[bytes]:
        """Lines of CSV in schema order, without a header, some thousands at a time."""
        last = COLUMNS[-1].key
        columns = [self._cells(column.key, "\n" if column.key == last else ",") for column in COLUMNS]
        for start in range(0, len(columns[0].places), _LINES):
            padded = np.hstack([cells.table[cells.places[start : start + _LINES]] for cells in columns])
            yield padded.tobytes().translate(None, b"\0")

    def _cells(self, key: str, end: str) -> _Cells:
        if key in self.identifiers:
            texts = np.char.add(self.identifiers[key].astype("S16"), end.encode())
            places = np.arange(len(texts))
        else:
            texts = np.array([f"{value}{end}".encode() for value in self.drawn[key].values])
            places = self.drawn[key].places
        return _Cells(places, texts.view(np.uint8).reshape(len(texts), -1))


@dataclass(frozen=True, slots=True)
class _Cells:
    """A column as bytes of equal length, padded with NUL: row `i` reads `table[places[i]]`."""

    places: Places
    table: NDArray[np.uint8]
