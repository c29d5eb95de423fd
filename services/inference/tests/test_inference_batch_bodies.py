"""Bodies of batches are read the same however they are cut, and whatever came before."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator, Sequence
from typing import Any

import orjson
from hypothesis import example, given, settings
from hypothesis import strategies as st

from readmit_contracts.history import HISTORY, example_history
from readmit_features.layout import ABSENT
from readmit_inference.batch.bodies import Body, CsvBody, JsonBody, NdjsonBody, Row
from readmit_inference.errors import InvalidBatch, InvalidJson, NotAnObject

from .batch_forms import NAMES, USUAL, as_csv, as_ndjson


def _cut(data: bytes, places: Sequence[int]) -> Iterator[bytes]:
    marks = sorted({place % (len(data) + 1) for place in places})
    yield from (data[start:end] for start, end in zip([0, *marks], [*marks, len(data)], strict=True))


def _read(body: Body, pieces: Iterator[bytes]) -> list[Any]:
    read: list[Any] = []
    for piece in pieces:
        read.extend(body.feed(piece))
    read.extend(body.end())
    return [row.as_encounter() if isinstance(row, Row) else row.code for row in read]


_TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=6)
_VALUE = st.none() | st.integers(-9, 9) | st.booleans() | _TEXT | st.lists(_TEXT, max_size=2)
_OBJECT = st.dictionaries(_TEXT, _VALUE | st.dictionaries(_TEXT, _VALUE, max_size=2), max_size=4)
_PLACES = st.lists(st.integers(0, 10_000), max_size=8)


@settings(max_examples=200, deadline=None)
@given(rows=st.lists(_OBJECT, max_size=5), places=_PLACES, indent=st.sampled_from([None, 1]))
@example(rows=[{"a": '}{"\\', "b": {"c": "}"}}], places=[3, 5, 9], indent=None)
def test_json_is_read_the_same_however_it_is_cut(rows: list[Any], places: list[int], indent: int | None) -> None:
    array = json.dumps(rows, indent=indent, ensure_ascii=False).encode()
    assert _read(JsonBody(65_536), _cut(array, places)) == rows
    assert _read(NdjsonBody(65_536), _cut(as_ndjson(rows), places)) == rows


_KNOWN_NAMES = st.sampled_from([*NAMES[:3], "insulin", "INSULIN", "shoe_size", "history.previous_encounters"])
_KNOWN = st.dictionaries(_KNOWN_NAMES, _VALUE, max_size=4)
_KNOWN_HISTORY = st.dictionaries(st.sampled_from(sorted(example_history())), _VALUE, max_size=3)


@settings(max_examples=300, deadline=None)
@given(rows=st.lists(_KNOWN | st.builds(lambda own, below: own | {HISTORY: below}, _KNOWN, _KNOWN_HISTORY), max_size=5))
def test_known_names_change_nothing_in_what_is_read(rows: list[dict[str, Any]]) -> None:
    body = NdjsonBody(65_536)
    usual, *read = list(body.feed(as_ndjson([USUAL, *rows, USUAL, USUAL])))
    assert isinstance(usual, Row)
    for row, sent in zip(read, [*rows, USUAL, USUAL], strict=True):
        assert isinstance(row, Row)
        assert row.as_encounter() == sent
        if not row.layout.names:  # read alone, as what it is
            assert not sent or "history.previous_encounters" in sent or sent.get(HISTORY) == {}
            continue
        assert "history.previous_encounters" not in sent
        flat = {name: value for name, value in sent.items() if name != HISTORY}
        flat |= {f"{HISTORY}.{name}": value for name, value in sent.get(HISTORY, {}).items()}
        cells = dict(zip(row.layout.names, row.layout.cells_of(row.cells), strict=True))
        assert row.layout.is_plain <= (row.layout.unknown == [])
        # As text, since to Python true is 1.
        assert {name: repr(cells[name]) for name in flat} == {name: repr(value) for name, value in flat.items()}
    assert not usual.layout.is_plain
    assert read[-1].layout.is_plain


@settings(max_examples=200, deadline=None)
@given(data=st.binary(max_size=60) | st.text('[]{},":1a \n\\', max_size=40).map(str.encode), places=_PLACES)
def test_no_bytes_break_a_reader(data: bytes, places: list[int]) -> None:
    for body in (JsonBody(65_536), NdjsonBody(65_536), CsvBody(65_536)):
        try:
            read = _read(body, _cut(data, places))
        except InvalidBatch:
            continue
        assert all(
            isinstance(row, dict) or row in {InvalidJson.code, NotAnObject.code, InvalidBatch.code} for row in read
        )


@settings(max_examples=100, deadline=None)
@given(
    cells=st.lists(st.lists(_TEXT, min_size=len(NAMES), max_size=len(NAMES)), min_size=1, max_size=3), places=_PLACES
)
def test_a_file_is_read_the_same_however_it_is_cut(cells: list[list[str]], places: list[int]) -> None:
    rows = [dict(zip(NAMES, row, strict=True)) for row in cells]
    assert _read(CsvBody(65_536), _cut(as_csv(rows), places)) == rows


_LINE = st.builds(
    lambda at, cell, count: [*(_EXAMPLE[:at]), cell, *(_EXAMPLE[at + 1 :]), "x"][:count],
    st.integers(0, len(NAMES) - 1),
    st.text("a\r é\u2028,", max_size=3),
    st.integers(len(NAMES) - 1, len(NAMES) + 1) | st.just(len(NAMES)) | st.integers(0, 2),
)
_EXAMPLE = [str(USUAL[name]) for name in NAMES]


@settings(max_examples=200, deadline=None)
@given(lines=st.lists(_LINE, max_size=4), ends=st.sampled_from(["\n", "\r\n"]), is_ended=st.booleans())
def test_lines_without_quotes_are_split_as_the_csv_module_would(
    lines: list[list[str]], ends: str, is_ended: bool
) -> None:
    text = ends.join(map(",".join, [NAMES, *lines])) + ends * is_ended
    expected = [cells for cells in csv.reader(io.StringIO(text, newline="")) if cells][1:]
    assert _read(CsvBody(65_536), iter([text.encode()])) == [
        dict(zip(NAMES, cells, strict=True)) if len(cells) == len(NAMES) else InvalidBatch.code for cells in expected
    ]


def test_the_drugs_of_a_file_come_in_one_piece_unless_a_cell_is_in_quotes() -> None:
    plain, quoted = ",".join(_EXAMPLE), ",".join(['"' + _EXAMPLE[0] + '"', *_EXAMPLE[1:]])
    body = CsvBody(65_536)
    rows = [*body.feed(f"{','.join(NAMES)}\n{plain}\n".encode()), *body.feed(f"{quoted}\n".encode())]
    assert [isinstance(row, Row) and row.layout.run is not None for row in rows] == [True, False]
    assert [row.as_encounter() for row in rows if isinstance(row, Row)] == [dict(zip(NAMES, _EXAMPLE, strict=True))] * 2


_PLAIN_LINE = json.dumps({name: USUAL[name] for name in NAMES}).encode()


_ANYWHERE = st.integers(0, len(_PLAIN_LINE))
_PUT = st.text('{}[]",:\\ aA0_', max_size=2).map(str.encode) | st.sampled_from(
    [b'"insulin":', b'"diabetesMed":', b'"max_glu_serum": "None", ', b'"max_glu_serum":', b'"change": null, ']
)


@settings(max_examples=500, deadline=None)
@given(changes=st.lists(st.tuples(_ANYWHERE, st.integers(0, 40), _PUT), max_size=3))
@example(changes=[(_PLAIN_LINE.index(b'"max_glu'), 0, b'"')])  # the piece is in a text, or the text is none
@example(changes=[(_PLAIN_LINE.index(b'"max_glu'), 0, b'"A": ')])
@example(changes=[(_PLAIN_LINE.index(b'"diabetes'), 0, b'"insulin": "Up", ')])
@example(changes=[(0, 0, b"x")])
def test_what_stands_around_a_piece_that_is_known_is_read_as_any_json(changes: list[tuple[int, int, bytes]]) -> None:
    changed = _PLAIN_LINE
    for start, length, put in changes:
        changed = changed[:start] + put + changed[start + length :]
    lines = [_PLAIN_LINE, _PLAIN_LINE, changed, _PLAIN_LINE]
    *_, known, row, behind = [*NdjsonBody(65_536).feed(b"\n".join(lines) + b"\n"), *([None] * (not changed.strip()))]
    for usual in (known, behind):
        assert usual is None or _cells_of(usual) == {name: repr(USUAL[name]) for name in NAMES}
    assert isinstance(known, Row)
    assert known.layout.run is not None
    sent = _parsed(changed)
    if isinstance(row, Row):
        assert isinstance(sent, dict)
        assert row.as_encounter() == sent
        if HISTORY not in sent and row.layout.names:
            assert _cells_of(row).items() >= {name: repr(value) for name, value in sent.items()}.items()
    elif row is not None:
        assert not isinstance(sent, dict)
    _agrees_with_the_array(lines)


def _agrees_with_the_array(lines: list[bytes]) -> None:
    """In an array, where objects end is found with the same types."""
    array = b"[" + b",".join(lines) + b"]"
    try:
        read = _read(JsonBody(65_536), iter([array]))
    except InvalidBatch:
        read = [InvalidBatch.code]
    parsed = _parsed(array)
    is_read = all(isinstance(row, dict) for row in read)
    assert is_read == (isinstance(parsed, list) and all(isinstance(row, dict) for row in parsed))
    assert not is_read or read == parsed


def _cells_of(row: Any) -> dict[str, str]:
    """As text, since to Python true is 1; what is missing left out."""
    cells = zip(row.layout.names, row.layout.cells_of(row.cells), strict=True)
    return {name: repr(cell) for name, cell in cells if cell is not ABSENT}


def _parsed(text: bytes) -> Any:
    try:
        return orjson.loads(text)
    except orjson.JSONDecodeError:
        return None
