"""Jobs, leases and the loop that works on them, on a real PostgreSQL with a scripted fit."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from uuid import UUID

import psycopg
import pytest
from psycopg_pool import AsyncConnectionPool
from trainer_stand_ins import done, is_killed_the_first_time

from readmit_chassis.envelope import Envelope, new_envelope
from readmit_chassis.failures import Transient
from readmit_contracts.events import MODEL_STREAM, BatchReady
from readmit_trainer.domain import FAMILIES, MAX_ATTEMPTS, FitDone, FitFailed, FitTask, Progress
from readmit_trainer.errors import WorkerDied
from readmit_trainer.handlers import on_batch_ready
from readmit_trainer.runner import Runner
from readmit_trainer.settings import Settings
from readmit_trainer.store import JobStore
from readmit_trainer.worker import Worker

pytestmark = pytest.mark.stack
Event = Callable[..., BatchReady]
Result = FitDone | FitFailed


def envelope() -> Envelope:
    return new_envelope(BatchReady.EVENT_TYPE, source="test", subject="1/1")


class ScriptedFits:
    """Does with each task what the script's next entry says; remembers the tasks."""

    def __init__(self, *script: Callable[[FitTask], Awaitable[Result]]) -> None:
        self.script = list(script)
        self.tasks: list[FitTask] = []

    async def fit(self, task: FitTask, tell: Callable[[Progress], None]) -> Result:
        self.tasks.append(task)
        tell(Progress("fitting"))
        return await self.script.pop(0)(task) if self.script else done(task)


async def dies(task: FitTask) -> Result:
    raise WorkerDied("the fitting process ended with exit code -9")


async def finds_a_part_away(task: FitTask) -> Result:
    return FitFailed(transient=True, reason="MLflow does not answer")


async def never_ends(task: FitTask) -> Result:
    await asyncio.Event().wait()
    raise AssertionError


@pytest.fixture
async def store(pool: AsyncConnectionPool) -> JobStore:
    return JobStore(pool)


async def forget_pauses(pool: AsyncConnectionPool) -> None:
    async with pool.connection() as connection:
        await connection.execute("UPDATE training.jobs SET not_before = now()")


async def expire_leases(pool: AsyncConnectionPool) -> None:
    async with pool.connection() as connection:
        await connection.execute("UPDATE training.jobs SET lease_until = now() - interval '1 second'")


async def outbox(pool: AsyncConnectionPool) -> list[tuple[str, str, str]]:
    async with pool.connection() as connection:
        rows = await connection.execute(
            "SELECT topic, key, headers->>'traceparent' FROM training.outbox"
            " WHERE topic <> 'training.progressed' ORDER BY id"
        )
        return [(str(a), str(b), str(c)) for a, b, c in await rows.fetchall()]


@asynccontextmanager
async def running(runner: Runner) -> AsyncIterator[None]:
    task = asyncio.create_task(runner.run())
    try:
        yield
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def until(condition: Callable[[], Awaitable[bool]]) -> None:
    async with asyncio.timeout(20):
        while not await condition():  # noqa: ASYNC110  the condition is in the database
            await asyncio.sleep(0.02)


async def test_one_job_per_family_however_often_the_batch_is_announced(store: JobStore, make_event: Event) -> None:
    handle, first = on_batch_ready(store, FAMILIES, "v1", lambda: None), envelope()
    await handle(make_event(), first)
    await handle(make_event(), first)  # redelivered
    await handle(make_event(), envelope())  # announced again
    await asyncio.gather(*(handle(make_event(2), envelope()) for _ in range(4)))
    assert [(job.batch, job.family) for job in await store.jobs(1)] == [(b, f) for b in (1, 2) for f in FAMILIES]
    assert await store.jobs(2) == []


async def test_new_code_makes_new_jobs_of_a_batch(store: JobStore, make_event: Event) -> None:
    assert await store.add_jobs(make_event(), envelope(), ("lightgbm",), "v1") == 1
    assert await store.add_jobs(make_event(), envelope(), ("lightgbm",), "v2") == 1


