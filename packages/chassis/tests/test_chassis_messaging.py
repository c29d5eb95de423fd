"""Consuming and relaying on a real broker and database: nothing lost, nothing looped, nothing twice in effect."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from typing import Any
from uuid import uuid4

import psycopg
import pytest
from aiokafka import AIOKafkaConsumer
from prometheus_client import REGISTRY
from pydantic import BaseModel

from readmit_chassis.envelope import Envelope, new_envelope
from readmit_chassis.failures import BadMessage, Transient
from readmit_chassis.inbox import first_time
from readmit_chassis.kafka import Handler, consume, create_topics, follow, make_broker, publish, publisher
from readmit_chassis.lag import measure, watch_lag
from readmit_chassis.metrics import CONSUMER_LAG
from readmit_chassis.migrations import apply_migrations
from readmit_chassis.outbox import OutboxRelay, enqueue
from readmit_chassis.process import Process
from readmit_chassis.settings import KafkaSettings

pytestmark = pytest.mark.stack


class Happened(BaseModel):
    number: int


@pytest.fixture
async def topic(kafka: str) -> str:
    name = f"happened.{uuid4().hex[:8]}"
    await create_topics(kafka, [(name, 1, {"cleanup.policy": "compact"}), (f"{name}.dlt", 1, {})])
    return name


def envelope() -> Envelope:
    return new_envelope("test.happened.v1", source="test", subject="1")


def no_pauses() -> Iterator[float]:
    return iter([0.0, 0.0])


@asynccontextmanager
async def consuming(
    kafka: str, topic: str, handle: Handler[Happened], process: Process, *, grouped: bool = True
) -> AsyncIterator[Any]:
    broker = make_broker(KafkaSettings(bootstrap_servers=kafka, idempotent_producer=False), "test")
    if not grouped:
        follow(broker, topic=topic, event_type=Happened, handle=handle, process=process)
    else:
        consume(
            broker,
            topic=topic,
            dead_letter=f"{topic}.dlt",
            group=f"{topic}.consumer",
            event_type=Happened,
            handle=handle,
            process=process,
            pauses=no_pauses,
        )
    await broker.start()
    try:
        yield broker
    finally:
        await broker.stop()


async def dead_letters(kafka: str, topic: str, expected: int) -> list[Any]:
    consumer = AIOKafkaConsumer(f"{topic}.dlt", bootstrap_servers=kafka, auto_offset_reset="earliest")
    await consumer.start()
    try:
        return [await asyncio.wait_for(consumer.getone(), 20) for _ in range(expected)]
    finally:
        await consumer.stop()


async def test_a_bad_message_is_dead_lettered_with_its_reason_and_the_next_one_is_handled(
    kafka: str, topic: str
) -> None:
    seen: list[int] = []
    done = asyncio.Event()
    process = Process()

    async def handle(event: Happened, _: Envelope) -> None:
        if event.number == 1:
            raise BadMessage("one can never be")
        seen.append(event.number)
        done.set()

    async with consuming(kafka, topic, handle, process) as broker:
        await broker.publish(b"not json", topic, headers=envelope().headers())
        await broker.publish(b'{"number": 7}', topic)  # no envelope
        await publish(broker, topic=topic, key="k", event=Happened(number=1), envelope=envelope())
        await publish(broker, topic=topic, key="k", event=Happened(number=2), envelope=envelope())
        await asyncio.wait_for(done.wait(), 30)
    letters = await dead_letters(kafka, topic, expected=3)
    reasons = [dict(letter.headers)["dlt_reason"].decode() for letter in letters]
    assert seen == [2]
    assert letters[0].value == b"not json"
    assert reasons[0].startswith("not a Happened")
    assert reasons[1].startswith("not a CloudEvent")
    assert reasons[2] == "one can never be"
    assert dict(letters[2].headers)["dlt_offset"] == b"2"
    assert process.failure is None


async def test_a_transient_failure_is_retried_in_place_and_order_is_kept(kafka: str, topic: str) -> None:
    attempts: list[int] = []
    done = asyncio.Event()

    async def handle(event: Happened, _: Envelope) -> None:
        attempts.append(event.number)
        if attempts == [1]:
            raise Transient("away for a moment")
        if event.number == 2:
            done.set()

    async with consuming(kafka, topic, handle, Process()) as broker:
        for number in (1, 2):
            await publish(broker, topic=topic, key="k", event=Happened(number=number), envelope=envelope())
        await asyncio.wait_for(done.wait(), 30)
    assert attempts == [1, 1, 2]


async def test_a_bug_stops_the_process_with_nothing_committed_so_the_next_process_gets_the_message(
    kafka: str, topic: str
) -> None:
    process = Process()
    failed = asyncio.Event()
    process.on_fail(failed.set)
    attempts = 0

    async def buggy(event: Happened, _: Envelope) -> None:
        nonlocal attempts
        attempts += 1
        raise TypeError("a bug")

    async with consuming(kafka, topic, buggy, process) as broker:
        await publish(broker, topic=topic, key="k", event=Happened(number=5), envelope=envelope())
        await asyncio.wait_for(failed.wait(), 30)
    assert isinstance(process.failure, TypeError)
    assert attempts == 1

    handled: list[int] = []
    done = asyncio.Event()

    async def mended(event: Happened, _: Envelope) -> None:
        handled.append(event.number)
        done.set()

    async with consuming(kafka, topic, mended, Process()):
        await asyncio.wait_for(done.wait(), 30)
    assert handled == [5]


async def test_every_follower_hears_everything_from_the_beginning(kafka: str, topic: str) -> None:
    async with consuming(kafka, topic, _ignore, Process()) as broker:
        for number in (1, 2, 3):
            await publish(broker, topic=topic, key=str(number), event=Happened(number=number), envelope=envelope())
    for _ in range(2):
        heard: list[int] = []
        done = asyncio.Event()

        async def handle(event: Happened, _: Envelope, heard: list[int] = heard, done: asyncio.Event = done) -> None:
            heard.append(event.number)
            if len(heard) == 3:
                done.set()

        async with consuming(kafka, topic, handle, Process(), grouped=False):
            await asyncio.wait_for(done.wait(), 30)
        assert heard == [1, 2, 3]


async def test_publishing_before_the_client_is_connected_is_an_outage_and_no_bug(kafka: str) -> None:
    broker = make_broker(KafkaSettings(bootstrap_servers=kafka, idempotent_producer=False), "test")
    with pytest.raises(Transient, match="cannot publish to somewhere"):
        await publisher(broker)("somewhere", b"k", b"{}", envelope().headers())


async def lag_of(broker: Any, topic: str) -> int | None:
    lags = await measure(broker)
    return next((lag for (_, of, _), lag in lags.items() if of == topic), None)


async def test_lag_counts_what_is_not_handled_and_falls_to_zero_when_it_is(kafka: str, topic: str) -> None:
    held, released = asyncio.Event(), asyncio.Event()

    async def handle(event: Happened, _: Envelope) -> None:
        held.set()
        await released.wait()

    async with consuming(kafka, topic, handle, Process()) as broker:
        for number in range(3):
            await publish(broker, topic=topic, key="k", event=Happened(number=number), envelope=envelope())
        await asyncio.wait_for(held.wait(), 30)
        assert await lag_of(broker, topic) == 3
        watching = asyncio.create_task(watch_lag(broker, interval_s=0.05))
        await _until(lambda: CONSUMER_LAG.labels(f"{topic}.consumer", topic, "0")._value.get() == 3)
        released.set()
        await _until(lambda: CONSUMER_LAG.labels(f"{topic}.consumer", topic, "0")._value.get() == 0)
        watching.cancel()


async def _until(condition: Callable[[], bool], timeout_s: float = 20) -> None:
    async with asyncio.timeout(timeout_s):
        while not condition():  # noqa: ASYNC110  the condition is a metric, which sends no event
            await asyncio.sleep(0.02)


async def _ignore(event: Happened, _: Envelope) -> None:
    return None


@pytest.fixture
def schema(database: str, tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> str:
    """A schema with outbox and inbox, migrated from a package of its own."""
    name = f"s{uuid4().hex[:8]}"
    package = tmp_path / name
    (package / "migrations").mkdir(parents=True)
    (package / "__init__.py").touch()
    (package / "migrations" / "0001_effects.sql").write_text(f"CREATE TABLE {name}.effects (number int);")
    monkeypatch.syspath_prepend(str(tmp_path))
    with psycopg.connect(database, autocommit=True) as connection:
        connection.execute(f"CREATE SCHEMA {name}".encode())
    apply_migrations(database, name, name)
    apply_migrations(database, name, name)  # a second time changes nothing
    return name


async def put(database: str, schema: str, numbers: range, *, commit: bool = True) -> None:
    async with await psycopg.AsyncConnection.connect(database) as connection:
        for number in numbers:
            await enqueue(connection, schema, topic="t", key="k", event=Happened(number=number), envelope=envelope())
        if not commit:
            await connection.rollback()


async def test_only_committed_events_leave_and_in_order(database: str, schema: str) -> None:
    sent: list[int] = []

    async def collect(topic: str, key: bytes, value: bytes, headers: dict[str, str]) -> None:
        sent.append(json.loads(value)["number"])

    await put(database, schema, range(3), commit=False)
    await put(database, schema, range(10, 15))
    relay = OutboxRelay(schema, database, collect)
    async with await psycopg.AsyncConnection.connect(database, autocommit=True) as connection:
        assert await relay.send_batch(connection) == 5
        assert await relay.send_batch(connection) == 0
    assert sent == [10, 11, 12, 13, 14]


async def test_a_relay_that_dies_between_publishing_and_deleting_sends_again_and_the_inbox_gives_one_effect(
    database: str, schema: str
) -> None:
    effects: list[int] = []
    deliveries = 0

    async def publish_and_die(topic: str, key: bytes, value: bytes, headers: dict[str, str]) -> None:
        nonlocal deliveries
        deliveries += 1
        async with await psycopg.AsyncConnection.connect(database) as connection:
            if await first_time(connection, schema, "consumer", Envelope.from_headers(headers).id):
                effects.append(json.loads(value)["number"])
        if deliveries % 3 == 1:
            raise Transient("killed after publishing")

    await put(database, schema, range(20))
    relay = OutboxRelay(schema, database, publish_and_die)
    async with await psycopg.AsyncConnection.connect(database, autocommit=True) as connection:
        while True:
            try:
                if not await relay.send_batch(connection):
                    break
            except Transient:
                continue
    assert effects == list(range(20))
    assert deliveries > 20


async def test_the_age_of_the_oldest_unsent_event_grows_while_the_relay_is_stuck_and_falls_when_it_is_not(
    database: str, schema: str
) -> None:
    stuck, freed = asyncio.Event(), asyncio.Event()

    async def stick(topic: str, key: bytes, value: bytes, headers: dict[str, str]) -> None:
        stuck.set()
        await freed.wait()

    def age_s() -> float:
        sample = REGISTRY.get_sample_value("outbox_oldest_unsent_seconds", {"schema": schema})
        assert sample is not None
        return sample

    await put(database, schema, range(2))
    relay = OutboxRelay(schema, database, stick)
    assert age_s() == 0
    async with Process().background(relay.run()):
        await asyncio.wait_for(stuck.wait(), 20)
        assert REGISTRY.get_sample_value("outbox_unsent_events", {"schema": schema}) == 2
        seen = age_s()
        await _until(lambda: age_s() > seen > 0)
        freed.set()
        await _until(lambda: age_s() == 0)
        assert REGISTRY.get_sample_value("outbox_unsent_events", {"schema": schema}) == 0


async def test_the_relay_wakes_on_commit_and_two_relays_do_not_double(database: str, schema: str) -> None:
    sent: list[int] = []
    all_sent = asyncio.Event()

    async def collect(topic: str, key: bytes, value: bytes, headers: dict[str, str]) -> None:
        sent.append(json.loads(value)["number"])
        if len(sent) == 50:
            all_sent.set()

    process = Process()
    relays = [OutboxRelay(schema, database, collect).run() for _ in range(2)]
    async with process.background(*relays):
        await put(database, schema, range(50))
        await asyncio.wait_for(all_sent.wait(), 20)
    assert sent == list(range(50))
    assert process.failure is None


def test_a_migration_that_changed_after_it_was_applied_is_refused(database: str, schema: str, tmp_path: Any) -> None:
    (tmp_path / schema / "migrations" / "0001_effects.sql").write_text("SELECT 1;")
    with pytest.raises(RuntimeError, match=r"0001_effects\.sql changed after it was applied"):
        apply_migrations(database, schema, schema)
