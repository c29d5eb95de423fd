"""The ledger in PostgreSQL (schema `governance`). Entries are written one at a time, under an advisory lock."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, TypeVar
from uuid import UUID, uuid4

import psycopg
from psycopg.rows import DictRow, dict_row
from psycopg.types.json import Jsonb
from psycopg_pool import AsyncConnectionPool

from readmit_chassis.envelope import Envelope
from readmit_chassis.failures import BadMessage, Transient
from readmit_chassis.inbox import first_time
from readmit_contracts.events import ModelRegistered, ModelVersion
from readmit_promoter.ledger import (
    Entry,
    Fact,
    Freeze,
    Judgement,
    RolloutStage,
    Unfreeze,
    broken_links,
    chained,
    read_entry,
)

SCHEMA = "governance"
Connection = psycopg.AsyncConnection[DictRow]
Pool = AsyncConnectionPool[Connection]
F = TypeVar("F", bound=Fact)

_ENTRIES = "SELECT document, previous_sha256, sha256 FROM governance.decisions"
_CHAMPIONS = f"{_ENTRIES} WHERE epoch IS NOT NULL"
_NEWEST = f"""
{_ENTRIES} WHERE (%(kinds)s::text[] IS NULL OR kind = ANY(%(kinds)s))
    AND (%(before)s::bigint IS NULL OR sequence < %(before)s)
ORDER BY sequence DESC LIMIT %(limit)s
"""
_INSERT = """
INSERT INTO governance.decisions (sequence, document, previous_sha256, sha256, at)
VALUES (%(sequence)s, %(document)s, %(previous_sha256)s, %(sha256)s, %(at)s)
"""
_UNANSWERED = """
SELECT count(*) AS unanswered FROM governance.decisions AS judged
WHERE kind = 'judgement' AND document::jsonb #>> '{fact,decision,verdict,outcome}' <> 'rejected'
    AND sequence > coalesce((SELECT max(sequence) FROM governance.decisions WHERE epoch IS NOT NULL), 0)
    AND NOT EXISTS (SELECT FROM governance.decisions AS later WHERE later.judgement_id = judged.entry_id)
"""
_STANDINGS = """
SELECT judged.candidate_name AS name, judged.candidate_version AS version, max(crowned.epoch) AS epoch
FROM governance.decisions AS judged
LEFT JOIN governance.decisions AS crowned ON crowned.judgement_id = judged.entry_id AND crowned.epoch IS NOT NULL
WHERE judged.kind = 'judgement' GROUP BY 1, 2 ORDER BY 1, 2
"""


def make_pool(conninfo: str) -> Pool:
    """A small pool, still closed."""
    return AsyncConnectionPool(
        conninfo, min_size=1, max_size=6, timeout=10, open=False, kwargs={"row_factory": dict_row}
    )


@asynccontextmanager
async def transaction(pool: Pool) -> AsyncIterator[Connection]:
    """One transaction. Raises `Transient` when the database is away; nothing is committed then."""
    try:
        async with pool.connection() as connection:
            yield connection
    except psycopg.OperationalError as error:
        raise Transient(f"database: {error}") from error


async def lock(connection: Connection, name: str) -> None:
    """Wait until no other transaction holds the lock of this name; it is held until the transaction ends."""
    await connection.execute("SELECT pg_advisory_xact_lock(hashtext(%s))", (f"{SCHEMA}.{name}",))


async def try_lock(connection: Connection, name: str) -> bool:
    """As `lock`, without waiting: False when another transaction holds it."""
    query = "SELECT pg_try_advisory_xact_lock(hashtext(%s)) AS locked"
    row = await (await connection.execute(query, (f"{SCHEMA}.{name}",))).fetchone()
    return bool(row and row["locked"])


@asynccontextmanager
async def writing(pool: Pool) -> AsyncIterator[Connection]:
    """A transaction that nobody else writes the ledger beside."""
    async with transaction(pool) as connection:
        await lock(connection, "decisions")
        yield connection


async def append(connection: Connection, fact: Fact, *, by: str, reason: str, entry_id: UUID | None = None) -> Entry:
    """Write the next entry. The caller holds the ledger's lock (`writing`)."""
    entry = chained(await last_entry(connection), entry_id or uuid4(), datetime.now(UTC), by, reason, fact)
    row = {
        "sequence": entry.sequence, "document": entry.document, "previous_sha256": entry.previous_sha256,
        "sha256": entry.sha256, "at": entry.at,
    }  # fmt: skip
    await connection.execute(_INSERT, row)
    return entry


async def last_entry(connection: Connection) -> Entry | None:
    """The newest entry of all."""
    return await _one(connection, f"{_ENTRIES} ORDER BY sequence DESC LIMIT 1")


async def entries(
    connection: Connection, kinds: tuple[str, ...] | None = None, limit: int | None = None, before: int | None = None
) -> list[Entry]:
    """The newest entries of these kinds (all without), newest first, below sequence number `before`."""
    parameters = {"kinds": list(kinds) if kinds else None, "before": before, "limit": limit}
    return [_entry(row) async for row in await connection.execute(_NEWEST.encode(), parameters)]


async def entry(connection: Connection, entry_id: UUID) -> Entry | None:
    """The entry of this id."""
    return await _one(connection, f"{_ENTRIES} WHERE entry_id = %s", entry_id)


async def champion(connection: Connection) -> Entry | None:
    """The promotion or rollback with the highest epoch."""
    return await _one(connection, f"{_CHAMPIONS} ORDER BY epoch DESC LIMIT 1")


async def champion_at(connection: Connection, at: datetime) -> Entry | None:
    """What was champion at a time: the last promotion or rollback up to then."""
    return await _one(connection, f"{_CHAMPIONS} AND at <= %s ORDER BY epoch DESC LIMIT 1", at)


