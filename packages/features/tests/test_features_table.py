"""Rows cleaned by column are rows cleaned one by one, on any cells."""

from __future__ import annotations

import csv
import os
import zipfile
from collections import Counter
from collections.abc import Sequence

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from readmit_contracts.encounter import COLUMNS, Column, Kind
from readmit_features.cleaning import READERS, clean_rows, read_cell
from readmit_features.synthetic import sample_columns
from readmit_features.table import CleanedTable, clean_table

KEYS = [column.key for column in COLUMNS]


def table(rows: Sequence[Sequence[str]]) -> pa.Table:
    return pa.table([pa.array(cells, pa.string()) for cells in zip(*rows, strict=True)], names=KEYS)


def as_rows(cleaned: CleanedTable) -> list[tuple[object, ...]]:
    return list(zip(*(column.to_pylist() for column in cleaned.table.columns), strict=True))


def agree(rows: Sequence[Sequence[str]]) -> None:
    by_column, one_by_one = clean_table(table(rows)), clean_rows(rows)
    assert as_rows(by_column) == one_by_one.rows
    assert by_column.kept.tolist() == one_by_one.line_index
    assert by_column.refused == one_by_one.refused
    changes = Counter(
        (reader.key, change)
        for index in one_by_one.line_index
        for reader, cell in zip(READERS, rows[index], strict=True)
        if (change := read_cell(reader, cell).change)
    )
    assert by_column.changes == changes


def _cell(column: Column) -> st.SearchStrategy[str]:
    odd = st.sampled_from(["", "?", " ", "None", "-1", "1.0", " 7 ", "0", "007", "1e3", "9" * 20, "x" * 70])
    if column.kind in {Kind.COUNT, Kind.IDENTIFIER, Kind.CODE}:
        return st.integers(-5, 500).map(str) | odd
    if column.kind is Kind.DIAGNOSIS:
        return st.sampled_from(["250.83", "v27", "E849", "38", "428", "4a"]) | odd
    return st.sampled_from(column.allowed) | st.sampled_from(column.allowed).map(str.lower) | odd


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(*(_cell(column) for column in COLUMNS)), min_size=1, max_size=5))
def test_any_cells_are_read_as_one_by_one(rows: list[tuple[str, ...]]) -> None:
    agree(rows)


def test_a_sample_with_some_bad_rows_is_read_as_one_by_one() -> None:
    rows = [list(cells) for cells in zip(*sample_columns(1_500).values(), strict=True)]
    for at, (key, cell) in {3: ("gender", "Robot"), 900: ("num_medications", "400"), 7: ("age", "fifty")}.items():
        rows[at][KEYS.index(key)] = cell
    agree(rows)


def test_an_empty_table_is_no_rows() -> None:
    cleaned = clean_table(pa.table([pa.array([], pa.string())] * len(KEYS), names=KEYS))
    assert (cleaned.table.num_rows, cleaned.refused, cleaned.changes) == (0, {}, Counter())


def test_what_was_changed_is_counted_by_rule_in_the_rows_that_are_kept() -> None:
    rows = [list(cells) for cells in zip(*sample_columns(4).values(), strict=True)]
    for row in rows:
        row[KEYS.index("age")], row[KEYS.index("diag_1")] = "[50-60)", "428"
    rows[0][KEYS.index("age")] = "50-60"
    rows[1][KEYS.index("diag_1")] = "38"
    rows[2][KEYS.index("num_medications")] = "120"
    rows[3][KEYS.index("age")], rows[3][KEYS.index("gender")] = "50-60", "Robot"
    changes = clean_table(table(rows)).changes
    assert changes["age", "spelling made canonical"] == 1
    assert changes["diag_1", "leading zeros restored"] == 1
    assert changes["num_medications", "capped at 81"] == 1


@pytest.mark.skipif("READMIT_REAL_DATA" not in os.environ, reason="READMIT_REAL_DATA does not name the UCI zip")
def test_every_row_of_the_real_data_is_read_as_one_by_one() -> None:
    with zipfile.ZipFile(os.environ["READMIT_REAL_DATA"]) as archive:
        lines = archive.read("diabetic_data.csv").decode().splitlines()
    rows = list(csv.reader(lines))[1:]
    by_column, one_by_one = clean_table(table(rows)), clean_rows(rows)
    assert by_column.refused == one_by_one.refused == {}
    assert as_rows(by_column) == one_by_one.rows
