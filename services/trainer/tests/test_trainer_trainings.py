"""Requests for training on a real PostgreSQL: one effect, one end, whatever is delivered twice, dies or races."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import UTC, datetime
from typing import Any
from uuid import UUID, uuid4

import httpx
import psycopg
import pytest
from fastapi import FastAPI
from psycopg_pool import AsyncConnectionPool
from trainer_stand_ins import done

from readmit_chassis.envelope import Envelope, new_envelope
from readmit_chassis.failures import BadMessage, Transient
from readmit_chassis.migrations import apply_migrations
from readmit_contracts.events import BatchReady, Event, TrainingFinished, TrainingRequested
from readmit_contracts.examples import EXAMPLES
from readmit_trainer.domain import FAMILIES, MAX_ATTEMPTS, FitDone, FitFailed, FitTask, Progress
from readmit_trainer.handlers import AskForTraining, on_batch_ready, on_training_requested, trainings_router
from readmit_trainer.runner import Runner
from readmit_trainer.store import JobStore
from readmit_trainer.trainings import TrainingStore

pytestmark = pytest.mark.stack

MakeBatch = Callable[..., BatchReady]
BATCHES = 3


def asked(**changes: Any) -> TrainingRequested:
    fields: dict[str, Any] = {
        "request_id": uuid4(), "reason": "weekly", "requested_by": "test", "requested_at": datetime.now(UTC),
    }  # fmt: skip
    return TrainingRequested.model_validate({**fields, **changes})


def envelope(event_type: str = TrainingRequested.EVENT_TYPE) -> Envelope:
    return new_envelope(event_type, source="test", subject="any")


class Fits:
    """Fits at once, but for the families that are to fail; remembers the tasks."""

    def __init__(self, *failing: str) -> None:
        self.failing = failing
        self.tasks: list[FitTask] = []

    async def fit(self, task: FitTask, tell: Callable[[Progress], None]) -> FitDone | FitFailed:
        tell(Progress("fitting"))
        self.tasks.append(task)
        return FitFailed(transient=False, reason="out of memory") if task.family in self.failing else done(task)


@pytest.fixture
async def store(pool: AsyncConnectionPool) -> JobStore:
    return JobStore(pool)


@pytest.fixture
async def trainings(pool: AsyncConnectionPool) -> TrainingStore:
    return TrainingStore(pool)


@pytest.fixture
async def ask(trainings: TrainingStore) -> AskForTraining:
    return on_training_requested(trainings, FAMILIES, "v1", lambda: None)


async def rows(pool: AsyncConnectionPool, query: str) -> list[tuple[Any, ...]]:
    async with pool.connection() as connection:
        return await (await connection.execute(query.encode())).fetchall()


async def script(pool: AsyncConnectionPool, *statements: str) -> None:
    async with pool.connection() as connection:
        for statement in statements:
            await connection.execute(statement.encode())


async def finished(pool: AsyncConnectionPool) -> list[TrainingFinished]:
    found = await rows(pool, "SELECT payload FROM training.outbox WHERE topic = 'training.finished' ORDER BY id")
    return [TrainingFinished.model_validate(payload) for (payload,) in found]


async def work_off(pool: AsyncConnectionPool, fits: Fits) -> None:
    """Run every job to its end, retries without their pauses."""
    runner = Runner(JobStore(pool), fits)
    while await runner.run_one():
        await script(pool, "UPDATE training.jobs SET not_before = now()")


async def train_batches(pool: AsyncConnectionPool, make_event: MakeBatch, fits: Fits, batches: int = BATCHES) -> None:
    """What `batch.ready` gives rise to, to its end."""
    for number in range(1, batches + 1):
        await JobStore(pool).add_jobs(make_event(number), envelope(BatchReady.EVENT_TYPE), FAMILIES, "v1")
    await work_off(pool, fits)


async def until_waiting(pool: AsyncConnectionPool, sessions: int) -> None:
    """Return once so many sessions wait for a lock."""
    query = "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock'"
    async with asyncio.timeout(20):
        while await rows(pool, query) != [(sessions,)]:  # noqa: ASYNC110  the condition is in the database
            await asyncio.sleep(0.02)


async def test_every_example_of_both_events_that_the_trainer_reads_has_its_effect_once(
    pool: AsyncConnectionPool, store: JobStore, ask: AskForTraining, make_event: Callable[..., BatchReady]
) -> None:
    handlers: dict[type[Event], Callable[[Any, Envelope], Awaitable[None]]] = {
        BatchReady: on_batch_ready(store, FAMILIES, "v1", lambda: None),
        TrainingRequested: ask,
    }
    examples = [example for example in EXAMPLES if type(example) in handlers]
    assert {type(example) for example in examples} == set(handlers)
    for example in examples:
        read, cause = type(example).model_validate_json(example.model_dump_json()), envelope(example.EVENT_TYPE)
        if isinstance(read, BatchReady):  # of this server's data
            there = {name: getattr(make_event(1), name) for name in ("batch", "batch_sha256", "schema_sha256")}
            read = read.model_copy(update=there)
        for _ in range(2):
            await handlers[type(read)](read, cause)
    jobs = [(job.batch, job.family, job.request_id is not None) for job in await store.jobs(1)]
    assert sorted(jobs) == sorted(
        [
            *((BATCHES, family, True) for family in FAMILIES),  # forced
            *((1, family, False) for family in FAMILIES),
        ]
    )


async def test_a_request_is_one_effect_and_one_end_however_often_it_is_delivered(
    pool: AsyncConnectionPool, trainings: TrainingStore, ask: AskForTraining
) -> None:
    """Redelivered, delivered to two replicas at once, published again, and heard once more after its end."""
    event, cause = asked(force=True), envelope()
    await asyncio.gather(*(ask(event, cause) for _ in range(3)), ask(event, envelope()))
    fits = Fits()
    await work_off(pool, fits)
    await ask(event, cause)
    await ask(event, envelope())
    assert len(fits.tasks) == len(FAMILIES)
    [end] = await finished(pool)
    assert (end.request_id, end.outcome) == (event.request_id, "done")
    assert len(await trainings.trainings()) == 1
    assert not await Runner(JobStore(pool), fits).run_one()


async def test_what_is_missing_is_trained_and_the_end_is_announced_in_the_trace_of_the_request(
    pool: AsyncConnectionPool, trainings: TrainingStore, ask: AskForTraining, make_event: MakeBatch
) -> None:
    """The events of batches 2 and 3 never came: their facts are read where the ingestor committed them."""
    await train_batches(pool, make_event, Fits(), batches=1)
    event, cause, fits = asked(), envelope(), Fits()
    await ask(event, cause)
    shown = await trainings.training(event.request_id)
    assert shown is not None
    assert (shown.status, shown.fits_total, shown.fits_ended, shown.models) == ("running", 6, 0, [])
    await work_off(pool, fits)
    assert [(task.batch.batch, task.family) for task in fits.tasks] == [(b, f) for b in (2, 3) for f in FAMILIES]
    assert fits.tasks[0].batch.batch_sha256 == make_event(2).batch_sha256
    assert {task.batch.content_sha256 for task in fits.tasks} == {"c" * 64}
    [end] = await finished(pool)
    assert (end.outcome, end.dataset_version, end.error) == ("done", 1, None)
    assert [(m.batch, m.family, m.outcome, m.auroc) for m in end.models] == [
        (batch, family, "done", 0.66) for batch in (1, 2, 3) for family in FAMILIES
    ]
    assert end.models[0].model is not None
    assert (end.models[0].model.name, end.models[0].model.version) == ("diabetes_readmission_lightgbm", "1")
    sent = await rows(pool, "SELECT topic, key, headers->>'traceparent' FROM training.outbox ORDER BY id")
    assert sent[-1][:2] == ("training.finished", str(event.request_id))
    assert {trace.split("-")[1] for _, _, trace in sent[len(FAMILIES) :]} == {cause.traceparent.split("-")[1]}
    shown = await trainings.training(event.request_id)
    assert shown is not None
    assert (shown.status, shown.fits_ended, shown.finished_at) == ("done", 6, end.finished_at)
    assert shown.models == [model.model_dump(mode="json") for model in end.models]


async def test_when_nothing_is_missing_it_ends_at_once_as_unchanged_with_the_figures_that_are_there(
    pool: AsyncConnectionPool, ask: AskForTraining, make_event: MakeBatch
) -> None:
    await train_batches(pool, make_event, Fits())
    await ask(asked(dataset_version=1), envelope())
    [end] = await finished(pool)
    assert (end.outcome, end.dataset_version, end.error) == ("unchanged", 1, None)
    assert len(end.models) == BATCHES * len(FAMILIES)
    assert {(model.outcome, model.fit_seconds) for model in end.models} == {("done", 1.5)}
    assert not await Runner(JobStore(pool), Fits()).run_one()


async def test_new_code_finds_everything_missing(
    pool: AsyncConnectionPool, trainings: TrainingStore, make_event: MakeBatch
) -> None:
    await train_batches(pool, make_event, Fits())
    await on_training_requested(trainings, FAMILIES, "v2", lambda: None)(asked(), envelope())
    fits = Fits()
    await work_off(pool, fits)
    assert len(fits.tasks) == BATCHES * len(FAMILIES)
    [end] = await finished(pool)
    assert end.outcome == "done"


async def test_forced_the_last_batch_is_trained_again_beside_what_is_there(
    pool: AsyncConnectionPool, store: JobStore, ask: AskForTraining, make_event: MakeBatch
) -> None:
    await train_batches(pool, make_event, Fits())
    first, second, fits = asked(force=True), asked(force=True), Fits()
    for event in (first, second):
        await ask(event, envelope())
        await work_off(pool, fits)
    assert [(t.batch.batch, t.family, t.request_id) for t in fits.tasks] == [
        (BATCHES, family, event.request_id) for event in (first, second) for family in FAMILIES
    ]
    jobs = await store.jobs(1)
    assert len({job.job_id for job in jobs}) == len(jobs) == (BATCHES + 2) * len(FAMILIES)
    assert [(end.request_id, end.outcome) for end in await finished(pool)] == [
        (first.request_id, "done"), (second.request_id, "done"),
    ]  # fmt: skip


async def test_a_fit_that_is_given_up_makes_the_request_fail_with_its_reason_once_all_have_ended(
    pool: AsyncConnectionPool, ask: AskForTraining
) -> None:
    await ask(asked(force=True), envelope())
    await work_off(pool, Fits("decision_tree"))
    [end] = await finished(pool)
    assert end.outcome == "failed"
    assert end.error == f"1 of 3 fits failed: decision_tree on batches 1..{BATCHES}: out of memory"
    assert {(model.family, model.outcome, model.error, model.model is None) for model in end.models} == {
        ("lightgbm", "done", None, False),
        ("decision_tree", "failed", "out of memory", True),
        ("logistic_regression", "done", None, False),
    }


async def test_failed_fits_are_tried_again_on_request_and_only_they(
    pool: AsyncConnectionPool, store: JobStore, ask: AskForTraining, make_event: MakeBatch
) -> None:
    await train_batches(pool, make_event, Fits("lightgbm"))
    fits, cause = Fits(), envelope()
    await ask(asked(), cause)
    await work_off(pool, fits)
    assert [(task.batch.batch, task.family) for task in fits.tasks] == [(b, "lightgbm") for b in (1, 2, 3)]
    jobs = await store.jobs(1)
    assert {(job.status, job.attempts, job.error) for job in jobs} == {("done", 1, None)}
    assert len(jobs) == BATCHES * len(FAMILIES)
    [end] = await finished(pool)
    assert end.outcome == "done"
    assert {model.outcome for model in end.models} == {"done"}


async def test_jobs_whose_trainer_died_in_every_attempt_end_the_request_too(
    pool: AsyncConnectionPool, store: JobStore, ask: AskForTraining
) -> None:
    await ask(asked(force=True), envelope())
    for _ in range(MAX_ATTEMPTS * len(FAMILIES)):
        assert await store.lease() is not None
        await script(pool, "UPDATE training.jobs SET lease_until = now() - interval '1 second' WHERE status='running'")
    assert not await Runner(store, Fits()).run_one()
    [end] = await finished(pool)
    assert end.outcome == "failed"
    assert "3 of 3 fits failed" in (end.error or "")
    assert "died in each of 3" in (end.error or "")


@pytest.mark.parametrize("force", [False, True])
async def test_fits_that_are_on_their_way_are_waited_for_and_not_doubled(
    pool: AsyncConnectionPool, store: JobStore, ask: AskForTraining, make_event: MakeBatch, force: bool
) -> None:
    """Two requests for what a batch has asked for already; one of its fits is running."""
    for number in range(1, BATCHES + 1):
        await store.add_jobs(make_event(number), envelope(BatchReady.EVENT_TYPE), FAMILIES, "v1")
    running = await store.lease()
    assert running is not None
    first, second, fits = asked(force=force), asked(force=force), Fits()
    await ask(first, envelope())
    await ask(second, envelope())
    await work_off(pool, fits)
    assert len(fits.tasks) == BATCHES * len(FAMILIES) - 1
    if not force:  # forced, it waits for the last batch alone, which has ended
        assert await finished(pool) == []
    assert await store.finish(running, done(running.task))
    ends = await finished(pool)
    assert sorted(str(end.request_id) for end in ends) == sorted([str(first.request_id), str(second.request_id)])
    assert {end.outcome for end in ends} == {"done"}


async def test_a_batch_that_is_announced_after_the_request_is_not_trained_twice(
    pool: AsyncConnectionPool, store: JobStore, ask: AskForTraining, make_event: MakeBatch
) -> None:
    await ask(asked(), envelope())
    assert await store.add_jobs(make_event(1), envelope(BatchReady.EVENT_TYPE), FAMILIES, "v1") == 0
    assert len(await store.jobs(1)) == BATCHES * len(FAMILIES)


async def test_two_requests_and_a_batch_that_come_at_the_same_time_queue_each_fit_once(
    pool: AsyncConnectionPool, server: str, store: JobStore, ask: AskForTraining, make_event: MakeBatch
) -> None:
    async with await psycopg.AsyncConnection.connect(server) as gate:
        await gate.execute("LOCK TABLE training.jobs IN SHARE MODE")  # all may look, nobody may add
        coming = asyncio.gather(
            ask(asked(), envelope()),
            ask(asked(), envelope()),
            store.add_jobs(make_event(1), envelope(BatchReady.EVENT_TYPE), FAMILIES, "v1"),
        )
        await until_waiting(pool, 3)
        await gate.rollback()
        await coming
    assert len(await store.jobs(1)) == BATCHES * len(FAMILIES)
    await work_off(pool, Fits())
    assert [end.outcome for end in await finished(pool)] == ["done", "done"]


async def test_a_fit_that_found_a_part_away_leaves_the_request_open(
    pool: AsyncConnectionPool, store: JobStore, trainings: TrainingStore, ask: AskForTraining
) -> None:
    event = asked(force=True)
    await ask(event, envelope())
    lease = await store.lease()
    assert lease is not None
    assert await store.release(lease, FitFailed(True, "MLflow does not answer", "mlflow_away"), 0.0, counts=False)
    await work_off(pool, Fits())
    assert [end.outcome for end in await finished(pool)] == ["done"]


async def test_two_trainers_that_end_the_last_two_fits_at_the_same_time_announce_the_end_once(
    pool: AsyncConnectionPool, server: str, ask: AskForTraining
) -> None:
    """Both have ended their fit, uncommitted, and wait at the request's row; then both go on."""
    event = asked(force=True)
    await ask(event, envelope())
    async with AsyncConnectionPool(server, min_size=1, max_size=2, open=False) as elsewhere:
        here, there = JobStore(pool), JobStore(elsewhere)
        third = await here.lease()
        assert third is not None
        assert await here.finish(third, done(third.task))
        mine, theirs = await here.lease(), await there.lease()
        assert mine is not None
        assert theirs is not None
        async with await psycopg.AsyncConnection.connect(server) as gate:
            await gate.execute("SELECT FROM training.requests FOR UPDATE")
            both = asyncio.gather(here.finish(mine, done(mine.task)), there.finish(theirs, done(theirs.task)))
            await until_waiting(pool, 2)
            await gate.rollback()
            assert await both == [True, True]
    [end] = await finished(pool)
    assert (end.outcome, len(end.models)) == ("done", 3)


