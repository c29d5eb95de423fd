"""The column form against the single-row form: the same bits and words."""

from __future__ import annotations

import csv
import os
import zipfile
from collections.abc import Sequence
from dataclasses import replace
from operator import methodcaller
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from readmit_contracts.encounter import COLUMNS, NOT_READMITTABLE, POSITIVE_OUTCOME, Column, Group, Kind
from readmit_contracts.history import HISTORY, HISTORY_COLUMNS
from readmit_features.cleaning import clean_encounter, clean_rows
from readmit_features.columns import ColumnEncoder, Encoded
from readmit_features.frame import fit_spec
from readmit_features.history import with_history
from readmit_features.layout import Layout, Run, layout_of
from readmit_features.row import RowEncoder
from readmit_features.spec import FeatureSpec
from readmit_features.synthetic import sample_columns

KEYS = [column.key for column in COLUMNS]
INPUTS = [column for column in COLUMNS if column.group is not Group.OUTCOME]
NAMES = [column.name for column in INPUTS]


def _spec_of(rows: Sequence[Sequence[Any]], min_count: int) -> FeatureSpec:
    frame = pd.DataFrame(rows, columns=KEYS, dtype=object)
    frame = frame[~frame["discharge_disposition_id"].isin(NOT_READMITTABLE)].reset_index(drop=True)
    frame["readmitted_30d"] = frame["readmitted"] == POSITIVE_OUTCOME
    return fit_spec(with_history(frame), frame["readmitted_30d"].to_numpy(dtype=np.bool_), min_count)


@pytest.fixture(scope="module")
def spec() -> FeatureSpec:
    cells = sample_columns(2_000)
    return _spec_of(clean_rows(list(zip(*cells.values(), strict=True))).rows, min_count=20)


def _agree(
    encoder: RowEncoder, columns: ColumnEncoder, names: Sequence[str], rows: Sequence[Any], *, file: bool
) -> int:
    """Holds the column form against the row form; says how many rows were set apart."""
    layout = layout_of(names, is_file=file)
    encoded = columns.encode(layout, rows)
    if file:
        _agree_in_one_piece(columns, layout, rows, encoded)
    apart = set(encoded.apart)
    for at, row in enumerate(rows):
        encounter = layout.encounter(row)
        if not file:
            encounter |= {name: cell for name, cell in zip(names, row, strict=True) if name in layout.unknown}
        cleaned = clean_encounter(encounter)
        values = cleaned.values | cleaned.history
        if at in apart:
            assert cleaned.errors or layout.repeated or layout.unknown or not all(_is_plain(cell) for cell in row)
        else:
            assert not cleaned.errors
            assert encoded.warnings.get(at, []) == [*cleaned.warnings, *encoder.unseen(values)]
            assert encoded.matrix[at].tobytes() == encoder.encode(values).tobytes()
            assert encoded.with_history[at] == bool(cleaned.history)
    return len(apart)


def _agree_in_one_piece(columns: ColumnEncoder, layout: Layout, rows: Sequence[Any], encoded: Encoded) -> None:
    """Nothing changes with a run of cells in one piece."""
    run = layout.longest_run()
    joined = replace(layout, run=Run(run.start, run.stop, _SPLIT))
    pieces = [[*row[: run.start], _MARK.join(row[run.start : run.stop]), *row[run.stop :]] for row in rows]
    again = columns.encode(joined, pieces)
    assert [joined.encounter(row) for row in pieces] == [layout.encounter(row) for row in rows]
    assert again.matrix.tobytes() == encoded.matrix.tobytes()
    assert again.with_history.tolist() == encoded.with_history.tolist()
    assert (again.warnings, again.apart) == (encoded.warnings, encoded.apart)


_MARK = "\x1f"
_SPLIT = methodcaller("split", _MARK)


def _is_plain(cell: object) -> bool:
    """What is read by column; the rest may be set apart, whatever it means."""
    return cell is None or (isinstance(cell, str) and len(cell) <= 64) or (type(cell) is int and abs(cell) < 2**63)


