"""Each way to fail has its own code, in the job, the metric, the event and the dead-letter topic."""

from __future__ import annotations

import errno
from collections.abc import Awaitable, Callable
from typing import Any
from uuid import uuid4

import psycopg
import pytest
from prometheus_client import REGISTRY
from psycopg_pool import AsyncConnectionPool
from trainer_stand_ins import done

from readmit_chassis.envelope import Envelope, new_envelope
from readmit_chassis.failures import BadMessage
from readmit_chassis.s3 import StoreUnavailable
from readmit_contracts.events import BatchReady, TrainingFailed, TrainingProgressed
from readmit_trainer.child import answer
from readmit_trainer.domain import FAMILIES, FINAL, MAX_ATTEMPTS, FailureCode, FitDone, FitFailed, FitTask, Progress
from readmit_trainer.errors import BadTrainingData, FitTimeout, FitTooLarge, ParityBroken, PartAway, WorkerDied
from readmit_trainer.handlers import on_batch_ready
from readmit_trainer.runner import Runner
from readmit_trainer.store import JobStore

Event = Callable[..., BatchReady]


def envelope() -> Envelope:
    return new_envelope(BatchReady.EVENT_TYPE, source="test", subject="1/1")


class Raises:
    """A pipeline that fails in one way."""

    def __init__(self, error: Exception) -> None:
        self.error = error

    def run(self, *_: object) -> FitDone:
        raise self.error