async def test_replicas_that_race_through_many_requests_end_each_of_them_once(
    pool: AsyncConnectionPool, server: str, ask: AskForTraining
) -> None:
    """Three replicas fit while requests, forced and not, come in on all of them, some of them twice."""
    events = [asked(force=number % 3 > 0) for number in range(12)]
    async with AsyncConnectionPool(server, min_size=1, max_size=4, open=False) as elsewhere:
        replicas = [(JobStore(p), on_training_requested(TrainingStore(p), FAMILIES, "v1", lambda: None))
                    for p in (pool, elsewhere, pool)]  # fmt: skip

        async def hears(replica: int) -> None:
            for number, event in enumerate(events):
                if number % 3 != replica:
                    await replicas[replica][1](event, envelope())

        async def fits(store: JobStore, heard: asyncio.Task[Any]) -> None:
            while True:
                over = heard.done()
                lease = await store.lease()
                if lease is not None:
                    await store.finish(lease, done(lease.task))
                elif over:
                    return

        async with asyncio.timeout(60):
            heard = asyncio.ensure_future(asyncio.gather(*(hears(replica) for replica in range(3))))
            await asyncio.gather(heard, *(fits(store, heard) for store, _ in replicas))
    ends = await finished(pool)
    assert sorted(str(end.request_id) for end in ends) == sorted(str(event.request_id) for event in events)


