"""Any CSV is read to the same cells and lines, wherever its blocks end and whichever parser reads them."""

from __future__ import annotations

import csv
import hashlib
import io
from collections.abc import Sequence

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from readmit_contracts.encounter import COLUMNS
from readmit_ingestor.errors import SourceFault
from readmit_ingestor.reading import KEYS, Reader
from readmit_ingestor.sources import Part

NAMES = [column.name for column in COLUMNS]
Rows = list[tuple[int, list[str]]]


def csv_bytes(rows: Sequence[Sequence[str]], names: Sequence[str] = NAMES, end: str = "\n") -> bytes:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator=end)
    writer.writerow(names)
    writer.writerows(rows)
    return text.getvalue().encode()


def read(*contents: bytes, form: str = "csv", block_bytes: int = 1 << 20) -> tuple[Rows, Rows, Reader]:
    """Rows and misshapen rows with their lines in the whole source."""
    parts = [Part(f"{at}.csv", io.BytesIO(content), form, len(content)) for at, content in enumerate(contents)]  # type: ignore[arg-type]
    reader = Reader(iter(parts), "source", block_bytes)
    rows: Rows = []
    misshapen: Rows = []
    for chunk in reader.chunks():
        cells = zip(*(column.to_pylist() for column in chunk.cells.columns), strict=True)
        rows += [(int(line) + chunk.first_line, list(row)) for line, row in zip(chunk.lines, cells, strict=True)]
        misshapen += [(line + chunk.first_line, row) for line, row in chunk.misshapen]
    return rows, misshapen, reader


def row(first: str) -> list[str]:
    return [first, *["x"] * (len(KEYS) - 1)]


_CELLS = st.lists(
    st.text(st.characters(exclude_characters="\r\0", exclude_categories=("Cs",)), max_size=6)
    | st.sampled_from(["?", "", 'say "no"', "a,b", "two\nlines", " "]),
    min_size=len(KEYS), max_size=len(KEYS),
)  # fmt: skip


@settings(max_examples=80, deadline=None)
@given(rows=st.lists(_CELLS, min_size=1, max_size=6), block=st.integers(1, 400), end=st.sampled_from(["\n", "\r\n"]))
def test_what_was_written_is_read_however_the_blocks_fall(rows: list[list[str]], block: int, end: str) -> None:
    content = csv_bytes(rows, end=end)
    found, misshapen, reader = read(content, block_bytes=block)
    assert [cells for _, cells in found] == rows
    assert misshapen == []
    assert reader.content_sha256 == hashlib.sha256(content.replace(b"\r\n", b"\n")).hexdigest()
    assert reader.bytes_read == len(content.replace(b"\r\n", b"\n"))


@pytest.mark.parametrize("quoted", [False, True])
def test_rows_of_another_width_and_empty_lines_keep_the_count_of_lines(quoted: bool) -> None:
    lines = [",".join(NAMES), ",".join(row("1")), "a,b", "", ",".join(row("2")), ",".join([*row("3"), "more"])]
    if quoted:
        lines.append(",".join(row('"4\n4"')))
    lines.append(",".join(row("5")))
    found, misshapen, _ = read("\n".join(lines).encode())
    expected = [(2, "1"), (5, "2"), *([(7, "4\n4"), (9, "5")] if quoted else [(7, "5")])]
    assert [(line, cells[0]) for line, cells in found] == expected
    assert [(line, len(cells)) for line, cells in misshapen] == [(3, 2), (6, len(KEYS) + 1)]


def test_rows_of_another_width_are_found_by_the_fast_parser_too() -> None:
    lines = [",".join(NAMES), "a,b", ",".join(row("1")), "c", ",".join(row("2")), "d,e,f"]
    found, misshapen, _ = read("\n".join(lines).encode())
    assert [(line, cells[0]) for line, cells in found] == [(3, "1"), (5, "2")]
    assert misshapen == [(2, ["a", "b"]), (4, ["c"]), (6, ["d", "e", "f"])]


def test_columns_may_stand_in_any_order_among_others() -> None:
    names = ["extra", *reversed(NAMES), "extra"]
    found, _, _ = read(csv_bytes([["e", *[str(at) for at in range(len(KEYS))], "f"]], names))
    assert found[0][1] == [str(at) for at in reversed(range(len(KEYS)))]


def test_parts_follow_each_other_with_lines_that_are_unique() -> None:
    first, second = csv_bytes([row("1"), row("2")]), csv_bytes([row("3")])
    found, _, reader = read(first, second)
    assert [cells[0] for _, cells in found] == ["1", "2", "3"]
    assert len({line for line, _ in found}) == 3
    digests = [hashlib.sha256(content).hexdigest() for content in (first, second)]
    assert [part.sha256 for part in reader.parts_read] == digests
    assert reader.content_sha256 == hashlib.sha256("\n".join(digests).encode()).hexdigest()
    line = next(line for line, cells in found if cells[0] == "3")
    assert line - reader.parts_read[1].first_line == 2


def test_parquet_gives_the_cells_that_a_csv_would() -> None:
    columns: dict[str, list[object]] = {name: ["x", None] for name in NAMES}
    columns |= {"encounter_id": [1, 2], "time_in_hospital": [3.0, None]}
    sink = io.BytesIO()
    pq.write_table(pa.table(columns), sink)
    found, _, reader = read(sink.getvalue(), form="parquet")
    at = KEYS.index("time_in_hospital")
    assert [(line, cells[0], cells[at], cells[2]) for line, cells in found] == [(2, "1", "3", "x"), (3, "2", "", "")]
    assert reader.content_sha256 == hashlib.sha256(sink.getvalue()).hexdigest()


def test_a_quote_that_is_never_closed_is_named_with_its_line() -> None:
    lines = [",".join(NAMES), ",".join(row("1")), ",".join(row('"2')), ",".join(row("3"))]
    with pytest.raises(SourceFault, match="line 3 or before"):
        read("\n".join(lines).encode())


def test_a_quote_in_the_wrong_place_is_named_with_its_line() -> None:
    lines = [",".join(NAMES), ",".join(row("1")), ",".join(row('"2"x'))]
    with pytest.raises(SourceFault, match="line 3 is not CSV"):
        read("\n".join(lines).encode())
