"""The ledger in PostgreSQL (schema `governance`). Decisions are written one at a time, under an advisory lock."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from enum import Enum, auto
from typing import Any, Literal
from uuid import UUID, uuid4

import psycopg
from psycopg.rows import DictRow, dict_row
from psycopg.types.json import Jsonb
from psycopg_pool import AsyncConnectionPool

from readmit_chassis.envelope import Envelope, new_envelope
from readmit_chassis.failures import BadMessage, Transient
from readmit_chassis.inbox import first_time
from readmit_chassis.outbox import enqueue
from readmit_contracts.events import (
    MODEL_STREAM,
    ModelLoaded,
    ModelPromoted,
    ModelRegistered,
    ModelRejected,
    ModelVersion,
)
from readmit_contracts.topics import MODEL_PROMOTED, MODEL_REJECTED
from readmit_promoter.bootstrap import flattened
from readmit_promoter.canonical import Document
from readmit_promoter.ledger import SOURCE, Decision, announcement, rejection
from readmit_promoter.verdict import Verdict

SCHEMA = "governance"
Connection = psycopg.AsyncConnection[DictRow]
Pool = AsyncConnectionPool[Connection]

_CHAMPION = "SELECT * FROM governance.decisions WHERE epoch IS NOT NULL ORDER BY epoch DESC LIMIT 1"
_INSERT = """
INSERT INTO governance.decisions (
    decision_id, model_name, model_version, outcome, reason, detail,
    auroc, auroc_low, auroc_high, difference, difference_low, difference_high, common_rows,
    epoch, champion_before, evidence_sha256, champion_evidence_sha256, policy, event, decided_at
) VALUES (
    %(decision_id)s, %(model_name)s, %(model_version)s, %(outcome)s, %(reason)s, %(detail)s,
    %(auroc)s, %(auroc_low)s, %(auroc_high)s, %(difference)s, %(difference_low)s, %(difference_high)s, %(common_rows)s,
    %(epoch)s, %(champion_before)s, %(evidence_sha256)s, %(champion_evidence_sha256)s, %(policy)s, %(event)s,
    %(decided_at)s
)
"""
# A pod's word counts when it is newer and its epoch does not go back; anything else arrived late.
_UPSERT_POD = """
INSERT INTO governance.pods AS known (pod_id, outcome, epoch, model, sha256, load_ms, reason, at)
VALUES (%(pod_id)s, %(outcome)s, %(epoch)s, %(model)s, %(sha256)s, %(load_ms)s, %(reason)s, %(at)s)
ON CONFLICT (pod_id) DO UPDATE SET
    outcome = excluded.outcome, epoch = excluded.epoch, model = excluded.model, sha256 = excluded.sha256,
    load_ms = excluded.load_ms, reason = excluded.reason, at = excluded.at
WHERE excluded.at > known.at AND excluded.epoch >= known.epoch
"""


class Recorded(Enum):
    """What became of a verdict."""

    DECIDED = auto()  #: written, and `model.promoted` or `model.rejected` is in the outbox
    ALREADY = auto()  #: this candidate had been decided before; nothing changed
    STALE = auto()  #: the champion changed meanwhile: judge again; nothing changed


def make_pool(conninfo: str) -> Pool:
    """A small pool, still closed."""
    return AsyncConnectionPool(
        conninfo, min_size=1, max_size=4, timeout=10, open=False, kwargs={"row_factory": dict_row}
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


async def champion(connection: Connection) -> Decision | None:
    """The promotion with the highest epoch."""
    row = await (await connection.execute(_CHAMPION)).fetchone()
    return _decision(row) if row else None


async def decisions(connection: Connection, limit: int | None = None) -> list[Decision]:
    """The newest decisions, newest first; all of them without a limit."""
    query = "SELECT * FROM governance.decisions ORDER BY decided_at DESC LIMIT %s"
    return [_decision(row) async for row in await connection.execute(query, (limit,))]


async def record(
    pool: Pool,
    event: ModelRegistered,
    envelope: Envelope,
    verdict: Verdict,
    judged_against: Decision | None,
    kept: Document,
) -> Recorded:
    """Write the verdict, the inbox row and `model.promoted` or `model.rejected`, all or nothing.

    `kept` is what the verdict follows from (`replay.kept`). Raises `BadMessage` when the same name and version was
    decided on for another bundle.
    """
    async with transaction(pool) as connection:
        await lock(connection, "decisions")
        if not await first_time(connection, SCHEMA, "judge", envelope.id) or await _decided(connection, event):
            return Recorded.ALREADY
        present = await champion(connection)
        if _id(present) != _id(judged_against):
            await connection.rollback()
            return Recorded.STALE
        decision = _decide(event, verdict, present, kept)
        await connection.execute(_INSERT, _row(decision))
        if decision.epoch is not None:
            await _announce(connection, decision, envelope)
        else:
            await _announce_rejection(connection, decision, envelope)
        return Recorded.DECIDED


async def announce_champion(pool: Pool) -> Decision | None:
    """Announce the last promotion once more, so that an emptied Kafka learns of it. Returns it."""
    async with transaction(pool) as connection:
        await lock(connection, "decisions")
        present = await champion(connection)
        if present is not None:
            await _announce(connection, present, None)
        return present


async def note_pod(pool: Pool, event: ModelLoaded) -> None:
    """Remember a pod's last word."""
    row = event.model_dump() | {"model": Jsonb(event.model.model_dump())}
    async with transaction(pool) as connection:
        await connection.execute(_UPSERT_POD, row)


