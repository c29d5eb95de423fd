"""Consuming and publishing. At least once: an offset is committed only after the event's effect.

FastStream owns connections, groups and the poll loop; this module owns what it leaves open: the envelope, what a
failure means, retries and dead letters. Acknowledgement is set here once for all services.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from typing import Any, TypeVar

import structlog
from aiokafka.errors import KafkaError
from faststream import AckPolicy
from faststream.exceptions import IncorrectState
from faststream.kafka import KafkaBroker
from faststream.message import StreamMessage
from pydantic import BaseModel, ValidationError

from readmit_chassis.envelope import Envelope
from readmit_chassis.failures import BadMessage, Transient
from readmit_chassis.metrics import EVENT_SECONDS, EVENTS_CONSUMED
from readmit_chassis.process import Process
from readmit_chassis.settings import KafkaSettings

log = structlog.get_logger()

E = TypeVar("E", bound=BaseModel)
Handler = Callable[[E, Envelope], Awaitable[None]]
Publisher = Callable[[str, bytes, bytes, dict[str, str]], Awaitable[None]]

#: All retries of one event together stay far below this; beyond it the group would give the partition away.
_MAX_POLL_INTERVAL_MS = 300_000


def backoff(attempts: int = 8, first_s: float = 0.2, ceiling_s: float = 10.0) -> Iterator[float]:
    """Pauses between attempts, in seconds: doubling, capped, with full jitter (about 40 s in all by default)."""
    for attempt in range(attempts):
        yield random.uniform(0.5, 1.0) * min(ceiling_s, first_s * 2**attempt)  # noqa: S311  spreading, not secrecy


def make_broker(settings: KafkaSettings, service: str) -> KafkaBroker:
    """A broker client that loses nothing: acks from all replicas, rewind on failure, no topic made by accident."""
    return KafkaBroker(
        settings.bootstrap_servers,
        client_id=service,
        acks="all",
        enable_idempotence=settings.idempotent_producer,
        allow_auto_create_topics=False,
        ack_policy=AckPolicy.NACK_ON_ERROR,
        apply_types=False,
        logger=None,
    )


async def keep_starting(broker: KafkaBroker, on_started: Callable[[], None] = lambda: None) -> None:
    """Start the broker client, however long Kafka is away. Returns once it runs."""
    pause_s = 0.2
    while True:
        try:
            await broker.start()
        except (KafkaError, OSError) as error:
            log.warning("kafka_unreachable", error=str(error), retry_in_s=pause_s)
            await asyncio.sleep(pause_s)
            pause_s = min(pause_s * 2, 5.0)
        else:
            log.info("kafka_connected")
            on_started()
            return


def publisher(broker: KafkaBroker) -> Publisher:
    """Publish raw bytes; returns when the cluster has them. Raises `Transient` when it cannot be reached."""

    async def publish_bytes(topic: str, key: bytes, value: bytes, headers: dict[str, str]) -> None:
        try:
            await broker.publish(value, topic, key=key, headers=headers)
        except (KafkaError, OSError, IncorrectState) as error:  # the last: not connected yet, or no longer
            raise Transient(f"cannot publish to {topic}: {error!r}") from error

    return publish_bytes


async def publish(broker: KafkaBroker, *, topic: str, key: str, event: BaseModel, envelope: Envelope) -> None:
    """Publish one event directly, for facts that have no transaction of their own."""
    await publisher(broker)(topic, key.encode(), event.model_dump_json().encode(), envelope.headers())


def consume(
    broker: KafkaBroker,
    *,
    topic: str,
    dead_letter: str,
    group: str,
    event_type: type[E],
    handle: Handler[E],
    process: Process,
    pauses: Callable[[], Iterator[float]] = backoff,
) -> None:
    """Handle every event of a topic at least once, in order per partition; the offset is committed after the effect."""
    send = publisher(broker)
    for outcome in ("handled", "dead_letter", "crashed"):  # a rate needs a zero to start from
        EVENTS_CONSUMED.labels(topic, outcome)

    async def on_message(message: StreamMessage[Any]) -> None:
        with EVENT_SECONDS.labels(topic).time():
            try:
                event, envelope = decode(message, event_type)
                with structlog.contextvars.bound_contextvars(topic=topic, event_id=str(envelope.id)):
                    await with_retries(lambda: handle(event, envelope), pauses())
                EVENTS_CONSUMED.labels(topic, "handled").inc()
            except BadMessage as bad:
                letter = dead_letter_of(message, reason=str(bad))
                await with_retries(lambda: send(dead_letter, *letter), pauses())
                EVENTS_CONSUMED.labels(topic, "dead_letter").inc()
                log.error("event_dead_lettered", topic=topic, reason=str(bad))  # noqa: TRY400  the reason says it all

    _subscribe(broker, topic, group, AckPolicy.NACK_ON_ERROR, _stopping(on_message, topic, process))


def follow(broker: KafkaBroker, *, topic: str, event_type: type[E], handle: Handler[E], process: Process) -> None:
    """Hear every event of a compacted topic from its beginning, in this process alone; nothing is committed.

    An event that cannot be read is skipped with an error in the log: the topic holds state, the next event mends it.
    """

    async def on_message(message: StreamMessage[Any]) -> None:
        try:
            event, envelope = decode(message, event_type)
        except BadMessage as reason:
            EVENTS_CONSUMED.labels(topic, "unreadable").inc()
            log.error("event_unreadable", topic=topic, reason=str(reason))  # noqa: TRY400  the reason says it all
            return
        await handle(event, envelope)
        EVENTS_CONSUMED.labels(topic, "handled").inc()

    _subscribe(broker, topic, None, AckPolicy.ACK_FIRST, _stopping(on_message, topic, process))


def decode(message: StreamMessage[Any], event_type: type[E]) -> tuple[E, Envelope]:
    """Envelope and event of a message. Raises `BadMessage`; the reason names fields, never values."""
    envelope = Envelope.from_headers({name: str(value) for name, value in message.headers.items()})
    try:
        return event_type.model_validate_json(message.body), envelope
    except ValidationError as error:
        problems = "; ".join(f"{'.'.join(map(str, p['loc']))}: {p['msg']}" for p in error.errors())
        raise BadMessage(f"not a {event_type.__name__}: {problems}") from error


def dead_letter_of(message: StreamMessage[Any], *, reason: str) -> tuple[bytes, bytes, dict[str, str]]:
    """Key, value and headers of the dead letter: the message as it came, and where and why it stopped."""
    record = message.raw_message
    headers = {name: str(value) for name, value in message.headers.items() if name != "content-type"}
    headers |= {
        "dlt_topic": record.topic,
        "dlt_partition": str(record.partition),
        "dlt_offset": str(record.offset),
        "dlt_reason": reason,
    }
    return record.key or b"", record.value or b"", headers


async def with_retries(effect: Callable[[], Awaitable[None]], pauses: Iterator[float]) -> None:
    """Await the effect, again after each pause while it raises `Transient`; the last one is raised."""
    while True:
        try:
            return await effect()
        except Transient as error:
            pause_s = next(pauses, None)
            if pause_s is None:
                raise
            log.warning("retrying", error=str(error), pause_s=round(pause_s, 2))
            await asyncio.sleep(pause_s)


def _stopping(
    handle: Callable[[StreamMessage[Any]], Awaitable[None]], topic: str, process: Process
) -> Callable[[StreamMessage[Any]], Awaitable[None]]:
    """A failure that nobody expected stops the process, with this message and all after it uncommitted."""

    async def guarded(message: StreamMessage[Any]) -> None:
        started = time.monotonic()
        try:
            await handle(message)
        except asyncio.CancelledError:
            raise
        except BaseException as error:
            EVENTS_CONSUMED.labels(topic, "crashed").inc()
            log.error("event_failed", topic=topic, seconds=round(time.monotonic() - started, 3))  # noqa: TRY400  fail logs it
            process.fail(error)
            # Returning would commit, raising the error would rewind and run the message again at once. A cancelled
            # subscriber does neither: it just ends.
            raise asyncio.CancelledError from error

    return guarded


async def _whole(message: StreamMessage[Any]) -> StreamMessage[Any]:
    """FastStream decoder that hands the handler the whole message: headers and raw bytes are decoded here."""
    return message


def _subscribe(
    broker: KafkaBroker,
    topic: str,
    group: str | None,
    ack_policy: AckPolicy,
    handle: Callable[[StreamMessage[Any]], Awaitable[None]],
) -> None:
    broker.subscriber(
        topic,
        group_id=group,
        auto_offset_reset="earliest",
        ack_policy=ack_policy,
        decoder=_whole,
        max_poll_interval_ms=_MAX_POLL_INTERVAL_MS,
        fetch_max_wait_ms=100,
    )(handle)


async def create_topics(
    bootstrap_servers: str, topics: Sequence[tuple[str, int, dict[str, str]]], replication_factor: int = 1
) -> None:
    """Create the topics (name, partitions, config) that do not exist yet."""
    from aiokafka.admin import AIOKafkaAdminClient, NewTopic  # noqa: PLC0415  only who provisions needs it

    admin = AIOKafkaAdminClient(bootstrap_servers=bootstrap_servers)
    await admin.start()
    try:
        present = set(await admin.list_topics())
        missing = [
            NewTopic(name, partitions, replication_factor, topic_configs=config)
            for name, partitions, config in topics
            if name not in present
        ]
        if missing:
            response = await admin.create_topics(missing)
            failed = [f"{e[0]}: error {e[1]}" for e in response.topic_errors if e[1] not in {0, 36}]  # 36: exists
            if failed:
                raise Transient(f"topics not created: {', '.join(failed)}")
    finally:
        await admin.close()
