"""The column form of reading and encoding: what serving uses for many encounters at once. NumPy, no pandas.

Each distinct value of a column is read by the rules of `cleaning` and encoded by `row.RowEncoder` once, by itself; rows
are then put together from what is known of their values. So the three forms of the encoder cannot disagree.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import NoneType
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from readmit_contracts.encounter import MISSING_MARKERS, Column, Group, Kind
from readmit_contracts.history import HISTORY, HISTORY_KEYS, INPUTS_BY_KEY
from readmit_contracts.prediction import FieldWarning
from readmit_features.cleaning import FIRST_ENCOUNTER, MAX_TEXT, ColumnReader, Value, input_key, shown
from readmit_features.row import RowEncoder

Floats = NDArray[np.float64]
Places = NDArray[np.int64]
Flags = NDArray[np.bool_]

#: Before the names of a history, where they stand beside the others.
PREFIX: Final = HISTORY + "."
#: The column that also takes true and false.
BOOLEAN: Final = "is_readmission"
_PREVIOUS: Final = "previous_encounters"
#: Distinct values remembered per column, give or take a block of rows.
_REMEMBERED = 4096
#: Types whose values are equal only where they mean the same. True and 1.0 would find what is known of 1.
_PLAIN = frozenset({str, int, NoneType})
#: In the cell of an object that lacks a name of its layout which no column has.
ABSENT: Final = object()
#: From here on a number is not kept; and one of so many digits is below it.
_HUGE, _LONGEST_NUMBER = 2**63, 18


@dataclass(frozen=True, slots=True)
class Layout:
    """Where a table has which column: `keys[i]` is that of cell i, None where no column has its name.

    `repeated` are keys that two cells have: nothing but a refusal can come of that. A history in a file (`is_file`)
    is that of a patient of unknown history where all of its cells are missing; an object is given or it is not. Cells
    that are known to be texts, whole numbers or None (in `BOOLEAN` also booleans) are not looked at again (`is_plain`).
    """

    names: tuple[str, ...]
    keys: tuple[str | None, ...]
    repeated: frozenset[str]
    is_file: bool
    is_plain: bool = False

    @property
    def known(self) -> list[str]:
        """Names of columns."""
        return [name for name, key in zip(self.names, self.keys, strict=True) if key is not None]

    @property
    def unknown(self) -> list[str]:
        """Names that no column has."""
        return [name for name, key in zip(self.names, self.keys, strict=True) if key is None]

    @property
    def missing(self) -> list[str]:
        """Names of columns that every encounter must have, and no cell is."""
        return [
            column.name for column in INPUTS_BY_KEY.values() if _is_required(column) and column.key not in self.keys
        ]

    def encounter(self, cells: Sequence[object]) -> dict[str, object]:
        """One row as the object that a client would post; cells of unknown names are left out."""
        encounter: dict[str, object] = {}
        history: dict[str, object] = {}
        for name, key, cell in zip(self.names, self.keys, cells, strict=True):
            if key in HISTORY_KEYS:
                history[name.removeprefix(PREFIX)] = cell
            elif key is not None:
                encounter[name] = cell
        if history and not (self.is_file and all(map(_is_missing, history.values()))):
            encounter[HISTORY] = history
        return encounter


def layout_of(names: Sequence[str], *, is_file: bool, is_plain: bool = False) -> Layout:
    """Names in any accepted spelling; those of the history stand behind `history.`"""
    keys = tuple(
        input_key(name.removeprefix(PREFIX), of_history=name.startswith(PREFIX)) for name in names
    )  # fmt: skip
    repeated = frozenset(key for key in keys if key is not None and keys.count(key) > 1)
    return Layout(tuple(names), keys, repeated, is_file, is_plain)


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
        self._tallies_from = len(spec.numeric) + len(spec.differences)
        self._tallies = len(spec.tallies)
        self._differences = list(enumerate(spec.differences, len(spec.numeric)))
        owned: dict[str, list[int]] = {}
        targets_from = self._tallies_from + self._tallies
        for at, numeric in enumerate(spec.numeric):
            owned.setdefault(numeric.column, []).append(at)
        for at, target in enumerate(spec.targets, targets_from):
            owned.setdefault(target.column, []).append(at)
        blocks: dict[str, list[tuple[int, int]]] = {}
        start = targets_from + len(spec.targets)
        for categorical in spec.categorical:
            blocks.setdefault(categorical.column, []).append((start, start + len(categorical.names)))
            start += len(categorical.names)
        self._grows = [key for key in spec.columns if INPUTS_BY_KEY[key].kind in {Kind.OPEN, Kind.DIAGNOSIS}]
        self._subtracted = {key for feature in spec.differences for key in (feature.column, feature.subtracted)}
        tallied = {column for tally in spec.tallies for column in tally.columns}
        tallies = range(self._tallies_from, targets_from)
        self._columns = {
            key: _Column(key, encoder, owned.get(key, []), blocks.get(key, []), tallies if key in tallied else ())
            for key in INPUTS_BY_KEY
        }

    @property
    def remembered(self) -> int:
        """Most distinct values that any column remembers."""
        return max(map(len, self._columns.values()))

    def encode(self, layout: Layout, cells: Sequence[Sequence[object]]) -> Encoded:
        """Rows of a table, by column: `cells[i][row]`, as many columns as the layout has names, one row or more."""
        rows = len(cells[0])
        apart = np.zeros(rows, dtype=bool)
        apart[:] = bool(layout.repeated)
        given: dict[str, Sequence[object]] = {}
        for key, column in zip(layout.keys, cells, strict=True):
            if key is not None:
                as_it_is = layout.is_file or (layout.is_plain and key != BOOLEAN)
                given[key] = column if as_it_is else _plain(key, column, apart)
            elif not layout.is_file:
                apart |= [cell is not ABSENT for cell in column]  # each is told of the names that were ignored
        has_history = not given.keys().isdisjoint(HISTORY_KEYS)
        if has_history:
            given |= {key: (None,) * rows for key in HISTORY_KEYS if key not in given}
        for column_of in self._columns.values():
            column_of.forget_much()
        places = {key: self._columns[key].places(column) for key, column in given.items()}
        with_history = np.zeros(rows, dtype=bool)
        if has_history:
            self._read_history(places, with_history, apart, is_file=layout.is_file)
        matrix, flags = self._put_together(places, rows)
        apart |= (flags & _IS_APART).astype(bool)
        told = np.flatnonzero((flags & _IS_TOLD).astype(bool) & ~apart).tolist()
        return Encoded(
            matrix, with_history, self._warnings(layout, given, places, told), np.flatnonzero(apart).tolist()
        )

    def _put_together(self, places: Mapping[str, Places], rows: int) -> tuple[Floats, NDArray[np.uint8]]:
        """The encoded rows, and what the flags of their values say together."""
        same = np.zeros(self._width)  # of all rows: what columns say that hold one value only
        tallied = np.zeros(self._tallies)
        flags = np.zeros(rows, dtype=np.uint8)
        varying: list[tuple[_Column, Places]] = []
        for key, column in self._columns.items():
            at = places.get(key, _ALL_ABSENT)
            if len(at) != 1:
                varying.append((column, at))
                continue
            (place,) = at.tolist()
            flags |= column.flags[place]
            for position, values in zip(column.owned, column.numbers, strict=True):
                same[position] = values[place]
            for hot in column.hot:
                same[hot[place]] = 1.0
            if len(column.tallied):
                tallied += column.tallied[:, place]
        matrix = np.tile(same, (rows, 1))
        flat, starts = matrix.reshape(-1), np.arange(rows) * self._width
        tallies = np.zeros((self._tallies, rows))
        for column, at in varying:
            flags |= column.flags[at]
            for position, values in zip(column.owned, column.numbers, strict=True):
                matrix[:, position] = values[at]
            for hot in column.hot:
                flat[starts + hot[at]] = 1.0
            if len(column.tallied):
                tallies += column.tallied[:, at]
        matrix[:, self._tallies_from : self._tallies_from + self._tallies] = tallies.T + tallied
        numbers = {key: self._columns[key].number[places.get(key, _ALL_ABSENT)] for key in self._subtracted}
        for position, feature in self._differences:
            differences = np.nan_to_num(numbers[feature.column] - numbers[feature.subtracted], nan=0.0)
            matrix[:, position] = np.clip(differences, feature.low, feature.high)
        return matrix, flags

    def _warnings(
        self, layout: Layout, given: Mapping[str, Sequence[object]], places: Mapping[str, Places], told: list[int]
    ) -> dict[int, list[FieldWarning]]:
        """What `clean_encounter` and then `RowEncoder.unseen` say of these rows."""
        if not told:
            return {}
        names = {key: name for name, key in zip(layout.names, layout.keys, strict=True) if key is not None}
        worded = [key for key in sorted(names, key=HISTORY_KEYS.__contains__) if self._columns[key].warnings]
        at = {key: np.broadcast_to(places[key], (len(given[key]),)) for key in {*worded, *self._grows} & places.keys()}
        warnings: dict[int, list[FieldWarning]] = {}
        for row in told:
            said = []
            for key in worded:
                message = self._columns[key].warnings.get(int(at[key][row]))
                if message is not None:
                    said.append(FieldWarning(field=names[key], value=shown(given[key][row]), message=message))
            values = {key: self._columns[key].clean[at[key][row]] for key in self._grows if key in at}
            warnings[row] = [*said, *self._encoder.unseen(values)]
        return warnings

    def _read_history(self, places: dict[str, Places], with_history: Flags, apart: Flags, *, is_file: bool) -> None:
        """As `clean_encounter` does: how many earlier encounters must be known, and none is a history of its own."""
        flags = {key: self._columns[key].flags[places[key]] for key in HISTORY_KEYS}
        for of_key in flags.values():
            with_history |= (of_key & _IS_KNOWN).astype(bool)
        earlier = self._columns[_PREVIOUS].number[places[_PREVIOUS]]
        apart |= np.isnan(earlier) & with_history if is_file else np.isnan(earlier)
        first = earlier == 0.0
        for key in HISTORY_KEYS:
            if key == _PREVIOUS:
                continue
            apart |= first & ~(flags[key] & _FITS_FIRST).astype(bool)
            if key in FIRST_ENCOUNTER:
                places[key] = np.where(first, self._columns[key].places((FIRST_ENCOUNTER[key],)), places[key])


#: Where each column keeps what an absent cell means, and what one that cannot be read here means.
_ABSENT, _APART = 0, 1
_ALL_ABSENT: Final[Places] = np.array([_ABSENT])
# What is known of a value: its row cannot be read here; there is a warning of it; it is not missing; it may stand in
# the history of a first encounter.
_IS_APART, _IS_TOLD, _IS_KNOWN, _FITS_FIRST = (np.uint8(1 << bit) for bit in range(4))


class _Column(dict[object, int]):
    """The values of one column that have come so far: raw value -> its place in the arrays.

    Each array says something of a value, by place: `flags` as above, `number` (nan where it is none). `clean` are the
    values as they were read, `warnings` those of reading.
    `numbers[i]` are the features at `owned[i]`, `hot[i]` where in the row the 1 of block i stands, `tallied[i]` what
    the value adds to tally i.
    """

    def __init__(
        self,
        key: str,
        encoder: RowEncoder,
        owned: Sequence[int],
        blocks: Sequence[tuple[int, int]],
        tallies: Sequence[int],
    ) -> None:
        super().__init__()
        self._key = key
        self._column = INPUTS_BY_KEY[key]
        self._reader = ColumnReader(self._column)
        self._encoder = encoder
        self._blocks = blocks
        self._tallies = tallies
        self.owned = owned
        self.is_required = _is_required(self._column)
        self._forget()

    def _forget(self) -> None:
        self.clear()
        self.clean: list[Value] = []
        self.warnings: dict[int, str] = {}
        self.flags = np.zeros(8, dtype=np.uint8)
        self.number = np.zeros(8)
        self.numbers = np.zeros((len(self.owned), 8))
        self.hot = np.zeros((len(self._blocks), 8), dtype=np.int64)
        self.tallied = np.zeros((len(self._tallies), 8))
        self._add(None if self._key in HISTORY_KEYS else self._column.default, is_apart=self.is_required)
        self._add(None, is_apart=True)

    def forget_much(self) -> None:
        """Start afresh if there is too much. No place that was told before means anything then."""
        if len(self) > _REMEMBERED:
            self._forget()

    def places(self, cells: Sequence[object]) -> Places:
        """Where the arrays say what there is to say of each cell, shape (n,), or (1,) where all are the same."""
        if self._column.kind is Kind.IDENTIFIER:
            return self._places_of_identifiers(cells)
        first = cells[0]
        # Equal is enough: only texts, whole numbers and None come here.
        if first == cells[-1] and cells.count(first) == len(cells):
            return np.array([self[first]])
        return np.fromiter(map(self.__getitem__, cells), dtype=np.int64, count=len(cells))

    def _places_of_identifiers(self, cells: Sequence[object]) -> Places:
        """Nothing is learned from a number that no two rows share: it is either in order or its row is set apart."""
        if _are_plain_numbers(cells, self._column):
            return _ALL_ABSENT
        parsed = map(self._reader.read, cells)
        return np.array([_ABSENT if one.problem is None and one.warning is None else _APART for one in parsed])

    def __missing__(self, raw: object) -> int:
        if (isinstance(raw, str) and len(raw) > MAX_TEXT) or (isinstance(raw, int) and abs(raw) >= _HUGE):
            return _APART  # neither read here nor kept
        parsed = self._reader.read(raw)
        refused = parsed.problem is not None or (self.is_required and parsed.value is None)
        place = self[raw] = self._add(parsed.value, is_apart=refused)
        if parsed.warning is not None:
            self.warnings[place] = parsed.warning
        if parsed.warning is not None or self._encoder.unseen({self._key: parsed.value}):
            self.flags[place] |= _IS_TOLD
        return place

    def _add(self, value: Value, *, is_apart: bool) -> int:
        place = len(self.clean)
        if place == len(self.number):
            self._grow()
        self.clean.append(value)
        said = ((_IS_APART, is_apart), (_IS_KNOWN, value is not None), (_FITS_FIRST, self._fits_first(value)))
        self.flags[place] = sum(flag for flag, holds in said if holds)
        self.number[place] = float(value) if isinstance(value, int) else math.nan
        encoded = self._encoder.encode({self._key: value})
        self.numbers[:, place] = encoded[list(self.owned)]
        self.hot[:, place] = [start + int(encoded[start:end].argmax()) for start, end in self._blocks]
        self.tallied[:, place] = encoded[list(self._tallies)]
        return place

    def _fits_first(self, value: Value) -> bool:
        return value is None or value == FIRST_ENCOUNTER.get(self._key)

    def _grow(self) -> None:
        self.flags = _doubled(self.flags)
        self.number = _doubled(self.number)
        self.numbers = _doubled(self.numbers)
        self.hot = _doubled(self.hot)
        self.tallied = _doubled(self.tallied)


def _is_required(column: Column) -> bool:
    return column.required and column.group is not Group.HISTORY


def _doubled(array: NDArray[Any]) -> NDArray[Any]:
    return np.concatenate([array, np.zeros_like(array)], axis=-1)


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


def _plain(key: str, cells: Sequence[object], apart: Flags) -> Sequence[object]:
    """The cells of JSON that may be looked up; rows with others are set apart."""
    if set(map(type, cells)) <= _PLAIN:
        return cells
    plain: list[object] = []
    for row, cell in enumerate(cells):
        if key == BOOLEAN and isinstance(cell, bool):
            plain.append(("No", "Yes")[cell])
        elif type(cell) in _PLAIN:
            plain.append(cell)
        else:
            apart[row] = True
            plain.append(None)
    return plain


def _is_missing(cell: object) -> bool:
    return isinstance(cell, str) and cell.strip().casefold() in MISSING_MARKERS
