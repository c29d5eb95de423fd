"""The SQL of schema `training`: jobs, their leases, and the transaction that ends one."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any
from uuid import UUID, uuid4

from psycopg import AsyncConnection
from psycopg.rows import class_row, dict_row
from psycopg.types.json import Jsonb
from psycopg_pool import AsyncConnectionPool

from readmit_chassis.envelope import Envelope, new_envelope
from readmit_chassis.inbox import first_time
from readmit_chassis.outbox import enqueue
from readmit_contracts.events import (
    MODEL_STREAM,
    BatchReady,
    Event,
    ModelRegistered,
    TrainingFailed,
    TrainingProgressed,
)
from readmit_contracts.topics import MODEL_REGISTERED, TRAINING_FAILED, TRAINING_PROGRESSED
from readmit_trainer.domain import (
    FAMILIES,
    MAX_ATTEMPTS,
    FamilyName,
    FitDone,
    FitFailed,
    FitTask,
    Progress,
    consumer_group,
)
from readmit_trainer.trainings import SCHEMA, end_requests, lock_jobs


@dataclass(frozen=True, slots=True)
class Lease:
    """The right to work on one job, until it expires or another token takes its place."""

    token: UUID
    task: FitTask
    attempts: int
    headers: dict[str, str]


@dataclass(frozen=True, slots=True)
class Job:
    """One job, as `GET /jobs` shows it."""

    job_id: UUID
    request_id: UUID | None
    dataset_version: int
    batch: int
    family: str
    status: str
    stage: str | None
    stage_done: int
    stage_total: int
    attempts: int
    fit_seconds: float | None
    auroc: float | None
    model_version: str | None
    error: str | None
    error_code: str | None
    started_at: datetime | None
    finished_at: datetime | None


@dataclass(frozen=True, slots=True)
class Announced:
    """A committed batch: its digest, the schema that cleaned it, rows and positives of all batches up to it."""

    sha256: str
    schema_sha256: str
    rows: int
    positives: int


class JobStore:
    """Every method is one transaction. Raises psycopg.OperationalError while the database is away."""

    def __init__(
        self,
        pool: AsyncConnectionPool[AsyncConnection[Any]],
        lease_s: float = 20.0,
        *,
        families: Sequence[FamilyName] = FAMILIES,
        skip_superseded: bool = False,
        in_order: Collection[FamilyName] = (),
    ) -> None:
        """`families`: those whose jobs are worked on here. `skip_superseded`: leave out what a newer batch replaces.

        `in_order`: families whose batches wait for one another, since each goes on from the one before.
        """
        self._pool = pool
        self._lease_s = lease_s
        self._families = list(families)
        self._skip_superseded = skip_superseded
        self._in_order = list(in_order)

    async def add_jobs(
        self, event: BatchReady, envelope: Envelope, families: tuple[FamilyName, ...], code_version: str
    ) -> int:
        """One job per family, once, however often the event comes. Returns how many are new."""
        async with self._pool.connection() as connection:
            if not await first_time(connection, SCHEMA, consumer_group(families), envelope.id):
                return 0
            await lock_jobs(connection)
            cursor = await connection.execute(
                "INSERT INTO training.jobs (dataset_version, batch, family, family_rank, code_version, event, headers)"
                " SELECT %s, %s, family, rank, %s, %s, %s"
                " FROM unnest(%s::text[], %s::int[]) AS wanted (family, rank)"
                " ON CONFLICT (dataset_version, batch, family, code_version, request_id) DO NOTHING",
                (
                    event.dataset_version, event.batch, code_version, Jsonb(event.model_dump(mode="json")),
                    Jsonb(envelope.headers()), list(families), [FAMILIES.index(family) for family in families],
                ),
            )  # fmt: skip
            return cursor.rowcount

    async def announced(self, event: BatchReady) -> Announced | None:
        """What the ingestor committed of the event's batch; None: there is no such batch."""
        async with self._pool.connection() as connection:
            cursor = await connection.cursor(row_factory=class_row(Announced)).execute(
                "SELECT b.sha256, d.schema_sha256, past.rows, past.positives FROM clean_data.batch_info AS b"
                " JOIN clean_data.datasets AS d ON d.version = b.dataset_version,"
                " LATERAL (SELECT sum(rows)::bigint AS rows, sum(positives)::bigint AS positives"
                "   FROM clean_data.batch_info AS p"
                "   WHERE p.dataset_version = b.dataset_version AND p.batch_id <= b.batch_id) AS past"
                " WHERE b.dataset_version = %s AND b.batch_id = %s",
                (event.dataset_version, event.batch),
            )
            return await cursor.fetchone()

    async def give_up_abandoned(self) -> list[str]:
        """Fail the jobs whose last allowed attempt died without a word. Returns their families."""
        async with self._pool.connection() as connection:
            cursor = await connection.execute(
                "UPDATE training.jobs SET status = 'failed', finished_at = now(), lease_token = NULL,"
                " error = 'the trainer died in each of ' || attempts || ' attempts', error_code = 'worker_died'"
                " WHERE job_id IN (SELECT job_id FROM training.jobs"
                "   WHERE status = 'running' AND lease_until < now() AND attempts >= %s FOR UPDATE SKIP LOCKED)"
                " RETURNING job_id, family",
                (MAX_ATTEMPTS,),
            )
            abandoned = await cursor.fetchall()
            for job_id, _ in abandoned:
                await _announce_failure(connection, job_id)
            if abandoned:
                await end_requests(connection, [row[0] for row in abandoned])
            return [str(row[1]) for row in abandoned]

    async def supersede(self) -> list[tuple[str, int]]:
        """Where that is the policy, end the queued jobs that a newer batch makes needless: their family and batch.

        Needless: the same family and code have a job of a later batch of the same dataset version, which did not fail;
        it stands on the same rows and more.
        """
        if not self._skip_superseded:
            return []
        async with self._pool.connection() as connection:
            cursor = await connection.execute(
                "UPDATE training.jobs SET status = 'superseded', finished_at = now() WHERE job_id IN"
                " (SELECT old.job_id FROM training.jobs AS old WHERE old.status = 'queued' AND old.request_id IS NULL"
                "   AND old.family = ANY(%s) AND EXISTS (SELECT FROM training.jobs AS new"
                "     WHERE (new.dataset_version, new.family, new.code_version)"
                "       = (old.dataset_version, old.family, old.code_version)"
                "     AND new.batch > old.batch AND new.status IN ('queued', 'running', 'done'))"
                "   FOR UPDATE OF old SKIP LOCKED) RETURNING job_id, family, batch",
                (self._families,),
            )
            ended = await cursor.fetchall()
            if ended:
                await end_requests(connection, [row[0] for row in ended])
            return [(str(family), int(batch)) for _, family, batch in ended]

    async def lease(self) -> Lease | None:
        """Take the first open job, in the order of batches, then of families; None when there is nothing to do."""
        token = uuid4()
        async with self._pool.connection() as connection:
            cursor = await connection.cursor(row_factory=dict_row).execute(
                "UPDATE training.jobs SET status = 'running', attempts = attempts + 1, started_at = now(),"
                " stage = NULL, stage_done = 0, stage_total = 0,"
                " lease_token = %(token)s, lease_until = now() + %(lease_s)s * interval '1 second'"
                " WHERE job_id = (SELECT job_id FROM training.jobs AS job WHERE family = ANY(%(families)s)"
                "   AND ((status = 'queued' AND not_before <= now())"
                "      OR (status = 'running' AND lease_until < now() AND attempts < %(max)s))"
                "   AND NOT (family = ANY(%(in_order)s) AND EXISTS (SELECT FROM training.jobs AS earlier"
                "     WHERE (earlier.dataset_version, earlier.family, earlier.code_version)"
                "       = (job.dataset_version, job.family, job.code_version)"
                "     AND earlier.batch < job.batch AND earlier.status IN ('queued', 'running')))"
                "   ORDER BY dataset_version, batch, family_rank FOR UPDATE SKIP LOCKED LIMIT 1)"
                " RETURNING job_id, family, code_version, event, headers, attempts, request_id",
                {
                    "token": token, "lease_s": self._lease_s, "max": MAX_ATTEMPTS, "families": self._families,
                    "in_order": self._in_order,
                },
            )  # fmt: skip
            row = await cursor.fetchone()
        if row is None:
            return None
        batch = BatchReady.model_validate(row["event"])
        task = FitTask(row["job_id"], batch, row["family"], row["code_version"], row["request_id"])
        return Lease(token, task, row["attempts"], row["headers"])

    async def extend(self, lease: Lease) -> bool:
        """Heartbeat. False: the lease is lost."""
        async with self._pool.connection() as connection:
            return await self._update(connection, lease, "lease_until = now() + %(lease_s)s * interval '1 second'")

    async def progress(self, lease: Lease, progress: Progress) -> None:
        """Keep how far the attempt is; a new stage is announced. Nothing happens when the lease is lost."""
        async with self._pool.connection() as connection:
            cursor = await connection.execute(
                "UPDATE training.jobs AS job SET stage = %(stage)s, stage_done = %(done)s, stage_total = %(total)s"
                " FROM (SELECT job_id, stage FROM training.jobs WHERE job_id = %(job_id)s FOR UPDATE) AS before"
                " WHERE job.job_id = before.job_id AND lease_token = %(token)s AND status = 'running'"
                " RETURNING before.stage",
                {
                    "stage": progress.stage, "done": progress.done, "total": progress.total,
                    "job_id": lease.task.job_id, "token": lease.token,
                },
            )  # fmt: skip
            row = await cursor.fetchone()
            if row is None or row[0] == progress.stage:
                return
            batch = lease.task.batch
            event = TrainingProgressed(
                dataset_version=batch.dataset_version, batch=batch.batch, family=lease.task.family,
                stage=progress.stage, attempt=lease.attempts, at=datetime.now(UTC),
            )  # fmt: skip
            await _announce(connection, TRAINING_PROGRESSED.name, event, batch.dataset_version, lease.headers)

    async def release(self, lease: Lease, failed: FitFailed, pause_s: float, *, counts: bool) -> bool:
        """Back into the queue for another attempt after a pause; this one counts or not."""
        async with self._pool.connection() as connection:
            return await self._update(
                connection,
                lease,
                "status = 'queued', lease_token = NULL, error = %(error)s, error_code = %(code)s,"
                " attempts = attempts - %(uncounted)s, not_before = now() + %(pause_s)s * interval '1 second'",
                {"error": failed.reason, "code": failed.code, "pause_s": pause_s, "uncounted": 0 if counts else 1},
            )

    async def give_up(self, lease: Lease, failed: FitFailed) -> bool:
        """No further attempt; the failure and its `training.failed` are one transaction."""
        async with self._pool.connection() as connection:
            given_up = await self._update(
                connection,
                lease,
                "status = 'failed', lease_token = NULL, error = %(error)s, error_code = %(code)s, finished_at = now()",
                {"error": failed.reason, "code": failed.code},
            )
            if given_up:
                await _announce_failure(connection, lease.task.job_id)
                await end_requests(connection, [lease.task.job_id])
            return given_up

    async def finish(self, lease: Lease, done: FitDone) -> bool:
        """The job's result and its `model.registered`, in one transaction; False, and neither, if the lease is lost."""
        event = done.registered
        async with self._pool.connection() as connection:
            finished = await connection.execute(
                "UPDATE training.jobs SET status = 'done', lease_token = NULL, error = NULL, error_code = NULL,"
                " finished_at = now(),"
                " fit_seconds = %(seconds)s, auroc = %(auroc)s, model_version = %(version)s, bundle = %(bundle)s"
                " WHERE job_id = %(job_id)s AND lease_token = %(token)s AND status = 'running'",
                {
                    "seconds": done.fit_seconds, "auroc": event.validation.auroc, "version": event.model.version,
                    "bundle": Jsonb(event.bundle.model_dump(mode="json")), "job_id": lease.task.job_id,
                    "token": lease.token,
                },
            )  # fmt: skip
            if finished.rowcount == 0:
                return False
            envelope = new_envelope(
                ModelRegistered.EVENT_TYPE,
                source="trainer",
                subject=f"{event.model.name}/{event.model.version}",
                cause=Envelope.from_headers(lease.headers),
            )
            await enqueue(
                connection, SCHEMA, topic=MODEL_REGISTERED.name, key=MODEL_STREAM, event=event, envelope=envelope
            )
            await end_requests(connection, [lease.task.job_id])
        return True

    async def jobs(self, dataset_version: int | None) -> list[Job]:
        """All jobs, or those of one dataset version, in working order."""
        async with self._pool.connection() as connection:
            cursor = await connection.cursor(row_factory=class_row(Job)).execute(
                "SELECT job_id, request_id, dataset_version, batch, family, status, stage, stage_done, stage_total,"
                " attempts, fit_seconds, auroc, model_version, error, error_code, started_at, finished_at"
                " FROM training.jobs"
                " WHERE dataset_version = %(version)s OR %(version)s::int IS NULL"
                " ORDER BY dataset_version, batch, family_rank, created_at",
                {"version": dataset_version},
            )
            return await cursor.fetchall()

    async def newest_fits(self) -> list[tuple[str, float, datetime]]:
        """Family, validation AUROC and end of each family's newest fit."""
        async with self._pool.connection() as connection:
            cursor = await connection.execute(
                "SELECT DISTINCT ON (family) family, auroc, finished_at FROM training.jobs WHERE status = 'done'"
                " ORDER BY family, finished_at DESC"
            )
            return [(str(family), float(auroc), ended) for family, auroc, ended in await cursor.fetchall()]

    async def count_waiting(self) -> int:
        """Jobs that are queued or running."""
        async with self._pool.connection() as connection:
            cursor = await connection.execute(
                "SELECT count(*) FROM training.jobs WHERE status IN ('queued', 'running')"
            )
            row = await cursor.fetchone()
        return int(row[0]) if row else 0

    async def _update(
        self, connection: AsyncConnection[Any], lease: Lease, assignments: str, values: dict[str, Any] | None = None
    ) -> bool:
        parameters = {"job_id": lease.task.job_id, "token": lease.token, "lease_s": self._lease_s, **(values or {})}
        query = (
            f"UPDATE training.jobs SET {assignments}"  # noqa: S608  our own literals
            " WHERE job_id = %(job_id)s AND lease_token = %(token)s AND status = 'running'"
        )
        cursor = await connection.execute(query.encode(), parameters)
        return cursor.rowcount == 1


async def _announce_failure(connection: AsyncConnection[Any], job_id: UUID) -> None:
    """`training.failed` of a job that has just been given up."""
    cursor = await connection.cursor(row_factory=dict_row).execute(
        "SELECT dataset_version, batch, family, error_code AS code, error, attempts, code_version,"
        " finished_at AS failed_at, headers FROM training.jobs WHERE job_id = %s",
        (job_id,),
    )
    row = await cursor.fetchone()
    if row is None:
        raise LookupError(f"there is no job {job_id}")
    headers = row.pop("headers")
    event = TrainingFailed.model_validate(row)
    await _announce(connection, TRAINING_FAILED.name, event, event.dataset_version, headers)


async def _announce(
    connection: AsyncConnection[Any], topic: str, event: Event, dataset_version: int, headers: Mapping[str, str]
) -> None:
    key = str(dataset_version)
    cause = Envelope.from_headers(dict(headers))
    envelope = new_envelope(event.EVENT_TYPE, source="trainer", subject=key, cause=cause)
    await enqueue(connection, SCHEMA, topic=topic, key=key, event=event, envelope=envelope)
