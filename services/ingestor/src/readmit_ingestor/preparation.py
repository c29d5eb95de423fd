"""From a chunk of cells to what goes into the database: COPY data for the raw and the clean tables, and bad rows."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pa_csv

from readmit_contracts.code_tables import WHY_NOT_READMITTABLE
from readmit_contracts.encounter import POSITIVE_OUTCOME
from readmit_contracts.prediction import FieldError
from readmit_features.split import splits_of
from readmit_features.synthetic import FIRST_SYNTHETIC_ID
from readmit_features.table import clean_table
from readmit_ingestor.reading import KEYS, Chunk

#: Between the parts of a prepared row; no cell holds one, since it cannot be printed.
SEPARATOR = "\x1f"

#: A row as received: cells by column, or, with another number of cells than the header, in their order.
Received = dict[str, str] | list[str]

_DISPOSITIONS = pa.array(list(WHY_NOT_READMITTABLE), pa.int64())
_REASONS = pa.array([meaning.value for meaning in WHY_NOT_READMITTABLE.values()], pa.string())


@dataclass(frozen=True, slots=True)
class BadRow:
    """A row that does not fit the encounter schema. `line` counts through the whole source, `part_line` in its part."""

    line: int
    part: str
    part_line: int
    row: Received
    reasons: list[FieldError]


@dataclass(frozen=True, slots=True)
class Prepared:
    """One chunk of version `version`, ready for COPY.

    `raw` is CSV. A line of `clean` is the row's line number, encounter, split and reason to be set apart, and the row
    itself as CSV, with `SEPARATOR` between them.
    """

    version: int
    rows: int
    raw: pa.Buffer
    clean: pa.Buffer | bytes
    quarantined: list[BadRow]
    changes: Mapping[str, int]
    synthetic: bool


def prepare(version: int, chunk: Chunk) -> Prepared:
    """Clean a chunk, put each row into its split, and note why it is set apart."""
    cleaned = clean_table(chunk.cells)
    lines = chunk.lines + chunk.first_line
    encounters, patients, dispositions, outcomes = (
        cleaned.table.column(key).combine_chunks()
        for key in ("encounter_id", "patient_nbr", "discharge_disposition_id", "readmitted")
    )
    apart = pc.index_in(dispositions, _DISPOSITIONS)
    numbers = encounters.cast(pa.string())
    splits = pa.array(splits_of(patients.to_pylist()), pa.string())
    reasons = _REASONS.take(apart).fill_null("")
    head = (pa.array(lines[cleaned.kept]).cast(pa.string()), numbers, splits, reasons, numbers)
    clean = [
        pc.binary_join_element_wise(*head, SEPARATOR),
        *cleaned.table.columns[1:],
        pc.if_else(pc.equal(outcomes, POSITIVE_OUTCOME), "t", "f"),
    ]
    raw = [pa.array(np.full(len(lines), version)), pa.array(lines), *chunk.cells.columns]
    return Prepared(
        version, chunk.rows, _as_csv(raw), _as_postgres_csv(clean), list(_bad_rows(chunk, cleaned.refused)),
        {f"{key}: {rule}": count for (key, rule), count in cleaned.changes.items()},
        # A sample that was written to a file and comes back as one is still a sample.
        bool(pc.any(pc.greater_equal(encounters, FIRST_SYNTHETIC_ID)).as_py()),
    )  # fmt: skip


def _as_csv(columns: list[pa.Array]) -> pa.Buffer:
    """Null is nothing at all between the commas; an empty text in quotes is an empty text."""
    sink = pa.BufferOutputStream()
    table = pa.table(columns, names=[str(at) for at in range(len(columns))])
    try:
        pa_csv.write_csv(table, sink, pa_csv.WriteOptions(include_header=False, quoting_style="none"))
    except pa.ArrowInvalid:  # a cell that holds a comma, a quote or a line break
        sink = pa.BufferOutputStream()
        pa_csv.write_csv(table, sink, pa_csv.WriteOptions(include_header=False, quoting_style="needed"))
    return sink.getvalue()


def _as_postgres_csv(columns: list[pa.Array]) -> pa.Buffer | bytes:
    """As PostgreSQL prints CSV, byte for byte: quotes only where they are needed."""
    table = pa.table(columns, names=[str(at) for at in range(len(columns))])
    sink = pa.BufferOutputStream()
    try:
        pa_csv.write_csv(table, sink, pa_csv.WriteOptions(include_header=False, quoting_style="none"))
    except pa.ArrowInvalid:  # a cell that holds a comma or a quote
        text = io.StringIO()
        csv.writer(text, lineterminator="\n").writerows(zip(*(column.to_pylist() for column in columns), strict=True))
        return text.getvalue().encode()
    return sink.getvalue()


def _bad_rows(chunk: Chunk, refused: Mapping[int, list[FieldError]]) -> Iterator[BadRow]:
    """In the order of their lines."""
    bad: list[tuple[int, Received, list[FieldError]]] = [
        (line, row, [_misshapen(row)]) for line, row in chunk.misshapen
    ]
    for at, reasons in refused.items():
        [cells] = chunk.cells.slice(at, 1).to_pylist()
        bad.append((int(chunk.lines[at]), cells, reasons))
    for line, row, reasons in sorted(bad, key=lambda each: each[0]):
        yield BadRow(line + chunk.first_line, chunk.part, line, row, reasons)


def _misshapen(row: list[str]) -> FieldError:
    return FieldError(
        field="*", value=len(row), problem="has another number of cells than the header",
        allowed=f"{len(KEYS)} cells or as many as the header",
    )  # fmt: skip
