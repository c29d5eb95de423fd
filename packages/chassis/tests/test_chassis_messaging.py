"""Consuming and publishing on a real broker: nothing lost, nothing looped, each message its own outcome."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from typing import Any
from uuid import uuid4

import pytest
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer
from prometheus_client import REGISTRY
from pydantic import BaseModel

from readmit_chassis.envelope import Envelope, new_envelope
from readmit_chassis.failures import BadMessage, Transient
from readmit_chassis.kafka import (
    BatchHandler,
    Handler,
    consume,
    consume_batch,
    create_topics,
    follow,
    make_broker,
    publish,
    publisher,
)
from readmit_chassis.lag import measure, watch_lag
from readmit_chassis.metrics import CONSUMER_LAG
from readmit_chassis.process import Process
from readmit_chassis.settings import KafkaSettings

pytestmark = pytest.mark.stack


class Happened(BaseModel):
    number: int
    more: list[int] = []


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


@asynccontextmanager
async def consuming_batches(
    kafka: str, topic: str, handle: BatchHandler[Happened], process: Process, *, max_records: int = 500
) -> AsyncIterator[None]:
    broker = make_broker(KafkaSettings(bootstrap_servers=kafka, idempotent_producer=False), "test")
    consume_batch(
        broker,
        topic=topic,
        dead_letter=f"{topic}.dlt",
        group=f"{topic}.consumer",
        event_type=Happened,
        handle=handle,
        process=process,
        max_records=max_records,
        pauses=no_pauses,
    )
    await broker.start()
    try:
        yield
    finally:
        await broker.stop()


@asynccontextmanager
async def publishing(kafka: str) -> AsyncIterator[Any]:
    broker = make_broker(KafkaSettings(bootstrap_servers=kafka, idempotent_producer=False), "test")
    await broker.start()
    try:
        yield broker
    finally:
        await broker.stop()


async def publish_numbers(kafka: str, topic: str, numbers: range) -> None:
    async with publishing(kafka) as broker:
        for number in numbers:
            await publish(broker, topic=topic, key="k", event=Happened(number=number), envelope=envelope())


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
        many = b'{"number": 8, "more": [%b0]}' % (
            b'"x", ' * 50_000
        )  # a problem each: more text than a message may have
        await broker.publish(many, topic, headers=envelope().headers())
        await publish(broker, topic=topic, key="k", event=Happened(number=1), envelope=envelope())
        await publish(broker, topic=topic, key="k", event=Happened(number=2), envelope=envelope())
        await asyncio.wait_for(done.wait(), 30)
    letters = await dead_letters(kafka, topic, expected=4)
    reasons = [dict(letter.headers)["dlt_reason"].decode() for letter in letters]
    assert seen == [2]
    assert reasons.pop(2).endswith("and 49990 more")
    assert letters.pop(2).value == many
    assert letters[0].value == b"not json"
    assert reasons[0].startswith("not a Happened")
    assert reasons[1].startswith("not a CloudEvent")
    assert reasons[2] == "one can never be"
    assert dict(letters[2].headers)["dlt_offset"] == b"3"
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


async def test_what_is_there_comes_in_batches_in_order_and_once(kafka: str, topic: str) -> None:
    batches: list[list[int]] = []
    done = asyncio.Event()
    before = REGISTRY.get_sample_value("events_consumed_total", {"topic": topic, "outcome": "handled"}) or 0

    async def handle(events: list[tuple[Happened, Envelope]]) -> None:
        batches.append([event.number for event, _ in events])
        if sum(map(len, batches)) >= 50:
            done.set()

    await publish_numbers(kafka, topic, range(50))
    async with consuming_batches(kafka, topic, handle, Process(), max_records=20):
        await asyncio.wait_for(done.wait(), 30)
    assert [number for batch in batches for number in batch] == list(range(50))
    assert max(map(len, batches)) == 20
    assert REGISTRY.get_sample_value("events_consumed_total", {"topic": topic, "outcome": "handled"}) == before + 50


async def test_of_a_batch_only_what_is_bad_is_dead_lettered_each_with_its_reason(kafka: str, topic: str) -> None:
    attempts: list[list[int]] = []
    handled: list[int] = []
    done = asyncio.Event()
    process = Process()

    async def handle(events: list[tuple[Happened, Envelope]]) -> None:
        numbers = [event.number for event, _ in events]
        attempts.append(numbers)
        if 2 in numbers:
            raise BadMessage("two can never be")
        handled.extend(numbers)
        if 4 in numbers:
            done.set()

    async with publishing(kafka) as broker:
        await publish(broker, topic=topic, key="k", event=Happened(number=1), envelope=envelope())
        await broker.publish(b"not json", topic, headers=envelope().headers())
        await publish(broker, topic=topic, key="k", event=Happened(number=2), envelope=envelope())
        await broker.publish(b'{"number": 7}', topic)  # no envelope
        for number in (3, 4):
            await publish(broker, topic=topic, key="k", event=Happened(number=number), envelope=envelope())
    async with consuming_batches(kafka, topic, handle, process):
        await asyncio.wait_for(done.wait(), 30)
        letters = await dead_letters(kafka, topic, expected=3)
    assert attempts == [[1, 2, 3, 4], [1], [2], [3], [4]]
    assert handled == [1, 3, 4]
    assert [dict(letter.headers)["dlt_offset"] for letter in letters] == [b"1", b"3", b"2"]
    assert [dict(letter.headers)["dlt_reason"].decode()[:14] for letter in letters] == [
        "not a Happened", "not a CloudEve", "two can never ",
    ]  # fmt: skip
    assert process.failure is None


async def test_a_batch_that_fails_for_a_moment_is_tried_again_whole(kafka: str, topic: str) -> None:
    attempts: list[list[int]] = []
    done = asyncio.Event()

    async def handle(events: list[tuple[Happened, Envelope]]) -> None:
        attempts.append([event.number for event, _ in events])
        if len(attempts) == 1:
            raise Transient("away for a moment")
        done.set()

    await publish_numbers(kafka, topic, range(3))
    async with consuming_batches(kafka, topic, handle, Process()):
        await asyncio.wait_for(done.wait(), 30)
    assert attempts == [[0, 1, 2], [0, 1, 2]]


async def test_an_outage_that_outlasts_a_batchs_retries_stops_the_process_with_nothing_of_it_committed(
    kafka: str, topic: str
) -> None:
    process = Process()
    failed = asyncio.Event()
    process.on_fail(failed.set)
    before: list[int] = []

    async def crashing(events: list[tuple[Happened, Envelope]]) -> None:
        numbers = [event.number for event, _ in events]
        if 10 in numbers:
            raise Transient("away for good")
        before.extend(numbers)

    await publish_numbers(kafka, topic, range(30))
    async with consuming_batches(kafka, topic, crashing, process, max_records=10):
        await asyncio.wait_for(failed.wait(), 30)
    assert isinstance(process.failure, Transient)
    assert before == list(range(10))

    after: list[int] = []
    done = asyncio.Event()

    async def mended(events: list[tuple[Happened, Envelope]]) -> None:
        after.extend(event.number for event, _ in events)
        if 29 in after:
            done.set()

    async with consuming_batches(kafka, topic, mended, Process(), max_records=10):
        await asyncio.wait_for(done.wait(), 30)
    assert after == list(range(10, 30))


async def test_headers_that_are_no_text_hide_no_message(kafka: str, topic: str) -> None:
    handled: list[int] = []
    done = asyncio.Event()

    async def handle(event: Happened, _: Envelope) -> None:
        handled.append(event.number)
        if event.number == 3:
            done.set()

    good = [(name, value.encode()) for name, value in envelope().headers().items()]
    producer = AIOKafkaProducer(bootstrap_servers=kafka)
    await producer.start()
    try:
        await producer.send_and_wait(topic, b'{"number": 1}', headers=[*good, ("stray", b"\xff")])
        await producer.send_and_wait(topic, b'{"number": 2}', headers=[("ce_id", b"\xff")])
        await producer.send_and_wait(topic, b'{"number": 3}', headers=[*good, ("reply_to", topic.encode())])
    finally:
        await producer.stop()
    async with consuming(kafka, topic, handle, Process()):
        await asyncio.wait_for(done.wait(), 30)
        letters = await dead_letters(kafka, topic, expected=1)
    assert handled == [1, 3]
    assert letters[0].value == b'{"number": 2}'


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
