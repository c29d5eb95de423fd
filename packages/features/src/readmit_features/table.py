"""Cleaning by column: the rules of `cleaning` applied to each distinct value, the rest at the speed of Arrow.

pyarrow (an extra): serving never imports this module.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from readmit_contracts.encounter import COLUMNS, Kind
from readmit_contracts.prediction import FieldError
from readmit_features.cleaning import READERS, ColumnReader, field_error, read_cell

Indices = NDArray[np.int64]

#: What a whole number looks like when nothing has to be said about it: no sign, no blank, an int64 in any case.
_PLAIN_NUMBER = "^[1-9][0-9]{0,17}$"


@dataclass(frozen=True, slots=True)
class CleanedTable:
    """Rows of a file, read by column.

    `table` holds the accepted rows (int64 and string columns by `Column.key`, missing is null), `kept` where they
    stood; `refused` the others with every reason, by where they stood; `changes` how many cells of accepted rows each
    rule has changed, by (key, rule).
    """

    table: pa.Table
    kept: Indices
    refused: dict[int, list[FieldError]]
    changes: Counter[tuple[str, str]]


@dataclass(frozen=True, slots=True)
class _Column:
    """One column, read: values with null where one was refused, and which rows each rule has changed."""

    values: pa.Array
    changed: list[tuple[str, Indices]]


def clean_table(cells: pa.Table) -> CleanedTable:
    """Read the cells of a file: all 50 columns as non-null strings, in schema order. Same answers as `clean_rows`."""
    refused: dict[int, list[FieldError]] = {}
    columns = [
        _read_column(reader, _array(cells.column(at)), refused) for at, reader in enumerate(READERS)
    ]  # fmt: skip
    accepted = np.ones(cells.num_rows, dtype=bool)
    accepted[list(refused)] = False
    changes: Counter[tuple[str, str]] = Counter()
    for column, read in zip(COLUMNS, columns, strict=True):
        for rule, rows in read.changed:
            if count := int(np.count_nonzero(accepted[rows])):
                changes[column.key, rule] += count
    table = pa.table([read.values for read in columns], names=[column.key for column in COLUMNS])
    kept = np.flatnonzero(accepted)
    return CleanedTable(table.take(pa.array(kept)) if refused else table, kept, refused, changes)


def _array(column: pa.ChunkedArray) -> pa.Array:
    return column.chunk(0) if column.num_chunks == 1 else pa.concat_arrays(column.chunks)


def _read_column(reader: ColumnReader, cells: pa.Array, refused: dict[int, list[FieldError]]) -> _Column:
    column = reader.column
    if column.kind is Kind.IDENTIFIER and pc.all(pc.match_substring_regex(cells, _PLAIN_NUMBER)).as_py():
        numbers = cells.cast(pa.int64())  # every value is another one: there is nothing to look up
        if pc.all(pc.less_equal(numbers, column.high)).as_py():
            return _Column(numbers, [])
    encoded = cells.dictionary_encode()
    distinct = encoded.dictionary.to_pylist()
    parsed = [read_cell(reader, cell) for cell in distinct]
    values = pa.array([one.value for one in parsed], pa.int64() if column.is_number else pa.string())
    index = encoded.indices.to_numpy()
    changed = []
    for code, one in enumerate(parsed):
        if one.problem is not None:
            for row in np.flatnonzero(index == code):
                refused.setdefault(int(row), []).append(
                    field_error(reader.key, column.name, distinct[code], one.problem)
                )
        elif one.change is not None:
            changed.append((one.change, np.flatnonzero(index == code)))
    return _Column(values.take(encoded.indices), changed)