@pytest.mark.parametrize("first", ["request", "finish"])
async def test_a_request_that_comes_while_the_last_fit_ends_is_never_left_waiting(
    pool: AsyncConnectionPool, store: JobStore, ask: AskForTraining, make_event: MakeBatch, server: str, first: str
) -> None:
    """Both want the row of the job at the same time; whichever comes first, the request ends, once."""
    await train_batches(pool, make_event, Fits())
    await script(pool, "UPDATE training.jobs SET status = 'queued' WHERE batch = 3 AND family = 'lightgbm'")
    lease = await store.lease()
    assert lease is not None
    async with await psycopg.AsyncConnection.connect(server) as gate:
        await gate.execute("SELECT FROM training.jobs FOR UPDATE")
        steps: dict[str, Callable[[], Awaitable[Any]]] = {
            "request": lambda: ask(asked(), envelope()),
            "finish": lambda: store.finish(lease, done(lease.task)),
        }
        tasks = [asyncio.ensure_future(steps.pop(first)())]
        await until_waiting(pool, 1)
        tasks.append(asyncio.ensure_future(steps.popitem()[1]()))
        await until_waiting(pool, 2)
        await gate.rollback()
        await asyncio.gather(*tasks)
    [end] = await finished(pool)
    assert end.outcome in {"done", "unchanged"}
    assert (len(end.models), {model.outcome for model in end.models}) == (9, {"done"})


