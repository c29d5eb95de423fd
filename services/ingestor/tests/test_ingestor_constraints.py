"""The clean tables are made as the encounter schema says: types, what may be NULL, and the CHECK."""

from __future__ import annotations

from typing import Any

import psycopg
import pytest

from readmit_contracts.encounter import COLUMNS
from readmit_contracts.encounter_sql import Layer, check, column_definition, column_type, is_not_null

pytestmark = pytest.mark.stack

TABLES = [
    ("raw_data", "diabetes", Layer.RAW),
    ("clean_data", "diabetes_train", Layer.MODELLED),
    ("clean_data", "diabetes_validation", Layer.MODELLED),
    ("clean_data", "diabetes_test", Layer.MODELLED),
    ("clean_data", "diabetes_excluded", Layer.CLEAN),
]


@pytest.mark.parametrize(("schema", "table", "layer"), TABLES)
def test_columns_have_the_types_of_the_schema(
    database: psycopg.Connection[Any], schema: str, table: str, layer: Layer
) -> None:
    live = database.execute(
        "SELECT column_name, data_type, is_nullable FROM information_schema.columns"
        " WHERE table_schema = %s AND table_name = %s ORDER BY ordinal_position", (schema, table),
    ).fetchall()  # fmt: skip
    declared = [(c.key, column_type(c, layer), "NO" if is_not_null(c, layer) else "YES") for c in COLUMNS]
    keys = {column.key for column in COLUMNS}
    assert [column for column in live if column[0] in keys] == declared


@pytest.mark.parametrize(("schema", "table", "layer"), [table for table in TABLES if table[2] is not Layer.RAW])
def test_the_check_is_the_one_of_the_schema(
    database: psycopg.Connection[Any], schema: str, table: str, layer: Layer
) -> None:
    columns = ", ".join(column_definition(column, layer) for column in COLUMNS)
    database.execute(
        f"CREATE TABLE declared ({columns}, readmitted_30d boolean,"
        f" CONSTRAINT encounter_schema CHECK ({check(layer)}))".encode()
    )
    query = "SELECT pg_get_constraintdef(oid) FROM pg_constraint WHERE conrelid = %s::regclass AND conname = %s"
    [(live,)] = database.execute(query, (f"{schema}.{table}", "encounter_schema")).fetchall()
    [(declared,)] = database.execute(query, ("declared", "encounter_schema")).fetchall()
    assert live == declared
