"""The transactional outbox: an event is a row of the same transaction as its fact, and a relay carries it to Kafka.

At least once: the row is deleted only after the cluster has the event, so a crash in between sends it twice, and
consumers deduplicate by event id (`inbox`). Order per topic and key is kept: one relay at a time, rows in id order.
"""

from __future__ import annotations

import asyncio
import json
import math
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import psycopg
import structlog
from psycopg import sql
from psycopg.rows import args_row
from pydantic import BaseModel

from readmit_chassis.envelope import Envelope
from readmit_chassis.failures import Refused, Transient
from readmit_chassis.kafka import Publisher
from readmit_chassis.metrics import OUTBOX_OLDEST_SECONDS, OUTBOX_PARKED, OUTBOX_SENT, OUTBOX_UNSENT
from readmit_chassis.process import end_if_cancelled
from readmit_chassis.tracing import span

log = structlog.get_logger()

_BATCH_ROWS = 500
_IDLE_POLL_S = 1.0
_STEADY_S = 30.0

#: How long a batch waits for its slowest lane before the next one is read without it; then how often that is looked
#: for. A topic that is missing keeps its lanes for a minute.
_PATIENCE_S = 0.1
_BUSY_POLL_S = 0.05

#: So that one such topic does not fill the memory with lanes.
_LANES_PER_TOPIC = 200

_MEASURE_EVERY_S = 0.5

Lane = tuple[str, str]


