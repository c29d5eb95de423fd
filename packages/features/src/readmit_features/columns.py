"""The column form of reading and encoding: what serving uses for many encounters at once. NumPy, no pandas.

Each distinct value of a column is read by the rules of `cleaning` and encoded by `row.RowEncoder` once, by itself; rows
are then put together from what is known of their values. So the three forms of the encoder cannot disagree.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from operator import getitem
from types import NoneType
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from readmit_contracts.encounter import Column, Kind
from readmit_contracts.history import HISTORY_KEYS, INPUTS_BY_KEY
from readmit_contracts.prediction import FieldWarning
from readmit_features.cleaning import FIRST_ENCOUNTER, Value, shown
from readmit_features.known import (
    APART,
    FITS_FIRST,
    IS_APART,
    IS_KNOWN,
    IS_TOLD,
    NOT_LOOKED_UP,
    ColumnMemory,
    KnownValues,
    PieceMemory,
    PlacesOf,
)
from readmit_features.layout import ABSENT, BOOLEAN, Layout
from readmit_features.row import RowEncoder

Floats = NDArray[np.float64]
#: Where arrays say what is known of cells, shape (columns, rows).
Places = NDArray[np.intp]
Flags = NDArray[np.bool_]

_PREVIOUS: Final = "previous_encounters"
#: Distinct values remembered per column, and pieces of runs, give or take a block of rows.
_REMEMBERED = 4096
#: Types whose values are equal only where they mean the same. True and 1.0 would find what is known of 1.
_PLAIN = frozenset({str, int, NoneType})
#: Digits of a number that is small enough.
_LONGEST_NUMBER = 18


@dataclass(frozen=True, slots=True)
class Encoded:
    """`matrix` has shape (n, width); the rows `apart` in it mean nothing: read these one by one.

    `with_history` (n,) says where the patient's history is known; `warnings` what is to be said of some of the rows.
    """

    matrix: Floats
    with_history: Flags
    warnings: dict[int, list[FieldWarning]]
    apart: list[int]


class ColumnEncoder:
    """Encodes tables of raw cells. Rows that are refused, or written in a way that is not read here, are set apart.

    Not thread-safe: it remembers the values that it has seen.
    """

    def __init__(self, encoder: RowEncoder) -> None:
        self._encoder = encoder
        self._width = encoder.width
        spec = encoder.spec
        tallies_from = len(spec.numeric) + len(spec.differences)
        targets_from = tallies_from + len(spec.tallies)
        owned: dict[str, list[int]] = {key: [] for key in INPUTS_BY_KEY}
        for at, numeric in enumerate(spec.numeric):
            owned[numeric.column].append(at)
        for at, target in enumerate(spec.targets, targets_from):
            owned[target.column].append(at)
        blocks: dict[str, list[tuple[int, int]]] = {key: [] for key in INPUTS_BY_KEY}
        start = targets_from + len(spec.targets)
        for categorical in spec.categorical:
            blocks[categorical.column].append((start, start + len(categorical.names)))
            start += len(categorical.names)
        self._known = KnownValues(encoder, owned, blocks, slice(tallies_from, targets_from))
        self._columns = {key: ColumnMemory(key, self._known) for key in INPUTS_BY_KEY}
        self._booleans = ColumnMemory(BOOLEAN, self._known)
        self._at = {key: at for at, key in enumerate(INPUTS_BY_KEY)}
        # Which columns own an i-th number, and where it stands in the row; which have an i-th block.
        self._numbers = [
            (
                self._rows_of(key for key in owned if len(owned[key]) > i),
                [at[i] for at in owned.values() if len(at) > i],
            )
            for i in range(len(self._known.numbers))
        ]
        self._hot = [
            self._rows_of(key for key in blocks if len(blocks[key]) > i) for i in range(len(self._known.hot))
        ]  # fmt: skip
        self._tallies = [(self._rows_of(tally.columns), at) for at, tally in enumerate(spec.tallies, tallies_from)]
        self._differences = list(enumerate(spec.differences, len(spec.numeric)))
        self._history = self._rows_of(HISTORY_KEYS)
        self._readings: dict[Layout, _Reading] = {}
        self._forget()

    def _rows_of(self, keys: Iterable[str]) -> list[int]:
        """Where an array of shape (columns, rows) tells of these columns."""
        return [self._at[key] for key in keys]

    def _forget(self) -> None:
        self._known.forget()
        self._readings.clear()
        for column in (*self._columns.values(), self._booleans):
            column.clear()
        absent = [column.add_absent() for column in self._columns.values()]
        self._absent: Places = np.array(absent, dtype=np.intp).reshape(-1, 1)

    @property
    def remembered(self) -> int:
        """Most distinct values that any column remembers."""
        return max(len(self._booleans), *map(len, self._columns.values()))

    @property
    def remembered_pieces(self) -> int:
        """Distinct pieces of runs that are remembered."""
        return sum(len(reading.pieces) for reading in self._readings.values())

    def encode(self, layout: Layout, rows: Sequence[Sequence[object]]) -> Encoded:
        """Rows of a table, one or more, each with the cells of the layout.

        Cells are looked up row by row, as they lie in memory: by column, each would have left the processor's cache.
        """
        if self.remembered > _REMEMBERED:
            self._forget()  # no place that was told before means anything now
        if self.remembered_pieces > _REMEMBERED:
            self._readings.clear()
        reading = self._reading_of(layout)
        apart = np.zeros(len(rows), dtype=bool)
        apart[:] = bool(layout.repeated)
        if not (layout.is_file or layout.is_plain):
            rows = _plain(layout, rows, apart)
        found = b"".join(map(getitem, reading.columns * len(rows), chain.from_iterable(rows)))
        places = np.repeat(self._absent, len(rows), axis=1)
        places[reading.at] = np.frombuffer(found, dtype=np.intp).reshape(len(rows), -1).T[reading.cells]
        for cell, key in reading.identifiers:
            self._read_identifiers(key, [row[cell] for row in rows], places)
        with_history = np.zeros(len(rows), dtype=bool)
        if reading.has_history:
            with_history = self._read_history(places, apart, is_file=layout.is_file)
        flags = self._known.flags[places]
        apart |= (np.bitwise_or.reduce(flags, axis=0) & IS_APART).astype(bool)
        told = (flags & IS_TOLD).astype(bool) & ~apart
        warnings = self._warnings(layout, reading, rows, places, told) if told.any() else {}
        return Encoded(self._put_together(places), with_history, warnings, np.flatnonzero(apart).tolist())

    def _put_together(self, places: Places) -> Floats:
        """The encoded rows."""
        known, rows = self._known, places.shape[1]
        matrix = np.zeros((rows, self._width))
        flat, starts = matrix.reshape(-1), np.arange(rows) * self._width
        for hot, columns in zip(known.hot, self._hot, strict=True):
            flat[hot[places[columns]] + starts] = 1.0
        for numbers, (columns, positions) in zip(known.numbers, self._numbers, strict=True):
            matrix[:, positions] = numbers[places[columns]].T
        for tallied, (columns, position) in zip(known.tallied, self._tallies, strict=True):
            matrix[:, position] = tallied[places[columns]].sum(axis=0)
        for position, feature in self._differences:
            number, subtracted = (known.number[places[self._at[key]]] for key in (feature.column, feature.subtracted))
            matrix[:, position] = np.clip(np.nan_to_num(number - subtracted, nan=0.0), feature.low, feature.high)
        return matrix

    def _warnings(
        self, layout: Layout, reading: _Reading, rows: Sequence[Sequence[object]], places: Places, told: Flags
    ) -> dict[int, list[FieldWarning]]:
        """What `clean_encounter` and then `RowEncoder.unseen` say, where there is something to be told of a cell."""
        columns_of: dict[int, list[int]] = {}
        for row, column in np.argwhere(told.T).tolist():
            columns_of.setdefault(row, []).append(column)
        warnings: dict[int, list[FieldWarning]] = {}
        for row, columns in columns_of.items():
            said = []
            values: dict[str, Value] = {}
            unseen: list[FieldWarning] = []
            for column in sorted(columns, key=reading.order.__getitem__):
                name, key, cell = reading.named[column]
                place = int(places[column, row])
                message = self._known.warnings.get(place)
                if message is not None:
                    raw = layout.cells_of(rows[row])[cell]
                    said.append(FieldWarning(field=name, value=shown(raw), message=message))
                if place in self._known.unseen:
                    values[key] = self._known.clean[place]
                    unseen = self._known.unseen[place]
            # Of several, the encoder knows the order.
            warnings[row] = [*said, *(unseen if len(values) < 2 else self._encoder.unseen(values))]
        return warnings

    def _read_identifiers(self, key: str, cells: Sequence[object], places: Places) -> None:
        """Nothing is learned from a number that no two rows share: it is either in order or its row is set apart."""
        column = self._columns[key]
        if not _are_plain_numbers(cells, column.column):
            for row, cell in enumerate(cells):
                parsed = column.reader.read(cell)
                if parsed.problem is not None or parsed.warning is not None:
                    places[self._at[key], row] = APART

    def _read_history(self, places: Places, apart: Flags, *, is_file: bool) -> Flags:
        """As `clean_encounter` does: how many earlier encounters must be known, and none is a history of its own.

        Says where the patient's history is known.
        """
        flags = self._known.flags[places[self._history]]
        with_history: Flags = np.bitwise_or.reduce(flags & IS_KNOWN, axis=0).astype(bool)
        previous = self._at[_PREVIOUS]
        earlier = self._known.number[places[previous]]
        apart |= np.isnan(earlier) & with_history if is_file else np.isnan(earlier)
        first = earlier == 0.0
        fits = (flags & FITS_FIRST).astype(bool)
        fits[self._history.index(previous)] = True
        apart |= first & ~fits.all(axis=0)
        for key, value in FIRST_ENCOUNTER.items():
            places[self._at[key], first] = np.frombuffer(self._columns[key][value], dtype=np.intp)
        return with_history

    def _reading_of(self, layout: Layout) -> _Reading:
        reading = self._readings.get(layout)
        if reading is None:
            if len(self._readings) == _READINGS:
                self._readings.clear()
            reading = self._readings[layout] = self._new_reading(layout)
        return reading

    def _new_reading(self, layout: Layout) -> _Reading:
        columns: list[PlacesOf] = []
        identifiers: list[tuple[int, str]] = []
        named: dict[int, tuple[str, str, int]] = {}
        for cell, (name, key) in enumerate(zip(layout.names, layout.keys, strict=True)):
            if key is None:
                columns.append(NOT_LOOKED_UP)
            elif self._columns[key].column.kind is Kind.IDENTIFIER:
                columns.append(NOT_LOOKED_UP)
                identifiers.append((cell, key))
            else:
                columns.append(self._booleans if layout.is_plain and key == BOOLEAN else self._columns[key])
                named[self._at[key]] = (name, key, cell)
        run, pieces = layout.run, PieceMemory()
        if run is not None:
            pieces = PieceMemory(columns[run.start : run.stop], run.split)
            columns[run.start : run.stop] = [pieces]
            identifiers = [(at if at < run.start else at + 1 - run.stop + run.start, key) for at, key in identifiers]
        in_words = sorted(named, key=lambda at: named[at][1] in HISTORY_KEYS)
        return _Reading(
            columns=columns,
            pieces=pieces,
            cells=[cell for _, _, cell in named.values()],
            at=list(named),
            identifiers=identifiers,
            named=named,
            order={at: rank for rank, at in enumerate(in_words)},
            has_history=not set(HISTORY_KEYS).isdisjoint(layout.keys),
        )


#: Layouts whose readings are kept.
_READINGS = 64


@dataclass(frozen=True, slots=True)
class _Reading:
    """How rows of one layout are read.

    `columns` are where the cells of a row are looked up, `pieces` among them where the layout has a run. Of the places
    that are found, one for each name, `cells` are those of the columns at `at`; `named` says of such a column its name
    in the layout, its key and its cell. `order` is that in which warnings stand.
    """

    columns: list[PlacesOf]
    pieces: PieceMemory
    cells: list[int]
    at: list[int]
    identifiers: list[tuple[int, str]]
    named: Mapping[int, tuple[str, str, int]]
    order: Mapping[int, int]
    has_history: bool


def _are_plain_numbers(cells: Sequence[Any], column: Column) -> bool:
    """Whether all are whole numbers of the column's range, written plainly: what most tables hold."""
    types = set(map(type, cells))
    if types == {str}:
        # An empty cell would go unseen in the joined text.
        if not (all(cells) and "".join(cells).isascii() and "".join(cells).isdecimal()):
            return False
        if max(map(len, cells)) > _LONGEST_NUMBER:
            return False
        numbers = list(map(int, cells))
    elif types == {int}:
        numbers = list(cells)
    else:
        return False
    low, high = column.low, column.high
    return (low is None or min(numbers) >= low) and (high is None or max(numbers) <= high)


def _plain(layout: Layout, rows: Sequence[Sequence[object]], apart: Flags) -> list[tuple[object, ...]]:
    """The cells of JSON as they may be looked up; rows with others are set apart, and those with names of no column."""
    columns: list[Sequence[object]] = []
    for key, cells in zip(layout.keys, zip(*rows, strict=True), strict=True):
        if key is None:
            apart |= [cell is not ABSENT for cell in cells]  # each is told of the names that were ignored
            columns.append([None] * len(cells))
        elif set(map(type, cells)) <= _PLAIN:
            columns.append(cells)
        else:
            texts = [("No", "Yes")[cell] if key == BOOLEAN and isinstance(cell, bool) else cell for cell in cells]
            is_plain = [type(cell) in _PLAIN for cell in texts]
            apart |= np.logical_not(is_plain)
            columns.append([cell if plain else None for cell, plain in zip(texts, is_plain, strict=True)])
    return list(zip(*columns, strict=True))
