"""What is known of the values that the columns of tables have held, kept where many cells are looked up at once.

A value has a place, and arrays say there what it stands for in an encoded row. Each is read by the rules of `cleaning`
and encoded by `row.RowEncoder` once, by itself.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from operator import getitem
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from readmit_contracts.encounter import Group
from readmit_contracts.history import INPUTS_BY_KEY
from readmit_contracts.prediction import FieldWarning
from readmit_features.cleaning import FIRST_ENCOUNTER, MAX_TEXT, ColumnReader, Value
from readmit_features.layout import is_required
from readmit_features.row import RowEncoder

#: The place of what cannot be read here, whatever its column.
APART = 0
# What is known of a value: its row cannot be read here; there is a warning of it; it is not missing; it may stand in
# the history of a first encounter.
IS_APART, IS_TOLD, IS_KNOWN, FITS_FIRST = (np.uint8(1 << bit) for bit in range(4))
#: Longest piece of a run that is remembered, in characters or bytes.
MAX_PIECE: Final = 1024
#: From here on a number is not kept.
_HUGE = 2**63
#: Values that there is room for at first.
_ROOM = 1024

#: Raw cell -> the place of its value, as the bytes of an `np.intp`; of a piece of a run, the places of all its cells.
#: Bytes, since joining them makes an array in half the time that numbers take.
PlacesOf = dict[Any, bytes]


class KnownValues:
    """What is known of the values of all columns that have come so far.

    Each array says something of a value, by its place: `flags` as above, `number` (nan where it is none). `clean` are
    the values as they were read, `warnings` those of reading, `unseen` those of a value that training hardly saw.
    `numbers[i]` is the i-th feature that the column owns, `hot[i]` where in the row the 1 of its i-th block stands,
    `tallied[i]` what the value adds to tally i.
    """

    def __init__(
        self,
        encoder: RowEncoder,
        owned: Mapping[str, Sequence[int]],
        blocks: Mapping[str, Sequence[tuple[int, int]]],
        tallies: slice,
    ) -> None:
        self.encoder = encoder
        self._owned = owned
        self._blocks = blocks
        self._tallies = tallies
        self.forget()

    def forget(self) -> None:
        """Start afresh, with the place of what cannot be read."""
        self.clean: list[Value] = [None]
        self.warnings: dict[int, str] = {}
        self.unseen: dict[int, list[FieldWarning]] = {}
        self.flags = np.full(_ROOM, IS_APART)
        self.number = np.full(_ROOM, math.nan)
        self.numbers = np.zeros((max(map(len, self._owned.values())), _ROOM))
        self.hot = np.zeros((max(map(len, self._blocks.values())), _ROOM), dtype=np.intp)
        self.tallied = np.zeros((self._tallies.stop - self._tallies.start, _ROOM))

    def add(self, key: str, value: Value, flags: np.uint8) -> int:
        """The place of a new value of this column."""
        place = len(self.clean)
        if place == len(self.number):
            self._grow()
        self.clean.append(value)
        self.flags[place] = flags
        self.number[place] = float(value) if isinstance(value, int) else math.nan
        encoded = self.encoder.encode({key: value})
        for i, at in enumerate(self._owned[key]):
            self.numbers[i, place] = encoded[at]
        for i, (start, end) in enumerate(self._blocks[key]):
            self.hot[i, place] = start + int(encoded[start:end].argmax())
        self.tallied[:, place] = encoded[self._tallies]
        return place

    def _grow(self) -> None:
        self.flags = _doubled(self.flags)
        self.number = _doubled(self.number)
        self.numbers = _doubled(self.numbers)
        self.hot = _doubled(self.hot)
        self.tallied = _doubled(self.tallied)


class ColumnMemory(PlacesOf):
    """The values of one column that have come so far: raw value -> the bytes of its place in what is known."""

    def __init__(self, key: str, known: KnownValues) -> None:
        super().__init__()
        self.column = INPUTS_BY_KEY[key]
        self.reader = ColumnReader(self.column)
        self._known = known
        self._is_required = is_required(self.column)

    def add_absent(self) -> int:
        """Where it is said what an absent cell means."""
        value = None if self.column.group is Group.HISTORY else self.column.default
        return self._known.add(self.column.key, value, self._flags(value, is_told=False))

    def __missing__(self, raw: object) -> bytes:
        if (isinstance(raw, str) and len(raw) > MAX_TEXT) or (isinstance(raw, int) and abs(raw) >= _HUGE):
            return _REFUSED_BYTES  # neither read here nor kept
        parsed = self.reader.read(("No", "Yes")[raw] if isinstance(raw, bool) else raw)
        if parsed.problem is not None:
            found = self[raw] = _REFUSED_BYTES
            return found
        known, key = self._known, self.column.key
        unseen = known.encoder.unseen({key: parsed.value})
        is_told = parsed.warning is not None or bool(unseen)
        place = known.add(key, parsed.value, self._flags(parsed.value, is_told=is_told))
        if parsed.warning is not None:
            known.warnings[place] = parsed.warning
        if unseen:
            known.unseen[place] = unseen
        found = self[raw] = _as_bytes(place)
        return found

    def _flags(self, value: Value, *, is_told: bool) -> np.uint8:
        fits_first = value is None or value == FIRST_ENCOUNTER.get(self.column.key)
        said = (
            (IS_APART, value is None and self._is_required),
            (IS_TOLD, is_told),
            (IS_KNOWN, value is not None),
            (FITS_FIRST, fits_first),
        )
        return np.uint8(sum(flag for flag, holds in said if holds))


class _Nothing(PlacesOf):
    """For cells that no column has, and for those that are looked at otherwise: tells nothing, remembers nothing."""

    def __missing__(self, raw: object) -> bytes:
        return _REFUSED_BYTES


class PieceMemory(PlacesOf):
    """The pieces of a run that have come so far, each with the bytes of the places of all its cells."""

    def __init__(self, columns: Sequence[PlacesOf] = (), split: Callable[[Any], Sequence[object]] = list) -> None:
        super().__init__()
        self._columns = columns
        self._split = split

    def __missing__(self, piece: Any) -> bytes:
        found = b"".join(map(getitem, self._columns, self._split(piece)))
        if len(piece) <= MAX_PIECE:
            self[piece] = found
        return found


def _as_bytes(place: int) -> bytes:
    return np.intp(place).tobytes()


_REFUSED_BYTES: Final = _as_bytes(APART)
NOT_LOOKED_UP: Final = _Nothing()


def _doubled(array: NDArray[Any]) -> NDArray[Any]:
    return np.concatenate([array, np.zeros_like(array)], axis=-1)