@pytest.mark.parametrize("table", ["inbox", "requests", "jobs", "request_jobs"])
async def test_a_crash_within_the_effect_leaves_nothing_and_the_redelivered_request_has_all_of_it(
    pool: AsyncConnectionPool, ask: AskForTraining, table: str
) -> None:
    event, cause = asked(force=True), envelope()
    await script(pool, *_crash_after_insert_into(table))
    try:
        with pytest.raises(psycopg.errors.RaiseException, match="crash"):
            await ask(event, cause)
        for written in ("inbox", "requests", "jobs", "request_jobs", "outbox"):
            assert await rows(pool, f"TABLE training.{written}") == []
    finally:
        await script(pool, f"DROP TRIGGER crash ON training.{table}", "DROP FUNCTION training.crash")
    await ask(event, cause)  # redelivered: nothing was acknowledged
    await ask(event, cause)  # and once more: it died between the effect and its acknowledgement
    await work_off(pool, Fits())
    assert [end.outcome for end in await finished(pool)] == ["done"]


async def test_a_crash_while_the_end_is_announced_undoes_the_end_of_the_last_fit(
    pool: AsyncConnectionPool, store: JobStore, ask: AskForTraining
) -> None:
    await ask(asked(force=True), envelope())
    for _ in range(len(FAMILIES) - 1):
        lease = await store.lease()
        assert lease is not None
        await store.finish(lease, done(lease.task))
    last = await store.lease()
    assert last is not None
    await script(pool, *_crash_after_insert_into("outbox", "WHEN (NEW.topic = 'training.finished')"))
    try:
        with pytest.raises(psycopg.errors.RaiseException, match="crash"):
            await store.finish(last, done(last.task))
        assert [job.status for job in await store.jobs(1)] == ["done", "done", "running"]
        assert len(await rows(pool, "TABLE training.outbox")) == len(FAMILIES) - 1
    finally:
        await script(pool, "DROP TRIGGER crash ON training.outbox", "DROP FUNCTION training.crash")
    assert await store.finish(last, done(last.task))
    assert [end.outcome for end in await finished(pool)] == ["done"]


