"""The inbox: which events a consumer has already given their effect, written in the effect's own transaction."""

from __future__ import annotations

from typing import Any
from uuid import UUID

import psycopg
from psycopg import sql


async def first_time(connection: psycopg.AsyncConnection[Any], schema: str, consumer: str, event_id: UUID) -> bool:
    """Note the event in the caller's transaction; False when it was noted before, so that its effect is skipped."""
    cursor = await connection.execute(
        sql.SQL("INSERT INTO {} (consumer, event_id) VALUES (%s, %s) ON CONFLICT DO NOTHING").format(
            sql.Identifier(schema, "inbox")
        ),
        (consumer, event_id),
    )
    return cursor.rowcount == 1
