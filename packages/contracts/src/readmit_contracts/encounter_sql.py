"""The encounter schema as PostgreSQL: types of columns, and one CHECK for the clean tables.

Deterministic text, so that a migration can hold it and a test can hold the live tables against it.

The CHECK says what a clean row may be: identifiers and ranges of numbers, the code tables, closed sets, and that the
two outcome columns agree. It leaves out the 23 drugs, whose values the one reader has checked: without them the CHECK
costs a bare COPY 18 % of its time, with them 38 %. One expression, because ten constraints cost more than one with ten
parts.
"""

from __future__ import annotations

from enum import StrEnum

from readmit_contracts.encounter import COLUMNS, DRUG_KEYS, NOT_READMITTABLE, POSITIVE_OUTCOME, Column, Group, Kind


class Layer(StrEnum):
    """What rows a table holds."""

    RAW = "raw"  #: cells as received: text, anything may be missing
    CLEAN = "clean"  #: rows set apart from modelling: cleaned, but perhaps of patients who cannot come back
    MODELLED = "modelled"  #: rows of a split: cleaned, and a readmission is possible


def column_type(column: Column, layer: Layer) -> str:
    """SQL type: `bigint`, `integer` or `text`, as `information_schema.columns.data_type` says it."""
    if layer is Layer.RAW or not column.is_number:
        return "text"
    return "bigint" if column.kind is Kind.IDENTIFIER else "integer"


def is_not_null(column: Column, layer: Layer) -> bool:
    """Whether the column is NOT NULL. The outcome is not: rows of feedback know `readmitted_30d` alone."""
    return layer is not Layer.RAW and not column.may_be_missing and column.group is not Group.OUTCOME


def column_definition(column: Column, layer: Layer) -> str:
    """The column as a line of CREATE TABLE."""
    return f"{column.key} {column_type(column, layer)}" + (" NOT NULL" if is_not_null(column, layer) else "")


def conditions(layer: Layer) -> tuple[str, ...]:
    """What must be true of each row, one condition per column or rule; none for raw rows. NULL satisfies each."""
    if layer is Layer.RAW:
        return ()
    stated = [_condition(column) for column in COLUMNS if column.key not in DRUG_KEYS]
    rules = [f"readmitted_30d = (readmitted = {_text(POSITIVE_OUTCOME)})"]
    if layer is Layer.MODELLED:
        rules.append(f"discharge_disposition_id NOT IN ({', '.join(map(str, sorted(NOT_READMITTABLE)))})")
    return (*(condition for condition in stated if condition is not None), *rules)


def check(layer: Layer) -> str:
    """The conditions as one expression, one condition a line."""
    return "\nAND ".join(conditions(layer))


def _condition(column: Column) -> str | None:
    match column.kind:
        case Kind.IDENTIFIER:
            return f"{column.key} >= {column.low}"
        case Kind.COUNT:
            # A cleaned count is capped, so it never exceeds the largest value in the study.
            return f"{column.key} BETWEEN {column.low} AND {column.usual_high}"
        case Kind.CODE:
            codes = sorted(column.labels)
            gaps = [code for code in range(codes[0], codes[-1]) if code not in column.labels]
            between = f"{column.key} BETWEEN {codes[0]} AND {codes[-1]}"
            return between + "".join(f" AND {column.key} <> {gap}" for gap in gaps)
        case Kind.CLOSED:
            return f"{column.key} IN ({', '.join(map(_text, column.allowed))})"
        case Kind.OPEN | Kind.DIAGNOSIS:
            return None


def _text(value: str) -> str:
    return "'" + value.replace("'", "''") + "'"
