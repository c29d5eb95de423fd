"""The outbox and its relay on a real database: nothing lost, order kept, and one bad event stops only its own key."""

from __future__ import annotations

import asyncio
import json
import random
from collections.abc import Awaitable, Callable
from typing import Any, LiteralString
from uuid import uuid4

import psycopg
import pytest
from aiokafka import AIOKafkaConsumer
from aiokafka.errors import OutOfOrderSequenceNumber
from prometheus_client import REGISTRY
from pydantic import BaseModel

from readmit_chassis.broker import Broker
from readmit_chassis.envelope import Envelope, new_envelope
from readmit_chassis.failures import Refused, Transient
from readmit_chassis.inbox import first_time
from readmit_chassis.kafka import create_topics, make_broker, publisher
from readmit_chassis.outbox import OutboxRelay, enqueue
from readmit_chassis.process import Process
from readmit_chassis.settings import KafkaSettings

pytestmark = pytest.mark.stack


class Happened(BaseModel):
    number: int


def envelope() -> Envelope:
    return new_envelope("test.happened.v1", source="test", subject="1")


async def _until(condition: Callable[[], bool], timeout_s: float = 20) -> None:
    async with asyncio.timeout(timeout_s):
        while not condition():  # noqa: ASYNC110  the condition is a metric or a list, which sends no event
            await asyncio.sleep(0.02)


async def put(
    database: str, schema: str, numbers: range, *, topic: str = "t", key: str = "k", commit: bool = True
) -> None:
    async with await psycopg.AsyncConnection.connect(database) as connection:
        for number in numbers:
            await enqueue(connection, schema, topic=topic, key=key, event=Happened(number=number), envelope=envelope())
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


class Cluster:
    """What a publisher speaks to: keeps what it takes, in order; refuses, is away or is slow as it is told."""

    def __init__(self) -> None:
        self.taken: list[tuple[str, int]] = []
        self.refuses: set[int] = set()
        self.asked: list[int] = []

    async def publish(self, _: str, key: bytes, value: bytes, __: dict[str, str]) -> None:
        number = json.loads(value)["number"]
        self.asked.append(number)
        await asyncio.sleep(0)
        if number in self.refuses:
            raise Refused(f"{number} is too large")
        self.taken.append((key.decode(), number))

    def of(self, key: str) -> list[int]:
        return [number for of, number in self.taken if of == key]


def gauge(name: str, schema: str) -> float | None:
    return REGISTRY.get_sample_value(name, {"schema": schema})


def rows(database: str, schema: str, query: LiteralString) -> list[tuple[Any, ...]]:
    with psycopg.connect(f"{database} options='-c search_path={schema}'", autocommit=True) as connection:
        cursor = connection.execute(query)
        return cursor.fetchall() if cursor.description else []


async def test_an_event_that_is_refused_again_and_again_is_parked_and_only_its_key_waits(
    database: str, schema: str
) -> None:
    cluster = Cluster()
    cluster.refuses = {2}
    await put(database, schema, range(1, 5), key="bad")
    await put(database, schema, range(10, 15), key="good")
    relay = OutboxRelay(schema, database, cluster.publish, refusal_pauses_s=(0.01, 0.02))
    async with Process().background(relay.run()):
        await _until(lambda: gauge("outbox_parked_events", schema) == 1)
        await put(database, schema, range(15, 17), key="good")
        await put(database, schema, range(5, 6), key="bad")
        await _until(lambda: cluster.of("good") == [*range(10, 17)])
        await _until(lambda: gauge("outbox_unsent_events", schema) == 4)
        assert cluster.of("bad") == [1]
        assert cluster.asked.count(2) == 3
        assert rows(database, schema, "SELECT attempts, error, held_until::text FROM outbox ORDER BY id LIMIT 2") == [
            (3, "2 is too large", "infinity"), (0, None, None),
        ]  # fmt: skip
        assert gauge("outbox_oldest_unsent_seconds", schema) == 0  # a parked event has an alert of its own

        cluster.refuses = set()
        rows(database, schema, "UPDATE outbox SET held_until = NULL, attempts = 0 WHERE held_until = 'infinity'")
        await _until(lambda: cluster.of("bad") == [1, 2, 3, 4, 5])
        await _until(lambda: gauge("outbox_parked_events", schema) == gauge("outbox_unsent_events", schema) == 0)