def _cell(column: Column) -> st.SearchStrategy[Any]:
    """Mostly what is allowed, as a client or a file may write it, and now and then anything."""
    match column.kind:
        case Kind.COUNT | Kind.IDENTIFIER:
            usual = st.integers(column.low or 0, min(column.high or 9, 9)) if column.low != 9 else st.just(9)
            allowed: st.SearchStrategy[Any] = usual | usual.map(str)
        case Kind.CODE:
            allowed = st.sampled_from(list(column.labels))
        case Kind.DIAGNOSIS:
            allowed = st.sampled_from(["250.83", "428", "414", "V27", "E849", " 38 ", "786.5"])
        case _:
            allowed = st.sampled_from(column.allowed)
    anything = (
        st.sampled_from(
            [None, "", "?", "nan", True, False, 1.0, 0, -1, 10**30, [], {}, "x" * 65, "1_0", "\u0663", "None"]
        )
        | st.integers()
        | st.text(max_size=5)
    )
    return st.integers(0, 60).flatmap(lambda n: anything if n == 0 else allowed)


_ROW = st.tuples(*(_cell(column) for column in (*INPUTS, *HISTORY_COLUMNS)))
_ALL_NAMES = [*NAMES, *(f"{HISTORY}.{column.name}" for column in HISTORY_COLUMNS)]


@settings(max_examples=150, deadline=None)
@given(rows=st.lists(_ROW, min_size=1, max_size=4), left_out=st.sets(st.integers(0, len(_ALL_NAMES) - 1), max_size=4))
def test_objects_are_read_by_column_as_one_by_one(spec: FeatureSpec, rows: list[Any], left_out: set[int]) -> None:
    encoder = RowEncoder(spec)
    kept = [at for at in range(len(_ALL_NAMES)) if at not in left_out]
    table = [[row[at] for at in kept] for row in rows]
    _agree(encoder, ColumnEncoder(encoder), [_ALL_NAMES[at] for at in kept], table, file=False)


@settings(max_examples=150, deadline=None)
@given(rows=st.lists(_ROW, min_size=1, max_size=4), without=st.booleans())
def test_files_are_read_by_column_as_one_by_one(spec: FeatureSpec, rows: list[Any], without: bool) -> None:
    encoder = RowEncoder(spec)
    width = len(NAMES) if without else len(_ALL_NAMES)
    table = [["" if cell is None else str(cell) for cell in row[:width]] for row in rows]
    _agree(encoder, ColumnEncoder(encoder), _ALL_NAMES[:width], table, file=True)


def test_a_file_tells_of_no_history_by_empty_cells_and_an_object_by_leaving_it_out(spec: FeatureSpec) -> None:
    encoder = RowEncoder(spec)
    row = [str(column.example) for column in INPUTS]
    given, unknown = ["1", "No", "0", "4", "0", "1", "428"], ["", "?", "", "", "", "", ""]
    layout = layout_of(_ALL_NAMES, is_file=True)
    encoded = ColumnEncoder(encoder).encode(layout, [[*row, *given], [*row, *unknown]])
    assert encoded.with_history.tolist() == [True, False]
    assert HISTORY not in layout.encounter([*row, *unknown])


def test_a_name_given_twice_and_a_missing_column_set_all_rows_apart(spec: FeatureSpec) -> None:
    encoder = RowEncoder(spec)
    row = [str(column.example) for column in INPUTS]
    twice = layout_of([*NAMES, "Time-In-Hospital"], is_file=True)
    assert twice.repeated == {"time_in_hospital"}
    assert ColumnEncoder(encoder).encode(twice, [[*row, "3"]]).apart == [0]
    required = next(at for at, column in enumerate(INPUTS) if column.required)
    short = layout_of([*NAMES[:required], *NAMES[required + 1 :]], is_file=True)
    assert ColumnEncoder(encoder).encode(short, [[*row[:required], *row[required + 1 :]]]).apart == [0]


def test_a_columns_memory_starts_afresh_before_it_grows_without_end(spec: FeatureSpec) -> None:
    encoder = RowEncoder(spec)
    columns = ColumnEncoder(encoder)
    row = [str(column.example) for column in INPUTS]
    at = KEYS.index("medical_specialty")
    for block in range(12):
        rows = [[*row[:at], f"Specialty {block}-{number}", *row[at + 1 :]] for number in range(1_000)]
        assert len(columns.encode(layout_of(NAMES, is_file=True), rows).warnings) == 1_000
        assert _agree(encoder, columns, NAMES, [row], file=True) == 0
        assert columns.remembered < 5_200


