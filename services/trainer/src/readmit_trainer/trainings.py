"""Requests for training, and how they end: the SQL of `training.requests`.

A request waits for jobs (`training.request_jobs`): those that it queued and those that were on their way already. The
transaction that ends the last of them ends the request and announces it.

Who adds jobs holds the lock of `lock_jobs`. A request locks the rows of the jobs that it finds, so that each of them
either ends after the request waits for it, or is seen to have ended.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

import psycopg
from psycopg import AsyncConnection
from psycopg.rows import class_row, dict_row
from psycopg.types.json import Jsonb
from psycopg_pool import AsyncConnectionPool

from readmit_chassis.envelope import Envelope, new_envelope
from readmit_chassis.inbox import first_time
from readmit_chassis.outbox import enqueue
from readmit_contracts.encounter import schema_sha256
from readmit_contracts.events import BatchReady, ModelVersion, TrainedModel, TrainingFinished, TrainingRequested
from readmit_contracts.topics import TRAINING_FINISHED
from readmit_trainer.domain import FAMILIES, FamilyName, KnownJob, Outcome, Plan, describe_failures, model_name, plan
from readmit_trainer.errors import NothingToTrainOn

SCHEMA = "training"

Connection = AsyncConnection[Any]

_SHOWN = (
    "SELECT request_id, reason, requested_by, requested_at, force, status, dataset_version, models, error, finished_at,"
    " (SELECT count(*) FROM training.request_jobs WHERE request_jobs.request_id = requests.request_id) AS fits_total,"
    " (SELECT count(*) FROM training.request_jobs JOIN training.jobs USING (job_id)"
    "  WHERE request_jobs.request_id = requests.request_id AND jobs.status IN ('done', 'failed', 'superseded'))"
    " AS fits_ended"
    " FROM training.requests"
)
#: The fits of a dataset version by one version of the code, one per batch and family: the request's own before others,
#: "done" before "failed", newer before older.
_FITS = """
SELECT DISTINCT ON (batch, family_rank) family, batch, status, model_version, auroc, fit_seconds, error
FROM training.jobs LEFT JOIN training.request_jobs AS own ON own.job_id = jobs.job_id AND own.request_id = %(request)s
WHERE dataset_version = %(dataset)s AND code_version = %(code)s AND status IN ('done', 'failed')
ORDER BY batch, family_rank, own.job_id IS NULL, status, finished_at DESC
"""


@dataclass(frozen=True, slots=True)
class Training:
    """One request, as `GET /trainings` shows it. `models` are there once it has ended."""

    request_id: UUID
    reason: str
    requested_by: str
    requested_at: datetime
    force: bool
    status: str
    dataset_version: int | None
    fits_total: int
    fits_ended: int
    models: list[dict[str, Any]]
    error: str | None
    finished_at: datetime | None


class TrainingStore:
    """Every method is one transaction. Raises psycopg.OperationalError while the database is away."""

    def __init__(self, pool: AsyncConnectionPool[Connection]) -> None:
        self._pool = pool

    async def request(
        self, event: TrainingRequested, envelope: Envelope, families: tuple[FamilyName, ...], code_version: str
    ) -> None:
        """Note the request and queue what it takes; however often it comes, once."""
        async with self._pool.connection() as connection:
            if not await first_time(connection, SCHEMA, "training.requested", envelope.id):
                return
            if not await _note(connection, event, envelope, code_version):
                return
            await lock_jobs(connection)
            try:
                batches = await _batches(connection, event.dataset_version)
            except NothingToTrainOn as why:
                await _end(connection, event.request_id, "failed", str(why))
                return
            version = batches[0].dataset_version
            await connection.execute(
                "UPDATE training.requests SET dataset_version = %s WHERE request_id = %s", (version, event.request_id)
            )
            known = await _known(connection, version, code_version)
            planned = plan(batches, await _at_work(connection, families), known, force=event.force)
            jobs = await _queue(connection, event, envelope, code_version, planned)
            await connection.execute(
                "INSERT INTO training.request_jobs (request_id, job_id) SELECT %s, unnest(%s::uuid[])",
                (event.request_id, jobs),
            )
            if not jobs:
                await _end(connection, event.request_id, "unchanged", None)

    async def training(self, request_id: UUID) -> Training | None:
        """One request and how far it is."""
        async with self._pool.connection() as connection:
            cursor = connection.cursor(row_factory=class_row(Training))
            await cursor.execute(f"{_SHOWN} WHERE request_id = %s".encode(), (request_id,))
            return await cursor.fetchone()

    async def trainings(self, limit: int = 20) -> list[Training]:
        """The latest requests, newest first."""
        async with self._pool.connection() as connection:
            cursor = connection.cursor(row_factory=class_row(Training))
            await cursor.execute(f"{_SHOWN} ORDER BY received_at DESC LIMIT %s".encode(), (limit,))
            return await cursor.fetchall()


async def lock_jobs(connection: Connection) -> None:
    """Be the only one who adds jobs, until the transaction ends."""
    await connection.execute("SELECT pg_advisory_xact_lock(hashtext('training.jobs'))")


async def end_requests(connection: Connection, jobs: Sequence[UUID]) -> None:
    """End and announce each request whose last job is among these, which have ended in the caller's transaction.

    The request's row is locked before its jobs are counted: of two transactions that end the last two jobs at the same
    time, the second one waits here, and then sees what the first one did.
    """
    cursor = await connection.execute(
        "SELECT request_id FROM training.requests WHERE status = 'running' AND request_id IN"
        " (SELECT request_id FROM training.request_jobs WHERE job_id = ANY(%s)) ORDER BY request_id FOR UPDATE",
        (list(jobs),),
    )
    for (request_id,) in await cursor.fetchall():
        fits = await connection.cursor(row_factory=dict_row).execute(
            "SELECT family, batch, status, error FROM training.request_jobs JOIN training.jobs USING (job_id)"
            " WHERE request_jobs.request_id = %s ORDER BY batch, family_rank",
            (request_id,),
        )
        states = await fits.fetchall()
        if any(fit["status"] in {"queued", "running"} for fit in states):
            continue
        failures = [(fit["family"], fit["batch"], fit["error"]) for fit in states if fit["status"] == "failed"]
        error = describe_failures(failures, len(states)) if failures else None
        await _end(connection, request_id, "failed" if failures else "done", error)


async def _note(connection: Connection, event: TrainingRequested, envelope: Envelope, code_version: str) -> bool:
    noted = await connection.execute(
        "INSERT INTO training.requests (request_id, reason, requested_by, requested_at, force, code_version, headers)"
        " VALUES (%s, %s, %s, %s, %s, %s, %s) ON CONFLICT DO NOTHING",
        (
            event.request_id, event.reason, event.requested_by, event.requested_at, event.force, code_version,
            Jsonb(envelope.headers()),
        ),
    )  # fmt: skip
    return noted.rowcount == 1


async def _batches(connection: Connection, wanted: int | None) -> list[BatchReady]:
    """What was announced of a dataset version, or of the newest one, read where the ingestor committed it.

    Raises NothingToTrainOn.
    """
    newest = await _newest(connection)
    if newest is None:
        raise NothingToTrainOn(
            "there is no data yet; ask for an ingestion first (`readmit ingest`, or POST /ingestions of the ingestor)"
        )
    version = wanted or newest
    cursor = await connection.cursor(row_factory=dict_row).execute(
        "SELECT d.version AS dataset_version, d.content_sha256, d.schema_sha256, d.batches_total, d.synthetic,"
        " b.batch_id AS batch, b.rows, b.positives, b.sha256 AS batch_sha256"
        " FROM clean_data.datasets AS d JOIN clean_data.batch_info AS b ON b.dataset_version = d.version"
        " WHERE d.version = %s ORDER BY b.batch_id",
        (version,),
    )
    batches = [BatchReady.model_validate(row) for row in await cursor.fetchall()]
    if not batches and version > newest:
        raise NothingToTrainOn(f"there is no dataset {version}; the newest is {newest}")
    if not batches:
        raise NothingToTrainOn(f"dataset {version} has no training rows; ingest a source with more rows")
    if batches[0].schema_sha256 != schema_sha256():
        raise NothingToTrainOn(
            f"dataset {version} was cleaned by the encounter schema {batches[0].schema_sha256[:12]}, this trainer reads"
            f" {schema_sha256()[:12]}; ingest the source again with the ingestor of this release"
        )
    return batches


async def _newest(connection: Connection) -> int | None:
    """The newest dataset version; None before the first."""
    try:
        async with connection.transaction():
            row = await (await connection.execute("SELECT max(version) FROM clean_data.datasets")).fetchone()
    except (psycopg.errors.UndefinedTable, psycopg.errors.InsufficientPrivilege):
        return None  # no ingestor has ever run on this database: it makes the tables and lets us read them
    return row[0] if row else None


async def _at_work(connection: Connection, families: tuple[FamilyName, ...]) -> list[FamilyName]:
    """Our families, and those that other trainers have queued jobs of: who hears a request asks for all."""
    rows = await (await connection.execute("SELECT DISTINCT family FROM training.jobs")).fetchall()
    there = {*families, *(row[0] for row in rows)}
    return [family for family in FAMILIES if family in there]


async def _known(connection: Connection, version: int, code_version: str) -> list[KnownJob]:
    cursor = await connection.cursor(row_factory=class_row(KnownJob)).execute(
        "SELECT job_id, batch, family, status, request_id IS NOT NULL AS forced FROM training.jobs"
        " WHERE dataset_version = %s AND code_version = %s ORDER BY batch, family_rank, job_id FOR UPDATE",
        (version, code_version),
    )
    return await cursor.fetchall()


async def _queue(
    connection: Connection, event: TrainingRequested, envelope: Envelope, code_version: str, planned: Plan
) -> list[UUID]:
    """Queue what the plan says; the ids of all jobs that the request waits for."""
    headers = Jsonb(envelope.headers())
    await connection.execute(
        "UPDATE training.jobs SET status = 'queued', attempts = 0, error = NULL, headers = %s, not_before = now(),"
        " started_at = NULL, finished_at = NULL WHERE job_id = ANY(%s)",
        (headers, list(planned.again)),
    )
    jobs = [*planned.on_their_way, *planned.again]
    for batch, family in planned.new:
        added = await connection.execute(
            "INSERT INTO training.jobs (dataset_version, batch, family, family_rank, code_version, event, headers,"
            " request_id) VALUES (%s, %s, %s, %s, %s, %s, %s, %s) RETURNING job_id",
            (
                batch.dataset_version, batch.batch, family, FAMILIES.index(family), code_version,
                Jsonb(batch.model_dump(mode="json")), headers, event.request_id if event.force else None,
            ),
        )  # fmt: skip
        jobs += [row[0] for row in await added.fetchall()]
    return jobs


async def _end(connection: Connection, request_id: UUID, outcome: Outcome, error: str | None) -> None:
    """The end of a request and its `training.finished`."""
    cursor = await connection.cursor(row_factory=dict_row).execute(
        "UPDATE training.requests SET status = %s, error = %s, finished_at = clock_timestamp() WHERE request_id = %s"
        " RETURNING headers, dataset_version, code_version, finished_at",
        (outcome, error, request_id),
    )
    row = await cursor.fetchone()
    if row is None:
        raise LookupError(f"there is no request {request_id}")
    event = TrainingFinished(
        request_id=request_id,
        outcome=outcome,
        dataset_version=row["dataset_version"],
        models=tuple(await _models(connection, request_id, row["dataset_version"], row["code_version"])),
        error=error,
        finished_at=row["finished_at"],
    )
    await connection.execute(
        "UPDATE training.requests SET models = %s WHERE request_id = %s",
        (Jsonb([model.model_dump(mode="json") for model in event.models]), request_id),
    )
    key = str(request_id)
    cause = Envelope.from_headers(row["headers"])
    envelope = new_envelope(TrainingFinished.EVENT_TYPE, source="trainer", subject=key, cause=cause)
    await enqueue(connection, SCHEMA, topic=TRAINING_FINISHED.name, key=key, event=event, envelope=envelope)


async def _models(
    connection: Connection, request_id: UUID, version: int | None, code_version: str
) -> list[TrainedModel]:
    if version is None:
        return []
    cursor = await connection.cursor(row_factory=dict_row).execute(
        _FITS, {"request": request_id, "dataset": version, "code": code_version}
    )
    return [
        TrainedModel(
            family=fit["family"],
            batch=fit["batch"],
            outcome=fit["status"],
            model=ModelVersion(name=model_name(fit["family"]), version=fit["model_version"], family=fit["family"])
            if fit["status"] == "done"
            else None,
            auroc=fit["auroc"],
            fit_seconds=fit["fit_seconds"],
            error=fit["error"],
        )
        for fit in await cursor.fetchall()
    ]
