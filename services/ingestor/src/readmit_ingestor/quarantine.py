"""Rows that did not fit the encounter schema: look at them, correct them, drop them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, get_args

import psycopg
from psycopg import sql
from psycopg.types.json import Jsonb

from readmit_contracts.encounter import BY_KEY, normalise_name
from readmit_contracts.prediction import FieldError
from readmit_features.cleaning import clean_rows, field_error
from readmit_ingestor.metrics import QUARANTINE
from readmit_ingestor.reading import KEYS
from readmit_ingestor.store import Pool, Row

Status = Literal["open", "corrected", "dropped", "replayed"]

_SHOWN = sql.SQL(
    "id, dataset_version, part AS file, coalesce(part_line, line) AS line, row, reasons, status, corrected, note,"
    " replayed_in, changed_at"
)


class NoSuchRow(Exception):  # noqa: N818  named for what is the case
    """No quarantined row has this id."""


class AlreadyReplayed(Exception):  # noqa: N818
    """The row stands in another version already; it can no longer be changed."""


class StillBad(Exception):  # noqa: N818
    """Corrected like this, the row would still not fit the schema; `errors` says where."""

    def __init__(self, errors: list[FieldError]) -> None:
        super().__init__(f"{len(errors)} fields are refused")
        self.errors = errors


async def rows(
    pool: Pool, *, dataset_version: int | None, status: Status | None, field: str | None, after: int, limit: int
) -> list[Row]:
    """Quarantined rows that were refused for a field, or for any, in the order of their ids, after one of them."""
    wanted = (
        (sql.SQL("id > %s"), after),
        (sql.SQL("dataset_version = %s"), dataset_version),
        (sql.SQL("status = %s"), status),
        (sql.SQL("reasons @> %s"), None if field is None else Jsonb([{"field": _name(field)}])),
    )
    chosen = [(condition, value) for condition, value in wanted if value is not None]
    query = sql.SQL("SELECT {} FROM raw_data.quarantine WHERE {} ORDER BY id LIMIT %s").format(
        _SHOWN, sql.SQL(" AND ").join(condition for condition, _ in chosen)
    )
    async with pool.connection() as connection:
        return await (await connection.execute(query, [*(value for _, value in chosen), limit])).fetchall()


async def row(pool: Pool, row_id: int) -> Row:
    """One of them. Raises `NoSuchRow`."""
    async with pool.connection() as connection:
        query = sql.SQL("SELECT {} FROM raw_data.quarantine WHERE id = %s").format(_SHOWN)
        found = await (await connection.execute(query, (row_id,))).fetchone()
    if found is None:
        raise NoSuchRow
    return found


async def summary(pool: Pool) -> list[Row]:
    """How many rows of which version were refused for what, and what became of them."""
    async with pool.connection() as connection:
        cursor = await connection.execute(
            "SELECT dataset_version, status, reason ->> 'field' AS field, reason ->> 'problem' AS problem,"
            " count(DISTINCT id) AS rows FROM raw_data.quarantine, jsonb_array_elements(reasons) AS reason"
            " GROUP BY 1, 2, 3, 4 ORDER BY rows DESC, 1, 2, 3, 4 LIMIT 200"
        )
        return await cursor.fetchall()


async def waiting(pool: Pool, dataset_version: int | None) -> int | None:
    """The version to replay: the one asked for, or the newest one, if a row of it is corrected and not yet replayed."""
    async with pool.connection() as connection:
        cursor = await connection.execute(
            "SELECT max(dataset_version) AS version FROM raw_data.quarantine WHERE status = 'corrected'"
            " AND (%s::int IS NULL OR dataset_version = %s)",
            (dataset_version, dataset_version),
        )
        found = await cursor.fetchone()
    return found["version"] if found else None


async def show_counts(pool: Pool) -> None:
    """Bring the gauges of the quarantine up to date."""
    async with pool.connection() as connection:
        cursor = await connection.execute("SELECT status, count(*) AS rows FROM raw_data.quarantine GROUP BY status")
        counts = {found["status"]: found["rows"] for found in await cursor.fetchall()}
    for status in get_args(Status):
        QUARANTINE.labels(status).set(counts.get(status, 0))


async def correct(pool: Pool, row_id: int, values: Mapping[str, str | int | float | None]) -> Row:
    """Put other values into a row; corrections add up. Raises `NoSuchRow`, `AlreadyReplayed`, `StillBad`."""
    async with pool.connection() as connection, connection.transaction():
        found = await _held(connection, row_id)
        cells = _corrected(found["corrected"] or found["row"], values)
        return await _change(connection, row_id, "corrected", Jsonb(cells), None)


async def drop(pool: Pool, row_id: int, note: str) -> Row:
    """Leave a row out for good, and say why. Raises `NoSuchRow`, `AlreadyReplayed`."""
    async with pool.connection() as connection, connection.transaction():
        await _held(connection, row_id)
        return await _change(connection, row_id, "dropped", None, note)


async def _held(connection: psycopg.AsyncConnection[Row], row_id: int) -> Row:
    cursor = await connection.execute(
        "SELECT row, corrected, status FROM raw_data.quarantine WHERE id = %s FOR UPDATE", (row_id,)
    )
    found = await cursor.fetchone()
    if found is None:
        raise NoSuchRow
    if found["status"] == "replayed":
        raise AlreadyReplayed
    return found


async def _change(
    connection: psycopg.AsyncConnection[Row], row_id: int, status: Status, corrected: Jsonb | None, note: str | None
) -> Row:
    query = sql.SQL(
        "UPDATE raw_data.quarantine SET status = %s, corrected = %s, note = %s, changed_at = clock_timestamp()"
        " WHERE id = %s RETURNING {}"
    ).format(_SHOWN)
    changed = await (await connection.execute(query, (status, corrected, note, row_id))).fetchone()
    assert changed is not None  # noqa: S101  its row is locked by this transaction
    return changed


def _corrected(before: dict[str, Any] | list[Any], values: Mapping[str, str | int | float | None]) -> dict[str, str]:
    """All 50 cells with the given values put in. Raises `StillBad`."""
    if isinstance(before, list):  # of another width than the header: nobody knows which cell is which
        before = dict(zip(KEYS, before, strict=True)) if len(before) == len(KEYS) else {}
    cells: dict[str, str] = dict(before)
    errors = []
    for name, value in values.items():
        key, cell = normalise_name(name), "" if value is None else str(value)
        if key not in BY_KEY:
            errors.append(FieldError(field=name, value=value, problem="is not a column", allowed="a column's name"))
        elif "\0" in cell:
            errors.append(field_error(key, name, cell, "contains characters that cannot be printed"))
        else:
            cells[key] = cell
    errors += [field_error(key, BY_KEY[key].name, None, "has to be given") for key in KEYS if key not in cells]
    if not errors:
        errors = clean_rows([[cells[key] for key in KEYS]]).refused.get(0, [])
    if errors:
        raise StillBad(errors)
    return cells


def _name(field: str) -> str:
    """The column's own name in any accepted spelling of it."""
    column = BY_KEY.get(normalise_name(field))
    return column.name if column else field