def test_cells_whose_types_are_known_are_read_as_those_that_are_looked_at(spec: FeatureSpec) -> None:
    encoder = RowEncoder(spec)
    row = [column.example for column in INPUTS]
    told = [[1, flag, 1, 4, 0, 1, "428"] for flag in (True, False, None, "Yes", "no", "1")] + [[0, *[None] * 6]]
    rows = [[*row, *history] for history in told]
    seen, known = (
        ColumnEncoder(encoder).encode(layout_of(_ALL_NAMES, is_file=False, is_plain=plain), rows)
        for plain in (False, True)
    )
    assert known.apart == seen.apart == [5]
    assert known.matrix.tobytes() == seen.matrix.tobytes()
    assert (known.with_history.tolist(), known.warnings) == (seen.with_history.tolist(), seen.warnings)
    assert known.matrix[0].tobytes() == known.matrix[3].tobytes() != known.matrix[1].tobytes()


def test_a_run_is_the_longest_stretch_of_columns_of_few_values() -> None:
    layout = layout_of([*NAMES[:30], "shoe_size", *NAMES[30:]], is_file=True)
    run = layout.longest_run()
    assert [layout.names[at] for at in (run.start, run.stop - 1)] == [NAMES[30], "diabetesMed"]
    assert len(layout_of(["patient_nbr", "history.is_readmission"], is_file=True).longest_run()) == 0


def test_pieces_of_a_run_are_forgotten_before_they_grow_without_end(spec: FeatureSpec) -> None:
    encoder = RowEncoder(spec)
    columns = ColumnEncoder(encoder)
    row = [str(column.example) for column in INPUTS]
    plain = layout_of(NAMES, is_file=True)
    run = plain.longest_run()
    layout = replace(plain, run=Run(run.start, run.stop, _SPLIT))
    values = ["No", "Steady", "Up", "Down"]
    drugs = NAMES.index("metformin")
    for block in range(12):
        rows = []
        for number in range(block * 1_000, block * 1_000 + 1_000):
            cells = [*row[:drugs], *(values[number >> 2 * digit & 3] for digit in range(7)), *row[drugs + 7 :]]
            rows.append([*cells[: run.start], _MARK.join(cells[run.start : run.stop]), *cells[run.stop :]])
        assert columns.encode(layout, rows).apart == []
        assert 0 < columns.remembered_pieces < 5_200
        assert columns.remembered < 10
    long = [*row[: run.start], _MARK.join(["No"] * (run.stop - run.start - 1) + ["x" * 1_024]), *row[run.stop :]]
    before = columns.remembered_pieces
    assert columns.encode(layout, [long]).apart == [0]
    assert columns.remembered_pieces == before


@pytest.mark.skipif("READMIT_REAL_DATA" not in os.environ, reason="READMIT_REAL_DATA does not name the UCI zip")
def test_the_real_data_is_read_by_column_as_one_by_one() -> None:
    with zipfile.ZipFile(os.environ["READMIT_REAL_DATA"]) as archive:
        cells = list(csv.reader(archive.read("diabetic_data.csv").decode().splitlines()))[1:]
    rows = clean_rows(cells).rows
    encoder = RowEncoder(_spec_of(rows, min_count=200))
    columns = ColumnEncoder(encoder)
    frame = with_history(_outcomes(rows))
    history = frame[[column.key for column in HISTORY_COLUMNS]].astype(object).to_numpy().tolist()
    told = [["" if pd.isna(value) else str(value) for value in row] for row in history]
    kept = [KEYS.index(column.key) for column in INPUTS]
    apart = 0
    for start in range(0, len(cells), 4_000):  # a quarter: the row form takes its time
        block = [[*(row[at] for at in kept), *known] for row, known in
                 zip(cells[start : start + 1_000], told[start : start + 1_000], strict=True)]  # fmt: skip
        apart += _agree(encoder, columns, _ALL_NAMES, block, file=True)
        apart += _agree(encoder, columns, NAMES, [row[: len(NAMES)] for row in block], file=True)
    nameless = [at for at, row in enumerate(rows) if row[KEYS.index("diag_1")] is None and at % 4_000 < 1_000]
    assert apart == 2 * len(nameless) > 0


def _outcomes(rows: Sequence[Sequence[Any]]) -> pd.DataFrame:
    frame = pd.DataFrame(rows, columns=KEYS, dtype=object)
    return frame.assign(readmitted_30d=frame["readmitted"] == POSITIVE_OUTCOME)