async def test_an_event_that_is_refused_for_a_while_goes_in_its_turn(database: str, schema: str) -> None:
    cluster = Cluster()
    cluster.refuses = {1}
    await put(database, schema, range(3))
    relay = OutboxRelay(schema, database, cluster.publish, refusal_pauses_s=(0.01,) * 50)
    async with Process().background(relay.run()):
        await _until(lambda: cluster.asked.count(1) >= 3)
        assert cluster.of("k") == [0]
        cluster.refuses = set()
        await _until(lambda: cluster.of("k") == [0, 1, 2])
    assert rows(database, schema, "SELECT count(*) FROM outbox") == [(0,)]


async def test_events_refused_only_because_they_travelled_with_a_bad_one_arrive_without_it(
    database: str, schema: str
) -> None:
    together: list[tuple[int, asyncio.Future[None]]] = []
    taken: list[int] = []

    def answer() -> None:  # as a cluster does: to a request as a whole
        refused = any(number == 2 for number, _ in together)
        for number, answered in together:
            if refused:
                answered.set_exception(Refused("too large"))
            else:
                taken.append(number)
                answered.set_result(None)
        together.clear()

    async def publish(topic: str, key: bytes, value: bytes, headers: dict[str, str]) -> None:
        answered = asyncio.get_running_loop().create_future()
        together.append((json.loads(value)["number"], answered))
        if len(together) == 1:
            asyncio.get_running_loop().call_later(0.01, answer)
        await answered

    for number in range(6):
        await put(database, schema, range(number, number + 1), key=f"k{number}")
    relay = OutboxRelay(schema, database, publish, refusal_pauses_s=(0, 0))
    async with Process().background(relay.run()):
        await _until(lambda: gauge("outbox_parked_events", schema) == 1)
        await _until(lambda: gauge("outbox_unsent_events", schema) == 1)
    assert sorted(taken) == [0, 1, 3, 4, 5]
    assert rows(database, schema, "SELECT key, attempts FROM outbox") == [("k2", 3)]


async def test_an_outage_is_waited_out_and_parks_nothing(database: str, schema: str) -> None:
    attempts = 0

    async def away(topic: str, key: bytes, value: bytes, headers: dict[str, str]) -> None:
        nonlocal attempts
        attempts += 1
        raise Transient("away")

    await put(database, schema, range(3))
    relay = OutboxRelay(schema, database, away, refusal_pauses_s=())
    async with await psycopg.AsyncConnection.connect(database, autocommit=True) as connection:
        for _ in range(10):
            with pytest.raises(Transient, match="away"):
                await relay.send_batch(connection)
    assert attempts == 10
    assert rows(database, schema, "SELECT attempts, held_until FROM outbox") == [(0, None)] * 3


async def test_a_bug_in_publishing_ends_the_relay_after_what_arrived_is_deleted(database: str, schema: str) -> None:
    cluster = Cluster()

    async def buggy(topic: str, key: bytes, value: bytes, headers: dict[str, str]) -> None:
        if key == b"outage":
            raise Transient("away")
        if key == b"bug":
            raise TypeError("a bug")
        await cluster.publish(topic, key, value, headers)

    for key in ("outage", "bug", "good"):
        await put(database, schema, range(1), key=key)
    process = Process()
    ended = asyncio.Event()
    process.on_fail(ended.set)
    async with process.background(OutboxRelay(schema, database, buggy).run()):
        await asyncio.wait_for(ended.wait(), 20)
    assert isinstance(process.failure, TypeError)
    assert rows(database, schema, "SELECT key FROM outbox ORDER BY id") == [("outage",), ("bug",)]


async def test_a_slow_event_holds_up_its_own_key_only_and_is_sent_once(database: str, schema: str) -> None:
    cluster = Cluster()
    freed = asyncio.Event()

    async def publish(topic: str, key: bytes, value: bytes, headers: dict[str, str]) -> None:
        if key == b"slow":
            await freed.wait()
        await cluster.publish(topic, key, value, headers)

    await put(database, schema, range(3), key="slow")
    async with Process().background(OutboxRelay(schema, database, publish).run()):
        for start in (10, 20, 30):
            await put(database, schema, range(start, start + 5), key="quick")
            await _until(lambda start=start: cluster.of("quick")[-1:] == [start + 4])  # type: ignore[misc]
        assert cluster.of("slow") == []
        await put(database, schema, range(3, 5), key="slow")
        freed.set()
        await _until(lambda: cluster.of("slow") == [0, 1, 2, 3, 4])
    assert cluster.of("quick") == [*range(10, 15), *range(20, 25), *range(30, 35)]


