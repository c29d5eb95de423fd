"""JSON objects whose names are known, read straight into cells: no dictionary between, no cell's type to look at."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache
from operator import attrgetter
from typing import Any

import msgspec

from readmit_contracts.history import HISTORY
from readmit_features.columns import BOOLEAN, PREFIX, Layout, layout_of

# A number of more than 64 bits is a whole one here and none to the other parser; either way its row is read alone.
_CELL = int | str | None
_BOOLEAN_CELL = bool | str | None
#: Its name in the type, its name in the object, and what it may hold.
_Field = tuple[str, str, Any]


class TypedObjects:
    """Reads objects that have no other names than these, and texts, whole numbers or null below each."""

    def __init__(self, names: tuple[str, ...]) -> None:
        """Names behind `history.` are those of an object below `history`, which then must be there."""
        self._layout = layout_of(names, is_file=False, is_plain=True)
        own: list[_Field] = []
        history: list[_Field] = []
        paths = []
        for at, (name, key) in enumerate(zip(names, self._layout.keys, strict=True)):
            # Fields have names of their own, since what clients write need not be an identifier.
            field, kind = f"f{at}", _BOOLEAN_CELL if key == BOOLEAN else _CELL
            if name.startswith(PREFIX):
                history.append((field, name.removeprefix(PREFIX), kind))
                paths.append(f"{HISTORY}.{field}")
            else:
                own.append((field, name, kind))
                paths.append(field)
        below = [(HISTORY, HISTORY, _struct("History", history, []))] if history else []
        self._decode = msgspec.json.Decoder(_struct("Encounter", own, below)).decode
        # Of one name, an `attrgetter` gets what it holds and no tuple.
        self._cells: Callable[[Any], tuple[object, ...]] | None = attrgetter(*paths) if len(paths) > 1 else None

    def read(self, data: bytes) -> tuple[Layout, tuple[object, ...]] | None:
        """Its cells; None where it is anything else, which includes what is no JSON."""
        if self._cells is None:
            return None
        try:
            found = self._decode(data)
        except (msgspec.DecodeError, UnicodeDecodeError):
            return None
        return self._layout, self._cells(found)


#: Clients send the same names again and again, and a type takes as long to make as some hundred rows to read.
typed_objects = lru_cache(maxsize=64)(TypedObjects)


def _struct(title: str, cells: Sequence[_Field], below: Sequence[_Field]) -> Any:
    fields = [(field, kind, None) for field, _, kind in cells] + [(field, kind) for field, _, kind in below]
    # Nothing in them can refer back to them, so garbage collection need not look at them.
    return msgspec.defstruct(
        title,
        fields,
        rename={field: written for field, written, _ in (*cells, *below)},
        forbid_unknown_fields=True,
        gc=False,
        kw_only=True,
    )