async def test_jobs_are_leased_in_the_order_of_batches_then_families_and_never_twice(
    store: JobStore, make_event: Event
) -> None:
    await store.add_jobs(make_event(2), envelope(), FAMILIES, "v1")
    await store.add_jobs(make_event(1), envelope(), FAMILIES, "v1")
    leases = [await store.lease() for _ in range(7)]
    tasks = [(lease.task.batch.batch, lease.task.family) for lease in leases if lease]
    assert tasks == [(b, f) for b in (1, 2) for f in FAMILIES]
    assert leases[6] is None


async def test_a_finished_job_and_its_event_are_one_transaction_in_the_trace_of_the_batch(
    pool: AsyncConnectionPool, store: JobStore, make_event: Event
) -> None:
    cause = envelope()
    await store.add_jobs(make_event(), cause, FAMILIES, "v1")
    fits = ScriptedFits()
    runner = Runner(store, fits)
    while await runner.run_one():
        pass
    sent = await outbox(pool)
    assert [(topic, key) for topic, key, _ in sent] == [("model.registered", MODEL_STREAM)] * 3
    assert {trace.split("-")[1] for _, _, trace in sent} == {cause.traceparent.split("-")[1]}
    jobs = await store.jobs(None)
    assert {(job.status, job.attempts, job.auroc, job.model_version, job.error) for job in jobs} == {
        ("done", 1, 0.66, "1", None)
    }


async def test_a_fit_whose_process_died_is_tried_again_and_gives_one_result(
    pool: AsyncConnectionPool, store: JobStore, make_event: Event
) -> None:
    await store.add_jobs(make_event(), envelope(), ("lightgbm",), "v1")
    runner = Runner(store, ScriptedFits(dies))
    assert await runner.run_one()
    [job] = await store.jobs(None)
    assert (job.status, job.attempts) == ("queued", 1)
    assert "exit code -9" in (job.error or "")
    assert not await runner.run_one()  # it rests a moment
    await forget_pauses(pool)
    assert await runner.run_one()
    [job] = await store.jobs(None)
    assert (job.status, job.attempts, job.error) == ("done", 2, None)
    assert len(await outbox(pool)) == 1


async def test_a_process_killed_in_mid_fit_costs_one_attempt_and_leaves_one_result(
    pool: AsyncConnectionPool, store: JobStore, make_event: Event, settings: Settings, tmp_path: Path
) -> None:
    await store.add_jobs(make_event(), envelope(), ("lightgbm",), "v1")
    remembers = settings.model_copy(update={"bucket": str(tmp_path / "killed")})
    worker = Worker(remembers, is_killed_the_first_time)
    try:
        for _ in range(2):
            await forget_pauses(pool)
            assert await Runner(store, worker).run_one()
    finally:
        worker.stop()
    [job] = await store.jobs(None)
    assert (job.status, job.attempts) == ("done", 2)
    assert len(await outbox(pool)) == 1


async def test_after_the_last_attempt_a_job_has_failed_and_the_others_go_on(
    pool: AsyncConnectionPool, store: JobStore, make_event: Event
) -> None:
    await store.add_jobs(make_event(), envelope(), ("lightgbm", "decision_tree"), "v1")
    runner = Runner(store, ScriptedFits(*[dies] * MAX_ATTEMPTS))
    for _ in range(MAX_ATTEMPTS + 1):
        await forget_pauses(pool)
        assert await runner.run_one()
    assert [(job.status, job.attempts) for job in await store.jobs(None)] == [("failed", MAX_ATTEMPTS), ("done", 1)]
    assert not await runner.run_one()


async def test_an_attempt_that_found_a_part_away_does_not_count(
    pool: AsyncConnectionPool, store: JobStore, make_event: Event
) -> None:
    await store.add_jobs(make_event(), envelope(), ("lightgbm",), "v1")
    runner = Runner(store, ScriptedFits(*[finds_a_part_away] * (MAX_ATTEMPTS + 2)))
    for _ in range(MAX_ATTEMPTS + 3):
        await forget_pauses(pool)
        assert await runner.run_one()
    [job] = await store.jobs(None)
    assert (job.status, job.attempts) == ("done", 1)


