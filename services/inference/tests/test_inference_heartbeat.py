"""A pod says again and again what it serves, and once that it leaves."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import pytest

from readmit_chassis.failures import Transient
from readmit_chassis.s3 import MemoryStore
from readmit_contracts.events import ModelLoaded
from readmit_inference.announcer import Announcer
from readmit_inference.heartbeat import keep_beating, say_farewell
from readmit_inference.testing import promote, tiny_bundle, until


def no_pauses() -> Iterator[float]:
    while True:
        yield 0.001


@pytest.fixture
def champion(store: MemoryStore) -> ModelLoaded:
    promotion = promote(store, tiny_bundle(1), epoch=1)
    return ModelLoaded(
        pod_id="pod-1", outcome="serving", epoch=1, model=promotion.model, sha256=promotion.bundle.sha256,
        load_ms=1.0, at=promotion.decided_at,
    )  # fmt: skip


@pytest.fixture
def challenger(champion: ModelLoaded) -> ModelLoaded:
    refused = {"role": "challenger", "rollout_revision": 3, "outcome": "refused", "reason": "its digest"}
    return champion.model_copy(update=refused)


async def test_the_last_words_of_both_models_are_repeated_with_a_growing_time(
    champion: ModelLoaded, challenger: ModelLoaded
) -> None:
    heard: list[ModelLoaded] = []
    words: list[ModelLoaded | None] = [None, None]
    task = asyncio.create_task(keep_beating(lambda: words, heard.append, 0.01))
    await asyncio.sleep(0.05)
    assert heard == []  # a pod without a model has nothing to say
    words[:] = [champion, challenger]
    await until(lambda: len(heard) >= 6)
    task.cancel()
    assert {said.occasion for said in heard} == {"heartbeat"}
    for said, role in zip(heard, ("champion", "challenger") * 3, strict=False):
        assert said.role == role
    assert (heard[1].outcome, heard[1].reason, heard[1].rollout_revision) == ("refused", "its digest", 3)
    times = [said.at for said in heard if said.role == "champion"]
    assert times == sorted(set(times))
    assert times[0] > champion.at


async def test_while_kafka_is_away_only_the_newest_heartbeat_waits(
    champion: ModelLoaded, challenger: ModelLoaded
) -> None:
    published: list[ModelLoaded] = []
    away = True

    async def publish(event: ModelLoaded) -> None:
        if away:
            raise Transient("away")
        published.append(event)

    announcer = Announcer(publish, pauses=no_pauses)
    task = asyncio.create_task(announcer.run())
    announcer.announce(champion)
    for epoch in range(1, 50):
        for loaded in (champion, challenger):
            announcer.announce(loaded.model_copy(update={"occasion": "heartbeat", "epoch": epoch}))
        await asyncio.sleep(0)
    away = False
    await until(lambda: len(published) == 3)
    task.cancel()
    assert [(said.occasion, said.role, said.epoch) for said in published] == [
        ("load", "champion", 1), ("heartbeat", "champion", 49), ("heartbeat", "challenger", 49),
    ]  # fmt: skip


async def test_a_pod_leaves_once_and_only_if_it_was_heard_of(champion: ModelLoaded, challenger: ModelLoaded) -> None:
    heard: list[ModelLoaded] = []
    say_farewell(lambda: (None, None), heard.append)
    assert heard == []
    say_farewell(lambda: (champion, challenger), heard.append)
    assert [(said.occasion, said.role) for said in heard] == [("leaving", "champion")]


async def test_the_farewell_is_waited_for_while_kafka_takes_it(champion: ModelLoaded) -> None:
    published: list[ModelLoaded] = []

    async def publish(event: ModelLoaded) -> None:
        await asyncio.sleep(0.05)
        published.append(event)

    announcer = Announcer(publish, pauses=no_pauses)
    task = asyncio.create_task(announcer.run())
    await asyncio.sleep(0)
    announcer.announce(champion)
    await announcer.finish(5)
    task.cancel()
    assert published == [champion]


@pytest.mark.parametrize("was_there", [True, False], ids=["it went away", "it never came"])
async def test_nobody_waits_for_a_farewell_to_a_kafka_that_is_away(champion: ModelLoaded, was_there: bool) -> None:
    attempts = 0

    async def publish(_: ModelLoaded) -> None:
        nonlocal attempts
        attempts += 1
        raise Transient("away")

    announcer = Announcer(publish, pauses=no_pauses)
    task = asyncio.create_task(announcer.run() if was_there else asyncio.sleep(60))
    announcer.announce(champion)
    await until(lambda: attempts > 0 or not was_there)
    async with asyncio.timeout(1):
        await announcer.finish(60)
    task.cancel()


async def test_a_kafka_that_hangs_holds_no_shutdown_up(champion: ModelLoaded) -> None:
    async def publish(_: ModelLoaded) -> None:
        await asyncio.Event().wait()

    announcer = Announcer(publish, pauses=no_pauses)
    task = asyncio.create_task(announcer.run())
    await asyncio.sleep(0)
    announcer.announce(champion)
    async with asyncio.timeout(5):
        await announcer.finish(0.05)
    task.cancel()