def _crash_after_insert_into(table: str, condition: str = "") -> tuple[str, str]:
    when = f"AFTER INSERT ON training.{table} FOR EACH ROW {condition}"
    return (
        "CREATE FUNCTION training.crash() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE 'crash'; END $$",
        f"CREATE TRIGGER crash {when} EXECUTE FUNCTION training.crash()",
    )


@pytest.fixture
async def bare(server: str) -> AsyncIterator[AsyncConnectionPool]:
    """A database on which no ingestor has ever run, in the eyes of a role without any other right."""
    name = f"t{uuid4().hex[:12]}"
    with psycopg.connect(server, autocommit=True) as admin:
        admin.execute(f"CREATE DATABASE {name}".encode())
        admin.execute(f"CREATE ROLE {name} LOGIN".encode())
    superuser = server.replace("dbname=postgres", f"dbname={name}")
    with psycopg.connect(superuser) as connection:
        connection.execute(f"CREATE SCHEMA training AUTHORIZATION {name}".encode())
    own = superuser.replace("user=postgres", f"user={name}")
    apply_migrations(own, "training", "readmit_trainer")
    async with AsyncConnectionPool(own, min_size=1, max_size=2, open=False) as pool:
        yield pool


_DATASETS = "version int, content_sha256 text, schema_sha256 text, synthetic bool, batches_total int"
_TABLES = (
    "CREATE SCHEMA clean_data",
    f"CREATE TABLE clean_data.datasets ({_DATASETS})",
    "CREATE TABLE clean_data.batch_info (dataset_version int, batch_id int, rows int, positives int, sha256 text)",
)
_RIGHTS = ("GRANT USAGE ON SCHEMA clean_data TO public", "GRANT SELECT ON ALL TABLES IN SCHEMA clean_data TO public")
_NO_ROWS = "INSERT INTO clean_data.datasets VALUES (1, repeat('c', 64), repeat('5', 64), true, 0)"


