"""Announcements reach Kafka in the end, in order, and nobody waits for them."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import pytest

from readmit_chassis.failures import Transient
from readmit_chassis.s3 import MemoryStore
from readmit_contracts.events import ModelLoaded
from readmit_inference.announcer import Announcer
from readmit_inference.patience import patience
from readmit_inference.testing import promote, tiny_bundle, until


def no_pauses() -> Iterator[float]:
    while True:
        yield 0.001


@pytest.fixture
def loaded(store: MemoryStore) -> ModelLoaded:
    promotion = promote(store, tiny_bundle(1), epoch=1)
    return ModelLoaded(
        pod_id="pod-1", outcome="serving", epoch=1, model=promotion.model, sha256=promotion.bundle.sha256,
        load_ms=1.0, at=promotion.decided_at,
    )  # fmt: skip


async def test_an_announcement_is_repeated_until_kafka_has_it(loaded: ModelLoaded) -> None:
    published: list[int] = []
    attempts = 0

    async def publish(event: ModelLoaded) -> None:
        nonlocal attempts
        attempts += 1
        if attempts < 5:
            raise Transient("away")
        published.append(event.epoch)

    announcer = Announcer(publish, pauses=no_pauses)
    task = asyncio.create_task(announcer.run())
    for epoch in (1, 2):
        announcer.announce(loaded.model_copy(update={"epoch": epoch}))
    await until(lambda: published == [1, 2])
    task.cancel()


async def test_while_kafka_is_away_the_newest_announcements_are_kept(loaded: ModelLoaded) -> None:
    published: list[int] = []

    async def publish(event: ModelLoaded) -> None:
        published.append(event.epoch)

    announcer = Announcer(publish, kept=3, pauses=no_pauses)
    for epoch in range(1, 11):
        announcer.announce(loaded.model_copy(update={"epoch": epoch}))
    task = asyncio.create_task(announcer.run())
    await until(lambda: published == [8, 9, 10])
    task.cancel()


async def test_an_unexpected_failure_ends_the_announcer(loaded: ModelLoaded) -> None:
    async def publish(_: ModelLoaded) -> None:
        raise TypeError("a bug")

    announcer = Announcer(publish, pauses=no_pauses)
    announcer.announce(loaded)
    with pytest.raises(TypeError, match="a bug"):
        await announcer.run()


def test_patience_grows_to_a_ceiling_and_never_ends() -> None:
    pauses = patience()
    values = [next(pauses) for _ in range(3000)]
    assert values[0] <= 0.2
    assert all(5.0 <= pause_s <= 10.0 for pause_s in values[6:])
