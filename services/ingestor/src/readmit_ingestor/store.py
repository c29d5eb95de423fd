"""What was asked of the ingestor and how far it is (`raw_data.ingestions`), and the datasets that came of it."""

from __future__ import annotations

import json
from typing import Any
from uuid import UUID

import psycopg
from psycopg import sql
from psycopg.rows import dict_row
from psycopg_pool import AsyncConnectionPool

from readmit_chassis.envelope import Envelope, new_envelope
from readmit_chassis.failures import BadMessage, Transient
from readmit_chassis.outbox import enqueue_sync
from readmit_contracts.events import IngestionFinished, IngestionRequested
from readmit_contracts.topics import INGESTION_FINISHED
from readmit_ingestor.addresses import shown

SCHEMA = "raw_data"

Row = dict[str, Any]
Pool = AsyncConnectionPool[psycopg.AsyncConnection[Row]]

_SHOWN = sql.SQL(
    "request_id, source, requested_by, status, stage, bytes_done, bytes_total, rows_read, rows_total,"
    " rows_quarantined, rows_excluded, quarantined_by, changes, batches_written, batch_order, dataset_version,"
    " synthetic,"
    " CASE WHEN error_code IS NULL THEN NULL"
    " ELSE jsonb_build_object('code', error_code, 'message', error_message) END AS error, requested_at, finished_at"
)


def make_pool(conninfo: str) -> Pool:
    """A pool that opens with the application."""
    return AsyncConnectionPool(
        conninfo,
        connection_class=psycopg.AsyncConnection[Row],
        min_size=1,
        max_size=4,
        timeout=10,
        open=False,
        kwargs={"row_factory": dict_row},
    )


async def request(pool: Pool, event: IngestionRequested, envelope: Envelope) -> None:
    """Note that somebody asks for a source; asking twice with one id is asking once. Wakes the runner.

    Raises `Transient` while the database is away, `BadMessage` for a text that it cannot hold.
    """
    try:
        async with pool.connection() as connection:
            await connection.execute(
                "INSERT INTO raw_data.ingestions (request_id, source, requested_by, batch_order, headers)"
                " VALUES (%s, %s, %s, %s, %s) ON CONFLICT (request_id) DO NOTHING",
                (
                    event.request_id,
                    event.source,
                    event.requested_by,
                    event.batch_order or "encounter",
                    json.dumps(envelope.headers()),
                ),
            )
            await connection.execute("SELECT pg_notify('raw_data_ingestions', '')")
    except psycopg.OperationalError as error:
        raise Transient(f"database away: {error}") from error
    except psycopg.DataError as error:
        raise BadMessage(f"the request cannot be stored: {error}") from error


async def ingestion(pool: Pool, request_id: UUID) -> Row | None:
    """One request and its state."""
    async with pool.connection() as connection:
        query = sql.SQL("SELECT {} FROM raw_data.ingestions WHERE request_id = %s").format(_SHOWN)
        found = await (await connection.execute(query, (request_id,))).fetchone()
    return found and _without_secrets(found)


async def ingestions(pool: Pool, limit: int = 20) -> list[Row]:
    """The latest requests, newest first."""
    async with pool.connection() as connection:
        query = sql.SQL("SELECT {} FROM raw_data.ingestions ORDER BY requested_at DESC LIMIT %s").format(_SHOWN)
        return [_without_secrets(row) for row in await (await connection.execute(query, (limit,))).fetchall()]


def _without_secrets(row: Row) -> Row:
    return row | {"source": shown(row["source"])}


async def datasets(pool: Pool) -> list[Row]:
    """Every version of the data with its batches, oldest first."""
    async with pool.connection() as connection:
        cursor = await connection.execute(
            "SELECT d.*, (SELECT coalesce(jsonb_agg(to_jsonb(b) - 'dataset_version' ORDER BY b.batch_id), '[]'::jsonb)"
            " FROM clean_data.batch_info AS b WHERE b.dataset_version = d.version) AS batches"
            " FROM clean_data.datasets AS d ORDER BY d.version"
        )
        return await cursor.fetchall()