@pytest.mark.parametrize(
    ("error", "code", "transient"),
    [
        (PartAway("MLflow does not answer", "mlflow_away"), "mlflow_away", True),
        (PartAway("database not reachable", "database_away"), "database_away", True),
        (StoreUnavailable("S3 does not answer"), "s3_away", True),
        (OSError(errno.ENOSPC, "No space left on device"), "disk_full", True),
        (BadTrainingData("changed", "digest_mismatch"), "digest_mismatch", False),
        (BadTrainingData("one class", "one_class"), "one_class", False),
        (BadTrainingData("no column", "missing_column"), "missing_column", False),
        (ParityBroken("apart"), "parity", False),
        (ValueError("who knows"), "bug", False),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_goes_wrong_in_the_fitting_process_gets_a_code(
    error: Exception, code: str, transient: bool, make_event: Event
) -> None:
    failed = answer(Raises(error), FitTask(uuid4(), make_event(), "lightgbm", "v1"), lambda _: None)  # type: ignore[arg-type]
    assert isinstance(failed, FitFailed)
    assert (failed.code, failed.transient) == (code, transient)
    assert failed.reason


class Fails:
    """Every attempt ends in the same way."""

    def __init__(self, how: Callable[[], Awaitable[FitDone | FitFailed]]) -> None:
        self._how = how

    async def fit(self, _: FitTask, tell: Callable[[Progress], None]) -> FitDone | FitFailed:
        for progress in (Progress("reading"), Progress("searching", 0, 2), Progress("searching", 1, 2)):
            tell(progress)
        return await self._how()


def failing(failed: FitFailed | Exception) -> Fails:
    async def how() -> FitDone | FitFailed:
        if isinstance(failed, Exception):
            raise failed
        return failed

    return Fails(how)


@pytest.fixture
async def store(pool: AsyncConnectionPool) -> JobStore:
    return JobStore(pool)


async def said(pool: AsyncConnectionPool, topic: str) -> list[dict[str, Any]]:
    async with pool.connection() as connection:
        query = "SELECT payload FROM training.outbox WHERE topic = %s ORDER BY id"
        rows = await connection.execute(query, (topic,))
        return [row[0] for row in await rows.fetchall()]


async def work(pool: AsyncConnectionPool, store: JobStore, fits: Fails, attempts: int) -> None:
    for _ in range(attempts):
        async with pool.connection() as connection:
            await connection.execute("UPDATE training.jobs SET not_before = now()")
        assert await Runner(store, fits).run_one()


@pytest.mark.stack
@pytest.mark.parametrize(
    ("failed", "code", "attempts"),
    [
        (FitFailed(False, "changed", "digest_mismatch"), "digest_mismatch", 1),
        (FitFailed(False, "one class", "one_class"), "one_class", 1),
        (FitFailed(False, "who knows"), "bug", MAX_ATTEMPTS),
        (FitTooLarge("killed at 9 MB"), "memory_limit", MAX_ATTEMPTS),
        (FitTimeout("killed after 1 s"), "timeout", MAX_ATTEMPTS),
        (WorkerDied("exit code -9"), "worker_died", MAX_ATTEMPTS),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
async def test_a_job_that_is_given_up_says_why_once(
    pool: AsyncConnectionPool, store: JobStore, make_event: Event, failed: Any, code: FailureCode, attempts: int
) -> None:
    """Data that are wrong stay wrong: no second attempt."""
    before = REGISTRY.get_sample_value("training_failures_total", {"family": "lightgbm", "code": code}) or 0.0
    await store.add_jobs(make_event(), envelope(), ("lightgbm",), "v1")
    await work(pool, store, failing(failed), attempts)
    assert not await Runner(store, failing(failed)).run_one()
    [job] = await store.jobs(1)
    assert (job.status, job.error_code, job.attempts) == ("failed", code, attempts)
    [event] = await said(pool, "training.failed")
    told = TrainingFailed.model_validate(event)
    assert (told.code, told.family, told.batch, told.attempts) == (code, "lightgbm", 1, attempts)
    assert told.error == job.error
    after = REGISTRY.get_sample_value("training_failures_total", {"family": "lightgbm", "code": code})
    assert after == before + attempts
    assert (code in FINAL) == (attempts == 1)


@pytest.mark.stack
async def test_an_outage_is_no_attempt_and_no_failure(
    pool: AsyncConnectionPool, store: JobStore, make_event: Event
) -> None:
    await store.add_jobs(make_event(), envelope(), ("lightgbm",), "v1")
    await work(pool, store, failing(FitFailed(True, "MLflow does not answer", "mlflow_away")), 2 * MAX_ATTEMPTS)
    [job] = await store.jobs(1)
    assert (job.status, job.error_code, job.attempts) == ("queued", "mlflow_away", 0)
    assert await said(pool, "training.failed") == []

    async def works() -> FitDone:
        return done(FitTask(job.job_id, make_event(), "lightgbm", "v1"))

    await work(pool, store, Fails(works), 1)
    [job] = await store.jobs(1)
    assert (job.status, job.error, job.error_code) == ("done", None, None)


@pytest.mark.stack
async def test_progress_is_kept_with_the_job_and_each_stage_announced_once(
    pool: AsyncConnectionPool, store: JobStore, make_event: Event
) -> None:
    await store.add_jobs(make_event(), envelope(), ("lightgbm",), "v1")
    seen: list[tuple[str | None, int, int]] = []

    async def looks() -> FitFailed:
        while not seen or seen[-1] != ("searching", 1, 2):
            [job] = await store.jobs(1)
            seen.append((job.stage, job.stage_done, job.stage_total))
        return FitFailed(True, "away", "s3_away")

    await work(pool, store, Fails(looks), 1)
    events = [TrainingProgressed.model_validate(event) for event in await said(pool, "training.progressed")]
    assert [(event.stage, event.family, event.attempt) for event in events] == [
        ("reading", "lightgbm", 1), ("searching", "lightgbm", 1),
    ]  # fmt: skip
    assert REGISTRY.get_sample_value("training_stage", {"family": "lightgbm", "stage": "searching"}) == 0


@pytest.mark.stack
@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"batch": 9}, "batch 9 of dataset 1 is not in clean_data: ingest the source again"),
        ({"dataset_version": 7}, "batch 1 of dataset 7 is not in clean_data"),
        ({"batch_sha256": "0" * 64}, "was announced: ingest the source again"),
        ({"schema_sha256": "0" * 64}, "bring ingestor and trainer to one release"),
    ],
)
async def test_a_batch_that_can_never_be_trained_on_is_refused_with_the_next_step(
    store: JobStore, make_event: Event, changes: dict[str, Any], reason: str
) -> None:
    with pytest.raises(BadMessage, match=reason):
        await on_batch_ready(store, FAMILIES, "v1", lambda: None)(make_event(1, **changes), envelope())
    assert await store.jobs(None) == []


@pytest.mark.stack
async def test_batches_of_one_class_alone_are_refused(server: str, store: JobStore, make_event: Event) -> None:
    change = "UPDATE clean_data.batch_info SET positives = {} WHERE batch_id = 1"
    with psycopg.connect(server, autocommit=True) as connection:
        row = connection.execute("SELECT positives FROM clean_data.batch_info WHERE batch_id = 1").fetchone()
        assert row is not None
        connection.execute(change.format(0).encode())
        try:
            with pytest.raises(BadMessage, match="nothing can be learned from one class alone"):
                await on_batch_ready(store, FAMILIES, "v1", lambda: None)(make_event(1), envelope())
            await on_batch_ready(store, FAMILIES, "v1", lambda: None)(make_event(2), envelope())  # batch 2 has both
        finally:
            connection.execute(change.format(row[0]).encode())
    assert {job.batch for job in await store.jobs(None)} == {2}
