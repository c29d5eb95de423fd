"""Several trainers: of all families or of some, on several datasets, and what becomes of superseded batches."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable

import pytest
from psycopg_pool import AsyncConnectionPool
from trainer_stand_ins import done

from readmit_chassis.envelope import new_envelope
from readmit_contracts.events import BatchReady
from readmit_trainer.domain import FAMILIES, FitDone, FitTask, Progress, consumer_group
from readmit_trainer.runner import Runner
from readmit_trainer.store import JobStore

pytestmark = pytest.mark.stack
Event = Callable[..., BatchReady]


class Fits:
    """Fits after a moment, so that others get their turn; remembers the tasks."""

    def __init__(self) -> None:
        self.tasks: list[FitTask] = []

    async def fit(self, task: FitTask, tell: Callable[[Progress], None]) -> FitDone:
        self.tasks.append(task)
        tell(Progress("fitting"))
        await asyncio.sleep(0.01)
        return done(task)


async def work_off(store: JobStore, fits: Fits) -> None:
    while await Runner(store, fits).run_one():
        pass


def test_the_group_is_named_for_its_families() -> None:
    assert consumer_group(FAMILIES) == consumer_group(tuple(reversed(FAMILIES))) == "trainer"
    assert consumer_group(("lightgbm",)) == "trainer-lightgbm"
    assert consumer_group(("logistic_regression", "decision_tree")) == "trainer-decision_tree+logistic_regression"


async def test_trainers_of_different_families_hear_the_same_event_and_do_their_own_part(
    pool: AsyncConnectionPool, make_event: Event
) -> None:
    boosted = JobStore(pool, families=("lightgbm",))
    others = JobStore(pool, families=("decision_tree", "logistic_regression"))
    cause = new_envelope(BatchReady.EVENT_TYPE, source="test", subject="1/1")
    for _ in range(2):
        await boosted.add_jobs(make_event(), cause, ("lightgbm",), "v1")
        await others.add_jobs(make_event(), cause, ("decision_tree", "logistic_regression"), "v1")
    assert [job.family for job in await boosted.jobs(1)] == list(FAMILIES)
    fits = {"boosted": Fits(), "others": Fits()}
    await asyncio.gather(work_off(boosted, fits["boosted"]), work_off(others, fits["others"]))
    assert [task.family for task in fits["boosted"].tasks] == ["lightgbm"]
    assert [task.family for task in fits["others"].tasks] == ["decision_tree", "logistic_regression"]
    assert {job.status for job in await boosted.jobs(1)} == {"done"}


async def test_trainers_share_the_jobs_of_several_datasets_and_none_is_done_twice(
    pool: AsyncConnectionPool, make_event: Event
) -> None:
    stores, fits = [JobStore(pool) for _ in range(3)], [Fits() for _ in range(3)]
    for dataset in (1, 2, 3):
        for batch in (1, 2):
            cause = new_envelope(BatchReady.EVENT_TYPE, source="test", subject=f"{dataset}/{batch}")
            await stores[0].add_jobs(make_event(batch, dataset_version=dataset), cause, FAMILIES, "v1")
    await asyncio.gather(*(work_off(store, fit) for store, fit in zip(stores, fits, strict=True)))
    tasks = Counter(task.job_id for fit in fits for task in fit.tasks)
    assert len(tasks) == 3 * 2 * len(FAMILIES)
    assert set(tasks.values()) == {1}
    assert all(fit.tasks for fit in fits)


async def test_a_superseded_batch_is_left_out_where_that_is_the_policy(
    pool: AsyncConnectionPool, make_event: Event
) -> None:
    store, fits = JobStore(pool, skip_superseded=True), Fits()
    for batch in (1, 2, 3):
        cause = new_envelope(BatchReady.EVENT_TYPE, source="test", subject=f"1/{batch}")
        await store.add_jobs(make_event(batch), cause, ("lightgbm", "decision_tree"), "v1")
    other = new_envelope(BatchReady.EVENT_TYPE, source="test", subject="2/1")
    await store.add_jobs(make_event(1, dataset_version=2), other, ("lightgbm",), "v1")
    await work_off(store, fits)
    shown = {(job.batch, job.family): job.status for job in await store.jobs(1)}
    assert shown == {
        (batch, family): "done" if batch == 3 else "superseded"
        for batch in (1, 2, 3)
        for family in ("lightgbm", "decision_tree")
    }
    assert [job.status for job in await store.jobs(2)] == ["done"]
    assert len(fits.tasks) == 3


async def test_by_default_every_batch_is_trained_on_and_a_failed_newer_one_supersedes_nothing(
    pool: AsyncConnectionPool, make_event: Event
) -> None:
    plain, skipping = JobStore(pool), JobStore(pool, skip_superseded=True)
    for batch in (1, 2):
        cause = new_envelope(BatchReady.EVENT_TYPE, source="test", subject=f"1/{batch}")
        await plain.add_jobs(make_event(batch), cause, ("lightgbm",), "v1")
    assert await plain.supersede() == []
    async with pool.connection() as connection:
        await connection.execute("UPDATE training.jobs SET status = 'failed' WHERE batch = 2")
    assert await skipping.supersede() == []
    async with pool.connection() as connection:
        await connection.execute("UPDATE training.jobs SET status = 'queued' WHERE batch = 2")
    assert await skipping.supersede() == [("lightgbm", 1)]