async def crowned(connection: Connection) -> list[Entry]:
    """All promotions and rollbacks, newest first."""
    return [_entry(row) async for row in await connection.execute(f"{_CHAMPIONS} ORDER BY epoch DESC".encode())]


async def judged(connection: Connection, model: ModelVersion) -> Entry | None:
    """The judgement of a model version."""
    query = f"{_ENTRIES} WHERE candidate_name = %s AND candidate_version = %s"
    return await _one(connection, query, model.name, model.version)


async def following(connection: Connection, judgement_ids: Sequence[UUID]) -> dict[UUID, list[Entry]]:
    """What came of candidates, by their judgement, oldest first; one question for all of them."""
    query = (
        "SELECT judgement_id, document, previous_sha256, sha256 FROM governance.decisions"
        " WHERE judgement_id = ANY(%s) ORDER BY sequence"
    )
    found: dict[UUID, list[Entry]] = {judgement_id: [] for judgement_id in judgement_ids}
    async for row in await connection.execute(query, (list(judgement_ids),)):
        found[row["judgement_id"]].append(_entry(row))
    return found


async def is_frozen(connection: Connection) -> bool:
    """Whether candidates have to wait."""
    found = await entries(connection, (Freeze.KIND, Unfreeze.KIND), limit=1)
    return bool(found) and isinstance(found[0].fact, Freeze)


async def last_stage(connection: Connection) -> Entry | None:
    """The newest stage of the newest trial."""
    found = await entries(connection, (RolloutStage.KIND,), limit=1)
    return found[0] if found else None


async def chain(connection: Connection) -> tuple[int, list[str]]:
    """How many entries there are, and what is wrong with their chain; the whole ledger is read."""
    cursor = await connection.execute(f"{_ENTRIES} ORDER BY sequence".encode())
    rows = [(row["document"], row["previous_sha256"], row["sha256"]) async for row in cursor]
    return len(rows), broken_links(rows)


async def count_unanswered(connection: Connection) -> int:
    """How many candidates wait for a person: accepted or held against the present champion, and nothing came of it."""
    row = await (await connection.execute(_UNANSWERED)).fetchone()
    return int(row["unanswered"]) if row else 0


async def standings(connection: Connection) -> list[tuple[str, str, int | None]]:
    """Each judged model version (name, version) and the newest epoch in which it was champion, if any."""
    return [(row["name"], row["version"], row["epoch"]) async for row in await connection.execute(_STANDINGS)]


# The queue of candidates.


@dataclass(frozen=True, slots=True)
class Waiting:
    """A candidate that waits for its judgement, and what announced it."""

    place: int
    event: ModelRegistered
    envelope: Envelope


async def queue(pool: Pool, event: ModelRegistered, envelope: Envelope) -> bool:
    """Remember a candidate until it is judged; False when it is known already.

    Raises `BadMessage` when the same name and version is known with another bundle, or was refused unread.
    """
    async with writing(pool) as connection:
        if not await first_time(connection, SCHEMA, "judge", envelope.id):
            return False
        known = await judged(connection, event.model)
        if known is not None and isinstance(known.fact, Judgement):
            if known.fact.is_unread:
                raise BadMessage(
                    f"{event.model.name} version {event.model.version} was refused when it was announced first"
                    f" (decision {known.entry_id}): register it as a new version"
                )
            bundle: str | None = known.fact.candidate.bundle.sha256
        else:
            bundle = await _queued_bundle(connection, event.model)
        if bundle is not None and bundle != event.bundle.sha256:
            raise BadMessage(f"{event.model.name} version {event.model.version} is known with another bundle")
        if bundle is not None:
            return False
        await connection.execute(
            "INSERT INTO governance.candidates (name, version, event, headers) VALUES (%s, %s, %s, %s)",
            (event.model.name, event.model.version, Jsonb(event.model_dump(mode="json")), Jsonb(envelope.headers())),
        )
        return True


async def is_known(connection: Connection, model: ModelVersion) -> bool:
    """Whether a model version waits for its judgement or has had it."""
    return await judged(connection, model) is not None or await _queued_bundle(connection, model) is not None


async def next_candidate(connection: Connection) -> Waiting | None:
    """The candidate that has waited longest."""
    query = "SELECT place, event, headers FROM governance.candidates ORDER BY place LIMIT 1"
    row = await (await connection.execute(query)).fetchone()
    if row is None:
        return None
    return Waiting(row["place"], ModelRegistered.model_validate(row["event"]), Envelope.from_headers(row["headers"]))


async def count_waiting(connection: Connection) -> int:
    """How many candidates wait."""
    row = await (await connection.execute("SELECT count(*) AS waiting FROM governance.candidates")).fetchone()
    return int(row["waiting"]) if row else 0


async def take_from_queue(connection: Connection, place: int) -> bool:
    """Take a candidate that is being judged out of the queue; False when somebody else has."""
    cursor = await connection.execute("DELETE FROM governance.candidates WHERE place = %s", (place,))
    return cursor.rowcount == 1


async def _queued_bundle(connection: Connection, model: ModelVersion) -> str | None:
    query = "SELECT event #>> '{bundle,sha256}' AS sha256 FROM governance.candidates WHERE name = %s AND version = %s"
    row = await (await connection.execute(query, (model.name, model.version))).fetchone()
    return row["sha256"] if row else None


async def _one(connection: Connection, query: str, *parameters: Any) -> Entry | None:
    row = await (await connection.execute(query.encode(), parameters)).fetchone()
    return _entry(row) if row else None


def _entry(row: DictRow) -> Entry:
    return read_entry(row["document"], row["previous_sha256"], row["sha256"])