async def pods(connection: Connection, limit: int) -> list[ModelLoaded]:
    """The last word of each pod, newest first."""
    query = "SELECT * FROM governance.pods ORDER BY at DESC LIMIT %s"
    return [ModelLoaded.model_validate(row) async for row in await connection.execute(query, (limit,))]


async def _decided(connection: Connection, event: ModelRegistered) -> bool:
    query = "SELECT event FROM governance.decisions WHERE model_name = %s AND model_version = %s"
    row = await (await connection.execute(query, (event.model.name, event.model.version))).fetchone()
    if row and row["event"]["bundle"]["sha256"] != event.bundle.sha256:
        raise BadMessage(f"{event.model.name} version {event.model.version} was decided on for another bundle")
    return row is not None


async def _announce(connection: Connection, decision: Decision, cause: Envelope | None) -> None:
    envelope = new_envelope(ModelPromoted.EVENT_TYPE, source=SOURCE, subject=str(decision.epoch), cause=cause)
    await enqueue(
        connection, SCHEMA, topic=MODEL_PROMOTED.name, key=MODEL_STREAM, event=announcement(decision), envelope=envelope
    )


async def _announce_rejection(connection: Connection, decision: Decision, cause: Envelope) -> None:
    event = rejection(decision)
    subject = f"{event.model.name}/{event.model.version}"
    envelope = new_envelope(ModelRejected.EVENT_TYPE, source=SOURCE, subject=subject, cause=cause)
    await enqueue(connection, SCHEMA, topic=MODEL_REJECTED.name, key=MODEL_STREAM, event=event, envelope=envelope)


def outcome(verdict: Verdict) -> Literal["promoted", "rejected"]:
    """As the ledger and the REST face call it. Nobody can be asked yet, so a candidate that is held is rejected."""
    return "promoted" if verdict.accepted else "rejected"


def _id(decision: Decision | None) -> UUID | None:
    return decision.decision_id if decision else None


def _decide(event: ModelRegistered, verdict: Verdict, present: Decision | None, kept: Document) -> Decision:
    last_epoch = (present.epoch if present else None) or 0
    return Decision(
        decision_id=uuid4(),
        event=event,
        verdict=verdict,
        epoch=last_epoch + 1 if verdict.accepted else None,
        champion_before=present.event.model if present else None,
        champion_evidence_sha256=present.event.evidence.sha256 if present else None,
        kept=kept,
        decided_at=datetime.now(UTC),
    )


def _row(decision: Decision) -> dict[str, Any]:
    event, verdict, before = decision.event, decision.verdict, decision.champion_before
    return {
        "decision_id": decision.decision_id,
        "model_name": event.model.name,
        "model_version": event.model.version,
        "outcome": outcome(verdict),
        "reason": verdict.reason.value,
        "detail": verdict.detail,
        **flattened("auroc", verdict.auroc),
        **flattened("difference", verdict.difference),
        "common_rows": verdict.common_rows,
        "epoch": decision.epoch,
        "champion_before": Jsonb(before.model_dump()) if before else None,
        "evidence_sha256": event.evidence.sha256,
        "champion_evidence_sha256": decision.champion_evidence_sha256,
        "policy": Jsonb(decision.kept),
        "event": Jsonb(event.model_dump(mode="json")),
        "decided_at": decision.decided_at,
    }


def _decision(row: Mapping[str, Any]) -> Decision:
    before = row["champion_before"]
    return Decision(
        decision_id=row["decision_id"],
        event=ModelRegistered.model_validate(row["event"]),
        verdict=Verdict.from_document(row["policy"]["verdict"]),
        epoch=row["epoch"],
        champion_before=ModelVersion.model_validate(before) if before else None,
        champion_evidence_sha256=row["champion_evidence_sha256"],
        kept=row["policy"],
        decided_at=row["decided_at"],
    )