@pytest.mark.parametrize("seed", range(5))
async def test_whatever_fails_and_whoever_dies_each_key_arrives_whole_and_in_order(
    database: str, schema: str, seed: int
) -> None:
    chance = random.Random(seed)
    taken: dict[str, list[int]] = {}

    async def publish(topic: str, key: bytes, value: bytes, headers: dict[str, str]) -> None:
        await asyncio.sleep(chance.uniform(0, 0.003))
        fate = chance.random()
        if fate < 0.01:
            raise Transient("away before it arrived")
        if fate < 0.03:
            raise Refused("not now")
        taken.setdefault(key.decode(), []).append(json.loads(value)["number"])
        if fate > 0.99:
            raise Transient("away after it arrived")

    keys = [f"k{number}" for number in range(8)]
    for start in range(0, 30, 10):
        for key in chance.sample(keys, len(keys)):
            await put(database, schema, range(start, start + 10), key=key)
    while rows(database, schema, "SELECT count(*) FROM outbox") != [(0,)]:
        relay = OutboxRelay(schema, database, publish, refusal_pauses_s=(0.005,) * 100)
        process = Process()
        async with process.background(relay.run()):  # killed after a moment, wherever it is then
            await asyncio.sleep(chance.uniform(0.02, 0.2))
        assert process.failure is None
    for key in keys:
        assert list(dict.fromkeys(taken[key])) == list(range(30))  # a repeat is known by its id; the first one counts


async def test_what_the_client_or_the_cluster_finds_too_large_is_refused_and_the_next_event_goes(kafka: str) -> None:
    topic = f"happened.{uuid4().hex[:8]}"
    await create_topics(kafka, [(topic, 1, {})])
    broker = make_broker(KafkaSettings(bootstrap_servers=kafka, idempotent_producer=False), "test")
    await broker.start()
    try:
        send = publisher(broker)
        with pytest.raises(Refused, match="MessageSizeTooLarge"):
            await send(topic, b"k", b"x" * 2_000_000, {})
        await send(topic, b"k", b"fits", {})
    finally:
        await broker.stop()


async def test_a_renewed_producer_goes_on_where_the_old_one_stopped(kafka: str) -> None:
    topic = f"happened.{uuid4().hex[:8]}"
    await create_topics(kafka, [(topic, 1, {})])
    broker = make_broker(KafkaSettings(bootstrap_servers=kafka, idempotent_producer=False), "test")
    await broker.start()
    consumer = AIOKafkaConsumer(topic, bootstrap_servers=kafka, auto_offset_reset="earliest")
    await consumer.start()
    try:
        send = publisher(broker)
        await send(topic, b"k", b"1", {})
        renewals = [asyncio.create_task(broker.renew_producer(0)) for _ in range(3)]
        await asyncio.sleep(0)
        renewals[0].cancel()  # a relay that ends does not leave the process without a producer
        await asyncio.gather(*renewals, return_exceptions=True)
        await broker.renew_producer(0)  # somebody who saw the first one fail, and comes late
        await send(topic, b"k", b"2", {})
        received = [(await asyncio.wait_for(consumer.getone(), 20)).value for _ in range(2)]
    finally:
        await consumer.stop()
        await broker.stop()
    assert broker.generation == 1
    assert received == [b"1", b"2"]


class Spent(Broker):
    """A client whose first producer does as it is told: the embedded broker gives producers no numbers to lose."""

    def __init__(self, address: str, first: Callable[[], Awaitable[None]]) -> None:
        super().__init__(address, apply_types=False, logger=None)
        self.first = first

    async def publish(self, *message: Any, **options: Any) -> Any:
        if self.generation == 0:
            await self.first()
        return await super().publish(*message, **options)


async def test_a_producer_that_the_cluster_takes_nothing_more_from_is_replaced_and_nobody_notices(kafka: str) -> None:
    topic = f"happened.{uuid4().hex[:8]}"
    await create_topics(kafka, [(topic, 1, {})])
    hanging = asyncio.Event()

    async def refuse() -> None:
        raise OutOfOrderSequenceNumber

    async def hang() -> None:
        hanging.set()
        await asyncio.Event().wait()

    broker = Spent(kafka, hang)
    await broker.start()
    try:
        send = publisher(broker)
        waiting = asyncio.create_task(send(topic, b"k", b"1", {}))  # as one does that waits for a topic's metadata
        await asyncio.wait_for(hanging.wait(), 20)
        broker.first = refuse
        await asyncio.wait_for(send(topic, b"k", b"2", {}), 20)
        await asyncio.wait_for(waiting, 20)
    finally:
        await broker.stop()
    assert broker.generation == 1
