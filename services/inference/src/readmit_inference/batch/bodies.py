"""Bytes of a body, as they come, into rows: a JSON array of encounters, NDJSON, or CSV. Pure, nothing is waited for."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import replace
from operator import methodcaller
from typing import Any, Final, NamedTuple, Protocol

import orjson

from readmit_contracts.history import HISTORY
from readmit_features.layout import ABSENT, PREFIX, Layout, Run, layout_of
from readmit_inference.batch.typed import TypedObjects, typed_objects
from readmit_inference.errors import InvalidBatch, InvalidJson, NotAnObject, PredictionRefused

#: Names that a layout of objects has at most.
_MOST_NAMES = 256
#: Of rows that can only be read one by one.
_NO_LAYOUT: Final = layout_of((), is_file=False)
#: Types made of the names of one body, at most: each new name means another.
_MOST_TYPES = 16


class Row(NamedTuple):
    """One encounter, as cells of a layout; `sent` is the object of JSON, or its bytes, and None in a file."""

    layout: Layout
    cells: Sequence[object]
    sent: dict[str, Any] | bytes | None

    def as_encounter(self) -> dict[str, Any]:
        """The row as a client of `POST /predict` would send it."""
        if self.sent is None:
            return self.layout.encounter(self.cells)
        encounter: dict[str, Any] = orjson.loads(self.sent) if isinstance(self.sent, bytes) else self.sent
        return encounter


#: What stands in the place of a row that could not be read, and does not keep the next ones from being read.
Unreadable = PredictionRefused


class Body(Protocol):
    """A body that comes in pieces."""

    def feed(self, data: bytes) -> Iterator[Row | Unreadable]:
        """The rows that are complete with these bytes. Raises `InvalidBatch` when there is no telling what follows."""
        ...

    def end(self) -> Iterator[Row | Unreadable]:
        """What is left when nothing more comes. Raises `InvalidBatch` when the body is cut off."""
        ...


class NdjsonBody:
    """One object per line; empty lines say nothing."""

    def __init__(self, max_row_bytes: int) -> None:
        self._rows = _Objects()
        self._max_row_bytes = max_row_bytes
        self._rest = b""

    def feed(self, data: bytes) -> Iterator[Row | Unreadable]:
        """A line that is no object does not keep the next one from being read."""
        *lines, self._rest = (self._rest + data).split(b"\n")
        for line in lines:
            if line.strip():
                yield self._rows.read(line)
        if len(self._rest) > self._max_row_bytes:
            raise _too_long(self._max_row_bytes)

    def end(self) -> Iterator[Row | Unreadable]:
        """The last line needs no end."""
        if self._rest.strip():
            yield self._rows.read(self._rest)


class JsonBody:
    """An array of objects. Objects are found by their braces, and each is parsed as a request to `/predict` is."""

    def __init__(self, max_row_bytes: int) -> None:
        self._rows = _Objects()
        self._max_row_bytes = max_row_bytes
        self._rest = b""
        self._read = 0
        self._expects = _ARRAY

    def feed(self, data: bytes) -> Iterator[Row | Unreadable]:
        """As many objects as have come whole."""
        text = self._rest + data
        at = 0
        while (at := _blank(text, at)) < len(text):
            if self._expects is _OBJECT or (self._expects is _FIRST and text[at] != _CLOSED):
                if text[at] != _BRACE:
                    raise self._invalid("an encounter in braces")
                at, is_cut_off = yield from self._objects(text, at)
                if is_cut_off:
                    break
            else:
                self._expects = self._after(text[at])
                at += 1
        self._rest = text[at:]
        if len(self._rest) > self._max_row_bytes:
            raise _too_long(self._max_row_bytes)

    def end(self) -> Iterator[Row | Unreadable]:
        """Nothing may be open."""
        if self._expects is not _NOTHING:
            raise self._invalid("the rest: the body ends")
        return iter(())

    def _objects(self, text: bytes, at: int) -> Generator[Row | Unreadable, None, tuple[int, bool]]:
        """The object that opens here, and those that follow it at once.

        Says where what is due next stands, and whether that is an object whose end has not come.
        """
        while True:
            end = text.find(b"}", at) + 1
            if end and text.find(b"{", at + 1, end) >= 0:
                end = text.find(b"}", end) + 1
            # Likely, that was all of it. Bytes that are an object end where it does: no need to count quotes.
            row: Row | Unreadable | None = self._rows.read_usual(text[at:end]) if end else None
            if row is None:
                found = _end_of_object(text, at)
                if found is None:
                    return at, True
                row, end = self._rows.read(text[at:found]), found
            self._read += 1
            self._expects = _MORE
            yield row
            following = _FOLLOWING.match(text, end)
            if following is None:
                return end, False
            at = following.end()
            self._expects = _OBJECT

    def _after(self, byte: int) -> str:
        allowed = _GRAMMAR[self._expects]
        if byte not in allowed:
            raise self._invalid(self._expects)
        return allowed[byte]

    def _invalid(self, expected: str) -> InvalidBatch:
        return InvalidBatch(
            f"The body is not a JSON array of encounters: after {self._read} of them, {expected} is due."
        )


# What is due next in a JSON array, in words.
_ARRAY: Final = "an array in brackets"
_FIRST: Final = "an encounter or the closing bracket"
_OBJECT: Final = "an encounter"
_MORE: Final = "a comma or the closing bracket"
_NOTHING: Final = "nothing more"
_BRACE, _OPEN, _CLOSED, _COMMA = b"{[],"
_GRAMMAR: Final = {
    _ARRAY: {_OPEN: _FIRST},
    _FIRST: {_CLOSED: _NOTHING},
    _MORE: {_COMMA: _OBJECT, _CLOSED: _NOTHING},
    _NOTHING: dict[int, str](),
}
_BLANKS: Final = re.compile(rb"[ \t\r\n]*+")
#: What leads to the next object.
_FOLLOWING: Final = re.compile(rb"[ \t\r\n]*+,[ \t\r\n]*+(?={)")
_NESTING = 8


def _whole_object() -> re.Pattern[bytes]:
    """An object by its braces, texts left aside. Nothing is tried twice, so it takes one pass."""
    text = rb'"(?:[^"\\]|\\.)*+"'
    whole = rb"(?!)"
    for _ in range(_NESTING):
        whole = rb"\{(?:[^\"{}]++|" + text + rb"|" + whole + rb")*+\}"
    return re.compile(whole, re.DOTALL)


_WHOLE_OBJECT: Final = _whole_object()


def _end_of_object(text: bytes, start: int) -> int | None:
    """Behind the brace that closes the one at `start`; None if it has not come.

    The usual object, flat or with one object in it, is found by looking for braces, at the speed of memory.
    """
    close = text.find(b"}", start)
    if close < 0:
        return None
    inner = text.find(b"{", start + 1, close)
    if inner >= 0:
        outer = text.find(b"}", close + 1)
        if outer >= 0 and text.find(b"{", inner + 1, outer) < 0 and _is_outside(text, start, inner, close, outer):
            return outer + 1
    elif _is_outside(text, start, close):
        return close + 1
    found = _WHOLE_OBJECT.match(text, start)
    return None if found is None else found.end()


def _is_outside(text: bytes, start: int, *places: int) -> bool:
    """Whether these bytes stand outside of texts: an even number of quotes before each, and nothing escaped."""
    return text.find(b"\\", start, places[-1]) < 0 and not any(
        text.count(b'"', start, place) % 2 for place in places
    )  # fmt: skip


def _blank(text: bytes, at: int) -> int:
    found = _BLANKS.match(text, at)
    return found.end() if found else at


class _Objects:
    """Reads the bytes of one object into a row. Objects that lack some names share the layout of those that don't.

    What is usual is read by a type that is made of the names that have come; whatever does not fit one, as any JSON.
    """

    def __init__(self) -> None:
        self._with_history, self._without = _Names(), _Names()
        self._likeliest_first = [self._without, self._with_history]

    def read(self, data: bytes) -> Row | Unreadable:
        return self.read_usual(data) or self._read_any(data)

    def read_usual(self, data: bytes) -> Row | None:
        """What a type reads; None of what is anything else, which includes what is no JSON."""
        for names in self._likeliest_first:
            found = None if names.typed is None else names.typed.read(data)
            if found is not None:
                if names is not self._likeliest_first[0]:
                    self._likeliest_first.reverse()
                return Row(*found, data)
        return None

    def _read_any(self, data: bytes) -> Row | Unreadable:
        try:
            encounter = orjson.loads(data)
        except orjson.JSONDecodeError as error:
            # The position only: the parser's own words may quote what was sent.
            return InvalidJson(f"The row can't be parsed as JSON (line {error.lineno}, column {error.colno}).")
        if not isinstance(encounter, dict):
            return NotAnObject("The row is not a JSON object: field names and values in braces.")
        if any(name.startswith(PREFIX) for name in encounter):  # no history, though its cells would stand below it
            return Row(_NO_LAYOUT, (), encounter)
        history = encounter.get(HISTORY)
        if history == {}:  # one that lacks what it must have; without cells nothing would be left of it
            return Row(_NO_LAYOUT, (), encounter)
        if isinstance(history, dict):
            own = {name: value for name, value in encounter.items() if name != HISTORY}
            return self._with_history.row(own | {f"{HISTORY}.{name}": history[name] for name in history}, encounter)
        return self._without.row(encounter, encounter)


class _Names:
    """The names that objects have had so far, as a layout that grows, and as a type of those that mean something."""

    def __init__(self) -> None:
        self._names: dict[str, object] = {}
        self._layout = layout_of((), is_file=False)
        self._types_left = _MOST_TYPES
        self.typed: TypedObjects | None = None

    def row(self, flat: dict[str, Any], encounter: dict[str, Any]) -> Row:
        if not flat.keys() <= self._names.keys():
            self._learn(flat)
        return Row(self._layout, list(map(flat.get, self._names, self._names.values())), encounter)

    def _learn(self, flat: dict[str, Any]) -> None:
        layout = layout_of(list(self._names | flat), is_file=False)
        if layout.repeated or len(layout.names) > _MOST_NAMES:  # another spelling, or too many that nobody knows
            layout = layout_of(list(flat), is_file=False)
        self._layout = layout
        absent = (None if key is not None else ABSENT for key in layout.keys)
        self._names = dict(zip(layout.names, absent, strict=True))
        if self._types_left and not layout.repeated:
            self._types_left -= 1
            self.typed = typed_objects(tuple(layout.known))


class CsvBody:
    """Comma-separated, UTF-8, the first line names the columns; cells in quotes may hold commas and line ends."""

    def __init__(self, max_row_bytes: int) -> None:
        self._max_row_bytes = max_row_bytes
        self._rest = b""
        self._layout: Layout | None = None
        #: The same, with a run in one piece: not of rows in quotes.
        self._joined: Layout | None = None
        self._commas = self._before = self._behind = 0

    @property
    def ignored(self) -> list[str]:
        """Columns of the file that are not read, once its first line has come."""
        return [] if self._layout is None else self._layout.unknown

    def feed(self, data: bytes) -> Iterator[Row | Unreadable]:
        """As many rows as have come whole."""
        text = self._rest + data
        cut = text.rfind(b"\n") + 1
        # A line end within quotes is no end: before it stands an odd number of them.
        while cut and text.count(b'"', 0, cut) % 2:
            cut = text.rfind(b"\n", 0, cut - 1) + 1
        self._rest = text[cut:]
        if len(self._rest) > self._max_row_bytes:
            raise _too_long(self._max_row_bytes)
        return self._rows(text[:cut])

    def end(self) -> Iterator[Row | Unreadable]:
        """The last row needs no line end."""
        rest, self._rest = self._rest, b""
        yield from self._rows(rest)
        if self._layout is None:
            raise InvalidBatch("The file is empty: send the names of the columns in the first line.")

    def _rows(self, data: bytes) -> Iterator[Row | Unreadable]:
        # What is not UTF-8 becomes characters that no field takes: that row is refused, the next one is not.
        text = data.decode("utf-8", "surrogateescape")
        if '"' in text or "\r" in text.replace("\r\n", ""):
            for cells in csv.reader(io.StringIO(text, newline="")):
                yield from self._row(cells)
            return
        # The usual file quotes nothing, and splitting it takes a third of the time.
        for line in text.replace("\r\n", "\n").split("\n"):
            joined = self._joined
            if joined is None or line.count(",") != self._commas:
                yield from self._row(line.split(",") if line else [])
                continue
            pieces = line.split(",", self._before)
            pieces[self._before :] = pieces[self._before].rsplit(",", self._behind)
            yield Row(joined, pieces, None)

    def _row(self, cells: list[str]) -> Iterator[Row | Unreadable]:
        if not cells:
            return
        if self._layout is None:
            self._layout = _header(cells)
            run = self._layout.longest_run()
            if len(run) > 1:
                self._joined = replace(self._layout, run=Run(run.start, run.stop, _at_commas))
                self._commas, self._before, self._behind = len(cells) - 1, run.start, len(cells) - run.stop
        elif len(cells) != len(self._layout.names):
            yield InvalidBatch(f"The row has {len(cells)} cells, the first line names {len(self._layout.names)}.")
        else:
            yield Row(self._layout, cells, None)


_at_commas: Final[Callable[[str], list[str]]] = methodcaller("split", ",")


def _header(cells: list[str]) -> Layout:
    names = [name.strip() for name in (cells[0].removeprefix("\ufeff"), *cells[1:])]
    layout = layout_of(names, is_file=True)
    if layout.repeated:
        raise InvalidBatch(f"Columns named more than once: {', '.join(sorted(layout.repeated))}.")
    if layout.missing:
        raise InvalidBatch(f"The first line must name the columns; missing: {', '.join(layout.missing)}.")
    return layout


def _too_long(max_row_bytes: int) -> InvalidBatch:
    return InvalidBatch(
        f"One encounter is at most {max_row_bytes} bytes: look for a quote or brace that is not closed."
    )
