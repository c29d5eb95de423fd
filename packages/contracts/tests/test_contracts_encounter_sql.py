"""The constraints of the database, made from the schema: what they take and what they refuse, tried in SQLite.

That PostgreSQL's live tables are made of the same text is a test of the ingestor.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing
from typing import Any

import pytest

from readmit_contracts.encounter import (
    BY_KEY,
    COLUMNS,
    DRUG_KEYS,
    NOT_READMITTABLE,
    Kind,
    example_encounter,
    normalise_name,
)
from readmit_contracts.encounter_sql import Layer, check, column_definition, column_type, conditions, is_not_null

ROW: dict[str, Any] = {normalise_name(name): value for name, value in example_encounter().items()} | {
    "readmitted": "<30", "readmitted_30d": True,
}  # fmt: skip


@pytest.fixture(params=[Layer.CLEAN, Layer.MODELLED], ids=str)
def table(request: pytest.FixtureRequest) -> Iterator[sqlite3.Connection]:
    columns = ", ".join(column_definition(column, request.param) for column in COLUMNS)
    with closing(sqlite3.connect(":memory:")) as connection:
        connection.execute(
            f"CREATE TABLE encounters ({columns}, readmitted_30d boolean NOT NULL, CHECK ({check(request.param)}))"
        )
        yield connection


def insert(table: sqlite3.Connection, **changed: Any) -> None:
    row = ROW | changed
    table.execute(f"INSERT INTO encounters ({', '.join(row)}) VALUES ({', '.join(f':{key}' for key in row)})", row)  # noqa: S608  names are of the schema


def test_every_value_that_the_schema_allows_is_taken(table: sqlite3.Connection) -> None:
    for column in COLUMNS:
        if column.kind in {Kind.COUNT, Kind.IDENTIFIER}:
            for number in (column.low, column.usual_high or column.high):
                insert(table, **{column.key: number})
        for code in (
            set(column.labels) - NOT_READMITTABLE if column.key == "discharge_disposition_id" else column.labels
        ):
            insert(table, **{column.key: code})
        for value in column.allowed:
            agreeing = {"readmitted_30d": value == "<30"} if column.key == "readmitted" else {}
            insert(table, **{column.key: value}, **agreeing)
        if column.may_be_missing:
            insert(table, **{column.key: None})


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("encounter_id", 0), ("patient_nbr", -1), ("patient_nbr", None), ("race", "Martian"), ("age", "[100-110)"),
        ("weight", "200"), ("admission_type_id", 0), ("admission_type_id", 9), ("admission_type_id", None),
        ("discharge_disposition_id", 31), ("admission_source_id", 16), ("admission_source_id", 27),
        ("time_in_hospital", 0), ("time_in_hospital", 15), ("num_medications", 82), ("number_diagnoses", -1),
        ("max_glu_serum", ">100"), ("a1cresult", "norm"), ("change", "Yes"), ("diabetesmed", "Ch"),
        ("readmitted", "no"), ("readmitted", "NO"), ("readmitted", ">30"), ("readmitted_30d", False),
        ("readmitted_30d", None),
    ],
)  # fmt: skip
def test_a_value_that_cannot_be_is_refused(table: sqlite3.Connection, key: str, value: Any) -> None:
    insert(table)
    with pytest.raises(sqlite3.IntegrityError):
        insert(table, **{key: value})


def test_a_row_of_feedback_knows_only_whether_it_was_within_30_days(table: sqlite3.Connection) -> None:
    insert(table, readmitted=None, readmitted_30d=True)
    insert(table, readmitted=None, readmitted_30d=False)


@pytest.mark.parametrize("disposition", sorted(NOT_READMITTABLE))
def test_who_cannot_come_back_is_in_no_split(disposition: int) -> None:
    assert conditions(Layer.MODELLED)[:-1] == conditions(Layer.CLEAN)
    with closing(sqlite3.connect(":memory:")) as connection:
        [(modelled, clean)] = connection.execute(
            f"SELECT {conditions(Layer.MODELLED)[-1]}, discharge_disposition_id BETWEEN 1 AND 30"  # noqa: S608  as above
            f" FROM (SELECT {disposition} AS discharge_disposition_id)"
        )
    assert (modelled, clean) == (0, 1)


def test_raw_rows_are_text_without_a_condition() -> None:
    assert {column_type(column, Layer.RAW) for column in COLUMNS} == {"text"}
    assert not any(is_not_null(column, Layer.RAW) for column in COLUMNS)
    assert check(Layer.RAW) == ""


def test_definitions_are_plain_lines() -> None:
    definitions = [column_definition(BY_KEY[key], Layer.CLEAN) for key in ("patient_nbr", "age", "num_medications")]
    assert definitions == ["patient_nbr bigint NOT NULL", "age text", "num_medications integer NOT NULL"]


def test_the_drugs_are_left_to_the_reader() -> None:
    named = {condition.split()[0] for condition in conditions(Layer.CLEAN)}
    constrained = {c.key for c in COLUMNS if c.kind not in {Kind.OPEN, Kind.DIAGNOSIS}} - set(DRUG_KEYS)
    assert named == constrained | {"readmitted_30d"}