async def test_an_expired_lease_passes_on_and_its_old_holder_changes_nothing_any_more(
    pool: AsyncConnectionPool, store: JobStore, make_event: Event
) -> None:
    await store.add_jobs(make_event(), envelope(), ("lightgbm",), "v1")
    old = await store.lease()
    assert old is not None
    assert await store.extend(old)
    await expire_leases(pool)
    new = await store.lease()
    assert new is not None
    assert (new.task.job_id, new.attempts) == (old.task.job_id, 2)
    assert not await store.extend(old)
    assert not await store.finish(old, done(old.task))
    assert not await store.release(old, FitFailed(False, "late"), 0.0, counts=True)
    assert not await store.give_up(old, FitFailed(False, "late"))
    assert await outbox(pool) == []
    assert await store.finish(new, done(new.task))
    assert len(await outbox(pool)) == 1


async def test_a_job_whose_trainer_died_in_every_attempt_has_failed(
    pool: AsyncConnectionPool, store: JobStore, make_event: Event
) -> None:
    await store.add_jobs(make_event(), envelope(), ("lightgbm",), "v1")
    for _ in range(MAX_ATTEMPTS):
        assert await store.lease() is not None
        await expire_leases(pool)
    assert not await Runner(store, ScriptedFits()).run_one()
    [job] = await store.jobs(None)
    assert job.status == "failed"
    assert "died in each of 3" in (job.error or "")


async def test_the_heart_beats_through_a_fit_longer_than_the_lease(
    pool: AsyncConnectionPool, make_event: Event
) -> None:
    store = JobStore(pool, lease_s=0.5)
    await store.add_jobs(make_event(), envelope(), ("lightgbm",), "v1")
    extended: list[bool] = []

    async def waits_for_two_leases(task: FitTask) -> Result:
        started = asyncio.get_running_loop().time()

        async def long_enough() -> bool:
            extended.append(await store.lease() is None)
            return asyncio.get_running_loop().time() - started > 1.2

        await until(long_enough)
        return done(task)

    assert await Runner(store, ScriptedFits(waits_for_two_leases), heartbeat_s=0.1).run_one()
    assert all(extended)
    [job] = await store.jobs(None)
    assert (job.status, job.attempts) == ("done", 1)


async def test_a_lost_lease_stops_the_fit(pool: AsyncConnectionPool, store: JobStore, make_event: Event) -> None:
    await store.add_jobs(make_event(), envelope(), ("lightgbm",), "v1")
    fits = ScriptedFits(never_ends)
    work = asyncio.create_task(Runner(store, fits, heartbeat_s=0.02).run_one())

    async def started() -> bool:
        return bool(fits.tasks)

    await until(started)
    await expire_leases(pool)
    other: list[UUID] = []
    async with asyncio.timeout(20):
        while not other:
            lease = await store.lease()
            other += [lease.token] if lease else []
            await expire_leases(pool) if not lease else None
        await work
    assert await outbox(pool) == []


async def test_new_jobs_are_begun_at_once(store: JobStore, make_event: Event) -> None:
    runner = Runner(store, ScriptedFits(), idle_poll_s=3600)
    async with running(runner):
        await on_batch_ready(store, FAMILIES, "v1", runner.wake)(make_event(), envelope())

        async def all_done() -> bool:
            return [job.status for job in await store.jobs(None)] == ["done"] * 3

        await until(all_done)


async def test_a_database_that_is_away_makes_the_event_wait(make_event: Event) -> None:
    async def refuse(*_: object) -> int:
        raise psycopg.OperationalError("away")

    nowhere = AsyncConnectionPool("host=127.0.0.1 port=1", open=False)
    store = JobStore(nowhere)
    store.announced = refuse  # type: ignore[method-assign, assignment]  # an outage
    with pytest.raises(Transient, match="away"):
        await on_batch_ready(store, FAMILIES, "v1", lambda: None)(make_event(), envelope())
