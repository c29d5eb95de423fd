"""JSON objects whose names are known, read straight into cells: no dictionary between, no cell's type to look at."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import lru_cache
from operator import attrgetter
from typing import Annotated, Any, NamedTuple

import msgspec
import orjson

from readmit_contracts.history import HISTORY
from readmit_features.known import MAX_PIECE
from readmit_features.layout import BOOLEAN, PREFIX, Layout, Run, layout_of

# A number of more than 64 bits is a whole one here and none, or no JSON, to the other parser: it is left to that.
_CELL = Annotated[int, msgspec.Meta(ge=-(2**63), le=2**63 - 1)] | str | None
_BOOLEAN_CELL = bool | str | None
#: Pieces of a run that one type remembers.
_MOST_PIECES = 2048


class _Field(NamedTuple):
    """Its name in the type, since what clients write need not be an identifier; in the object; what it may hold."""

    field: str
    written: str
    kind: Any


class TypedObjects:
    """Reads objects that have no other names than these, and texts, whole numbers or null below each.

    Where a run of columns stands in the bytes as it stood before, it is cut out, and only what is left is parsed.
    """

    def __init__(self, names: tuple[str, ...]) -> None:
        """Names behind `history.` are those of an object below `history`, which then must be there."""
        self._layout = layout_of(names, is_file=False, is_plain=True)
        fields = [
            _Field(f"f{at}", name, _BOOLEAN_CELL if key == BOOLEAN else _CELL)
            for at, (name, key) in enumerate(zip(names, self._layout.keys, strict=True))
        ]
        self._whole = _reader(fields)
        self._pieces: dict[bytes, bytes] = {}
        self._joined: Layout | None = None
        found = self._layout.longest_run()
        self._before, last = found.start, found.stop - 1  # the last name of the run stays: behind it all is as it was
        rest = fields[: self._before] + fields[last:]
        if last - self._before > 1 and len(rest) > 1:
            self._joined = replace(self._layout, run=Run(self._before, last, self._split))
            self._rest, self._run = _reader(rest), _reader(fields[self._before : last + 1])
            self._begins, self._ends = (orjson.dumps(names[at]) + b":" for at in (self._before, last))

    def read(self, data: bytes) -> tuple[Layout, Sequence[object]] | None:
        """Its cells; None where it is anything else, which includes what is no JSON."""
        if self._joined is not None:
            start = data.find(self._begins)
            end = data.rfind(self._ends)  # nearer to the end of the usual row
            piece = self._known(data[start:end]) if 0 < start < end else None
            if piece is not None:
                # A piece is names and values with a comma behind each, and without it a name of the type follows:
                # where this is an object of that type, the piece stands between names and not in a text.
                cells = self._rest(data[:start] + data[end:])
                if cells is not None:
                    return self._joined, (*cells[: self._before], piece, *cells[self._before :])
        cells = self._whole(data)
        return None if cells is None else (self._layout, cells)

    def _known(self, piece: bytes) -> bytes | None:
        """The piece as the one object that stands for these bytes: the next to look it up need not hash it again."""
        known = self._pieces.get(piece)
        if known is None and len(piece) <= MAX_PIECE and self._run(self._as_object(piece)) is not None:
            if len(self._pieces) == _MOST_PIECES:
                self._pieces.clear()
            known = self._pieces[piece] = piece
        return known

    def _split(self, piece: bytes) -> Sequence[object]:
        cells = self._run(self._as_object(piece))
        if cells is None:
            raise ValueError("not a piece that was read")
        return cells[:-1]

    def _as_object(self, piece: bytes) -> bytes:
        return b"{" + piece + self._ends + b"null}"


#: Clients send the same names again and again, and a type takes as long to make as some hundred rows to read.
typed_objects = lru_cache(maxsize=16)(TypedObjects)


def _reader(fields: Sequence[_Field]) -> Callable[[bytes], tuple[object, ...] | None]:
    """Reads the cells of objects with these names and no others; None of anything else."""
    if len(fields) < 2:  # an `attrgetter` gets what one holds and no tuple
        return lambda _: None
    own = [field for field in fields if not field.written.startswith(PREFIX)]
    history = [field._replace(written=field.written.removeprefix(PREFIX)) for field in fields if field not in own]
    below = [_Field(HISTORY, HISTORY, _struct("History", history))] if history else []
    decode = msgspec.json.Decoder(_struct("Encounter", own, below)).decode
    get = attrgetter(*(field.field if field in own else f"{HISTORY}.{field.field}" for field in fields))

    def read(data: bytes) -> tuple[object, ...] | None:
        try:
            found = decode(data)
        except (msgspec.DecodeError, UnicodeDecodeError):
            return None
        cells: tuple[object, ...] = get(found)
        return cells

    return read


def _struct(title: str, cells: Sequence[_Field], below: Sequence[_Field] = ()) -> Any:
    fields = [(cell.field, cell.kind, None) for cell in cells] + [(one.field, one.kind) for one in below]
    # Nothing in them can refer back to them, so garbage collection need not look at them.
    return msgspec.defstruct(
        title,
        fields,
        rename={one.field: one.written for one in (*cells, *below)},
        forbid_unknown_fields=True,
        gc=False,
        kw_only=True,
    )