@dataclass(frozen=True, slots=True)
class _Row:
    id: int
    topic: str
    key: str
    headers: dict[str, str]
    payload: str
    attempts: int


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
    """Carries one schema's outbox to Kafka. Several may run; an advisory lock lets one work at a time.

    Rows of one topic and key are a lane: one row after another, each only when the cluster has the one before. Lanes
    run side by side. (A client keeps what it was given in order, but when one request fails the next may still arrive;
    only a row that waits for its predecessor cannot overtake it.)

    A row that Kafka refuses for its own sake is tried again after each of `refusal_pauses_s`, then parked: `held_until`
    is infinity, `error` says why, and what follows in its lane waits. The client packs rows of many lanes into one
    request, which is refused whole, so such a row is tried alone. An outage is no refusal, and is waited out.
    """

    def __init__(
        self,
        schema: str,
        conninfo: str,
        publish: Publisher,
        refusal_pauses_s: Sequence[float] = (0, 1, 2, 4, 8, 16, 32, 60),
    ) -> None:
        self._schema = schema
        self._table = sql.Identifier(schema, "outbox")
        self._conninfo = conninfo
        self._publish = publish
        self._refusal_pauses_s = refusal_pauses_s
        self._lanes: dict[Lane, asyncio.Task[None]] = {}
        self._sent: list[_Row] = []
        self._refused: list[tuple[_Row, Refused]] = []
        self._oldest_since_s: float | None = None
        self._measured_s = -math.inf
        # Asked for at each scrape: a relay that is stuck on one event shows an age that grows.
        OUTBOX_OLDEST_SECONDS.labels(schema).set_function(self._oldest_age_s)
        OUTBOX_UNSENT.labels(schema)
        OUTBOX_PARKED.labels(schema)

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
            try:
                while True:
                    end_if_cancelled()
                    if not await self.send_batch(connection):
                        poll_s = _BUSY_POLL_S if self._lanes else _IDLE_POLL_S
                        async for _ in connection.notifies(timeout=poll_s, stop_after=1):
                            pass
            finally:
                await self._abandon()

    async def send_batch(self, connection: psycopg.AsyncConnection[Any]) -> int:
        """Publish the oldest rows, delete what arrived, hold what was refused; a slow lane goes on by itself.

        Returns how many rows are dealt with. Raises what stopped a lane, after that: `Transient` in an outage.
        """
        rows = await self._next_rows(connection)
        held = await self._next_held(connection)
        await self._measure(connection, at_once=not rows)
        lanes: dict[Lane, list[_Row]] = {}
        for row in rows:
            lanes.setdefault((row.topic, row.key), []).append(row)
        await self._start(lanes)
        await self._start({(row.topic, row.key): [row] for row in held})
        ended = {lane: task for lane, task in self._lanes.items() if task.done()}
        settled = await self._settle(connection)
        for lane in ended:  # only now: its rows are no longer there to be sent again
            del self._lanes[lane]
        failures = [error for task in ended.values() if (error := task.exception()) is not None]
        for error in sorted(failures, key=lambda error: isinstance(error, Transient)):  # a bug before an outage
            raise error
        return settled

    async def _start(self, lanes: dict[Lane, list[_Row]]) -> None:
        """Send lanes on their way, and give them a moment to arrive."""
        started = {lane: asyncio.create_task(self._carry(rows)) for lane, rows in lanes.items()}
        self._lanes |= started
        if started:
            await asyncio.wait(started.values(), timeout=_PATIENCE_S)

    async def _next_rows(self, connection: psycopg.AsyncConnection[Any]) -> list[_Row]:
        """The oldest rows of lanes that are free: not under way, and with nothing held in front."""
        condition = sql.SQL(
            "NOT EXISTS (SELECT FROM {} AS h WHERE h.topic = o.topic AND h.key = o.key AND h.id <= o.id"
            " AND h.held_until IS NOT NULL) ORDER BY id LIMIT {}"
        ).format(self._table, sql.Literal(_BATCH_ROWS))
        return await self._select(connection, condition)

    async def _next_held(self, connection: psycopg.AsyncConnection[Any]) -> list[_Row]:
        """The row whose pause is over, if there is one; all others of its lane are behind it."""
        return await self._select(connection, sql.SQL("held_until <= now() ORDER BY held_until LIMIT 1"))

    async def _select(self, connection: psycopg.AsyncConnection[Any], condition: sql.Composable) -> list[_Row]:
        """Rows of topics that have room and of lanes that are not under way."""
        by_topic = Counter(topic for topic, _ in self._lanes)
        full = [topic for topic, lanes in by_topic.items() if lanes >= _LANES_PER_TOPIC]
        query = sql.SQL(
            "SELECT id, topic, key, headers, payload::text, attempts FROM {} AS o WHERE topic <> ALL(%s)"
            " AND (topic, key) NOT IN (SELECT * FROM unnest(%s::text[], %s::text[])) AND "
        ).format(self._table)
        parameters = (full, [topic for topic, _ in self._lanes], [key for _, key in self._lanes])
        async with connection.cursor(row_factory=args_row(_Row)) as cursor:
            await cursor.execute(query + condition, parameters)
            return await cursor.fetchall()

    async def _carry(self, rows: list[_Row]) -> None:
        """One lane: each row when the cluster has the one before. Ends early where one is refused."""
        for row in rows:
            try:
                with span(f"publish {row.topic}", row.headers.get("traceparent")):
                    await self._publish(row.topic, row.key.encode(), row.payload.encode(), row.headers)
            except Refused as refused:
                self._refused.append((row, refused))
                return
            self._sent.append(row)

    async def _settle(self, connection: psycopg.AsyncConnection[Any]) -> int:
        """Delete what the cluster has, hold what it refused. Returns how many rows these are."""
        sent, self._sent = self._sent, []
        refused, self._refused = self._refused, []
        if sent:
            statement = sql.SQL("DELETE FROM {} WHERE id = ANY(%s)").format(self._table)
            await connection.execute(statement, ([row.id for row in sent],))
            for topic, count in Counter(row.topic for row in sent).items():
                OUTBOX_SENT.labels(self._schema, topic).inc(count)
        for row, error in refused:
            await self._hold(connection, row, str(error))
        return len(sent) + len(refused)

    async def _hold(self, connection: psycopg.AsyncConnection[Any], row: _Row, error: str) -> None:
        """Let the row wait for its next attempt, or for a person when it has had them all."""
        parked = row.attempts >= len(self._refusal_pauses_s)
        held_until = (
            sql.SQL("'infinity'")
            if parked
            else sql.SQL("now() + make_interval(secs => {})").format(float(self._refusal_pauses_s[row.attempts]))
        )
        statement = sql.SQL("UPDATE {} SET attempts = attempts + 1, error = %s, held_until = {} WHERE id = %s")
        await connection.execute(statement.format(self._table, held_until), (error, row.id))
        tell = log.error if parked else log.warning
        tell(
            "event_parked" if parked else "event_refused",
            schema=self._schema, topic=row.topic, outbox_id=row.id, attempts=row.attempts + 1, error=error,
        )  # fmt: skip
        self._measured_s = -math.inf

    async def _measure(self, connection: psycopg.AsyncConnection[Any], *, at_once: bool) -> None:
        """Set the gauges, at most twice a second while there is work."""
        if not at_once and time.monotonic() - self._measured_s < _MEASURE_EVERY_S:
            return
        cursor = await connection.execute(
            sql.SQL(
                "WITH parked AS (SELECT topic, key, min(id) AS id FROM {outbox} WHERE held_until = 'infinity'"
                " GROUP BY topic, key)"
                " SELECT count(*), count(*) FILTER (WHERE o.held_until = 'infinity'),"
                " extract(epoch FROM now() - min(o.created_at) FILTER (WHERE p.id IS NULL))::float8"
                " FROM {outbox} AS o LEFT JOIN parked AS p ON p.topic = o.topic AND p.key = o.key AND p.id <= o.id"
            ).format(outbox=self._table)
        )
        ((unsent, parked, age_s),) = await cursor.fetchall()
        self._measured_s = time.monotonic()
        self._oldest_since_s = None if age_s is None else self._measured_s - age_s
        OUTBOX_UNSENT.labels(self._schema).set(unsent)
        OUTBOX_PARKED.labels(self._schema).set(parked)

    async def _abandon(self) -> None:
        """End every lane. What has arrived and is not deleted yet is sent again: consumers know it by its id."""
        for task in self._lanes.values():
            task.cancel()
        await asyncio.gather(*self._lanes.values(), return_exceptions=True)
        self._lanes.clear()
        self._sent.clear()
        self._refused.clear()