def newest_sizes(connection: psycopg.Connection[Any]) -> tuple[int, dict[str, int]]:
    """Newest version of the data (0 before the first) and its rows by split."""
    row = connection.execute(
        "SELECT version, rows_quarantined, rows_excluded,"
        " (SELECT coalesce(sum(rows), 0) FROM clean_data.batch_info AS b WHERE b.dataset_version = d.version),"
        " (SELECT count(*) FROM clean_data.diabetes_validation AS v WHERE v.dataset_version = d.version),"
        " (SELECT count(*) FROM clean_data.diabetes_test AS t WHERE t.dataset_version = d.version)"
        " FROM clean_data.datasets AS d ORDER BY version DESC LIMIT 1"
    ).fetchone()
    if row is None:
        return 0, {}
    splits = ("quarantined", "excluded", "train", "validation", "test")
    return int(row[0]), dict(zip(splits, map(int, row[1:]), strict=True))


def claim(connection: psycopg.Connection[Any]) -> Row | None:
    """The oldest request that nobody has finished, marked running. The caller holds the runner's lock."""
    with connection.cursor(row_factory=dict_row) as cursor:
        cursor.execute(
            "UPDATE raw_data.ingestions SET status = 'running', stage = 'opening', attempts = attempts + 1"
            " WHERE request_id = ("
            " SELECT request_id FROM raw_data.ingestions WHERE status IN ('requested', 'running')"
            " ORDER BY requested_at LIMIT 1) RETURNING request_id, source, batch_order, headers, attempts"
        )
        return cursor.fetchone()


def note(connection: psycopg.Connection[Any], request_id: UUID, **state: object) -> None:
    """Update columns of one request."""
    assignments = sql.SQL(", ").join(sql.SQL("{} = %s").format(sql.Identifier(name)) for name in state)
    connection.execute(
        sql.SQL("UPDATE raw_data.ingestions SET {} WHERE request_id = %s").format(assignments),
        [*state.values(), request_id],
    )


def finish(connection: psycopg.Connection[Any], request_id: UUID, status: str, **state: object) -> bool:
    """Mark a request ended and announce it, in one transaction: the caller's, where one is open.

    False, and neither, when it had ended before: a runner that was cut off from the database may come back late.
    """
    assignments = sql.SQL("").join(sql.SQL(", {} = %s").format(sql.Identifier(name)) for name in state)
    with connection.transaction(), connection.cursor(row_factory=dict_row) as cursor:
        cursor.execute(
            sql.SQL(
                "UPDATE raw_data.ingestions SET status = %s, stage = NULL, finished_at = clock_timestamp(){}"
                " WHERE request_id = %s AND status IN ('requested', 'running') RETURNING *"
            ).format(assignments),
            [status, *state.values(), request_id],
        )
        ended = cursor.fetchone()
        if ended is not None:
            _announce(connection, ended)
    return ended is not None


def _announce(connection: psycopg.Connection[Any], ended: Row) -> None:
    """`ingestion.finished`, in the trace of the request."""
    event = IngestionFinished(
        request_id=ended["request_id"], source=shown(ended["source"]), outcome=ended["status"],
        dataset_version=ended["dataset_version"], synthetic=ended["synthetic"], rows_read=ended["rows_read"],
        rows_quarantined=ended["rows_quarantined"], rows_excluded=ended["rows_excluded"],
        batches=ended["batches_written"], quarantined_by=ended["quarantined_by"], changes=ended["changes"],
        error_code=ended["error_code"], error_message=ended["error_message"],
        finished_at=ended["finished_at"],
    )  # fmt: skip
    key = str(event.request_id)
    cause = Envelope.from_headers(ended["headers"]) if ended["headers"] else None
    envelope = new_envelope(event.EVENT_TYPE, source="ingestor", subject=key, cause=cause)
    enqueue_sync(connection, SCHEMA, topic=INGESTION_FINISHED.name, key=key, event=event, envelope=envelope)
