"""The transactional outbox: an event is a row of the same transaction as its fact, and a relay carries it to Kafka.

At least once: the row is deleted only after the cluster has the event, so a crash in between sends it twice, and
consumers deduplicate by event id (`inbox`). Order per key is kept: one relay at a time, rows in id order.
"""

from __future__ import annotations

import asyncio
import json
import time
from typing import Any

import psycopg
import structlog
from psycopg import sql
from pydantic import BaseModel

from readmit_chassis.envelope import Envelope
from readmit_chassis.failures import Transient
from readmit_chassis.kafka import Publisher
from readmit_chassis.metrics import OUTBOX_OLDEST_SECONDS, OUTBOX_SENT, OUTBOX_UNSENT

log = structlog.get_logger()

_BATCH_ROWS = 200
_IDLE_POLL_S = 1.0
_STEADY_S = 30.0


def _insert(schema: str) -> sql.Composed:
    return sql.SQL("INSERT INTO {} (topic, key, headers, payload) VALUES (%s, %s, %s, %s)").format(
        sql.Identifier(schema, "outbox")
    )


def _row(topic: str, key: str, event: BaseModel, envelope: Envelope) -> tuple[str, str, str, str]:
    return topic, key, json.dumps(envelope.headers()), event.model_dump_json()


async def enqueue(
    connection: psycopg.AsyncConnection[Any],
    schema: str,
    *,
    topic: str,
    key: str,
    event: BaseModel,
    envelope: Envelope,
) -> None:
    """Add an event to the caller's transaction."""
    await connection.execute(_insert(schema), _row(topic, key, event, envelope))
    await connection.execute("SELECT pg_notify(%s, '')", (f"{schema}_outbox",))


def enqueue_sync(
    connection: psycopg.Connection[Any],
    schema: str,
    *,
    topic: str,
    key: str,
    event: BaseModel,
    envelope: Envelope,
) -> None:
    """`enqueue` for a synchronous connection."""
    connection.execute(_insert(schema), _row(topic, key, event, envelope))
    connection.execute("SELECT pg_notify(%s, '')", (f"{schema}_outbox",))


class OutboxRelay:
    """Carries one schema's outbox to Kafka. Several may run; an advisory lock lets one work at a time."""

    def __init__(self, schema: str, conninfo: str, publish: Publisher) -> None:
        self._schema = schema
        self._conninfo = conninfo
        self._publish = publish
        self._oldest_since_s: float | None = None
        # Asked for at each scrape: a relay that is stuck on one event shows an age that grows.
        OUTBOX_OLDEST_SECONDS.labels(schema).set_function(self._oldest_age_s)
        OUTBOX_UNSENT.labels(schema)

    def _oldest_age_s(self) -> float:
        return 0.0 if self._oldest_since_s is None else time.monotonic() - self._oldest_since_s

    async def run(self) -> None:
        """Relay until cancelled; outages of PostgreSQL and Kafka are waited out."""
        pause_s = 0.2
        while True:
            began_s = time.monotonic()
            try:
                await self._session()
            except (psycopg.OperationalError, Transient) as error:
                if time.monotonic() - began_s > _STEADY_S:  # another outage, not the same one going on
                    pause_s = 0.2
                log.warning("outbox_interrupted", schema=self._schema, error=str(error), retry_in_s=pause_s)
                await asyncio.sleep(pause_s)
                pause_s = min(pause_s * 2, 5.0)

    async def _session(self) -> None:
        async with await psycopg.AsyncConnection.connect(self._conninfo, autocommit=True) as connection:
            await connection.execute("SELECT pg_advisory_lock(hashtext(%s))", (f"{self._schema}.outbox",))
            await connection.execute(sql.SQL("LISTEN {}").format(sql.Identifier(f"{self._schema}_outbox")))
            while True:
                if not await self.send_batch(connection):
                    async for _ in connection.notifies(timeout=_IDLE_POLL_S, stop_after=1):
                        pass

    async def send_batch(self, connection: psycopg.AsyncConnection[Any]) -> int:
        """Publish the oldest rows in order, then delete them. Returns how many."""
        table = sql.Identifier(self._schema, "outbox")
        cursor = await connection.execute(
            sql.SQL(
                "SELECT id, topic, key, headers, payload::text, extract(epoch FROM now() - created_at)::float8,"
                " count(*) OVER () FROM {} ORDER BY id LIMIT {}"
            ).format(table, sql.Literal(_BATCH_ROWS))
        )
        rows = await cursor.fetchall()
        unsent = OUTBOX_UNSENT.labels(self._schema)
        unsent.set(rows[0][6] if rows else 0)
        read_at_s = time.monotonic()
        for row_id, topic, key, headers, payload, age_s, _ in rows:
            self._oldest_since_s = read_at_s - age_s
            await self._publish(topic, key.encode(), payload.encode(), headers)
            await connection.execute(sql.SQL("DELETE FROM {} WHERE id = %s").format(table), (row_id,))
            OUTBOX_SENT.labels(self._schema, topic).inc()
            unsent.dec()
        self._oldest_since_s = None
        return len(rows)