@pytest.mark.parametrize(
    ("there", "version", "said"),
    [
        ((), None, "no data yet; ask for an ingestion first"),
        (_TABLES, None, "no data yet"),
        ((*_TABLES, *_RIGHTS), 7, "no data yet"),
        ((*_TABLES, *_RIGHTS, _NO_ROWS), 2**70, "there is no dataset 1180591620717411303424; the newest is 1"),
        ((*_TABLES, *_RIGHTS, _NO_ROWS), None, "dataset 1 has no training rows"),
    ],
    ids=["no tables", "no rights", "no dataset", "no such dataset", "no training rows"],
)
async def test_without_data_the_request_fails_at_once_and_says_what_to_do(
    bare: AsyncConnectionPool, server: str, there: tuple[str, ...], version: int | None, said: str
) -> None:
    [(name,)] = await rows(bare, "SELECT current_database()")
    with psycopg.connect(server.replace("dbname=postgres", f"dbname={name}"), autocommit=True) as admin:
        for statement in there:
            admin.execute(statement.encode())
    event = asked(dataset_version=version)
    await on_training_requested(TrainingStore(bare), FAMILIES, "v1", lambda: None)(event, envelope())
    [end] = await finished(bare)
    assert (end.request_id, end.outcome, end.dataset_version, end.models) == (event.request_id, "failed", None, ())
    assert said in (end.error or "")
    assert await JobStore(bare).jobs(None) == []


async def test_a_request_that_no_column_can_hold_is_a_bad_message(
    pool: AsyncConnectionPool, trainings: TrainingStore, ask: AskForTraining
) -> None:
    with pytest.raises(BadMessage):
        await ask(asked(reason="a\0b"), envelope())
    assert await trainings.trainings() == []


async def test_a_database_that_is_away_makes_the_request_wait() -> None:
    nowhere = AsyncConnectionPool("host=127.0.0.1 port=1", open=False)
    with pytest.raises(Transient):
        await on_training_requested(TrainingStore(nowhere), FAMILIES, "v1", lambda: None)(asked(), envelope())


async def test_asking_over_rest_is_asking(
    pool: AsyncConnectionPool, trainings: TrainingStore, ask: AskForTraining
) -> None:
    app = FastAPI()
    app.include_router(trainings_router(trainings, ask))
    async with httpx.AsyncClient(base_url="http://trainer", transport=httpx.ASGITransport(app)) as client:
        answer = await client.post("/trainings", json={"reason": "drift", "force": True})
        assert answer.status_code == 202
        request_id = UUID(answer.json()["request_id"])
        running = (await client.get(f"/trainings/{request_id}")).json()
        assert (running["status"], running["fits_total"], running["requested_by"]) == ("running", 3, "rest")
        await work_off(pool, Fits())
        ended = (await client.get(f"/trainings/{request_id}")).json()
        assert (ended["status"], ended["fits_ended"], len(ended["models"])) == ("done", 3, 3)
        assert (await client.get("/trainings")).json() == {"trainings": [ended]}
        assert (await client.get(f"/trainings/{uuid4()}")).status_code == 404
        for wrong in ({}, {"reason": ""}, {"reason": "a\0b"}, {"reason": "x", "dataset_version": 0}, {"forced": True}):
            assert (await client.post("/trainings", json=wrong)).status_code == 422
    assert [end.request_id for end in await finished(pool)] == [request_id]
