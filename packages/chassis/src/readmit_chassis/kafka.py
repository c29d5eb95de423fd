"""Consuming and publishing. At least once: an offset is committed only after the event's effect.

FastStream owns connections, groups and the poll loop; this module owns what it leaves open: the envelope, what a
failure means, retries and dead letters. Acknowledgement is set here once for all services.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, TypeVar

import structlog
from aiokafka.errors import (
    InvalidTimestampError,
    InvalidTopicError,
    KafkaError,
    MessageSizeTooLargeError,
    PolicyViolationError,
    RecordListTooLargeError,
    TopicAuthorizationFailedError,
    UnknownTopicOrPartitionError,
    UnsupportedForMessageFormatError,
)
from faststream import AckPolicy
from faststream.exceptions import IncorrectState
from faststream.kafka import KafkaBroker
from faststream.message import StreamMessage
from pydantic import BaseModel, ValidationError

from readmit_chassis.broker import Broker
from readmit_chassis.envelope import Envelope
from readmit_chassis.failures import BadMessage, Refused, Transient
from readmit_chassis.metrics import EVENT_SECONDS, EVENTS_CONSUMED
from readmit_chassis.process import Process
from readmit_chassis.settings import KafkaSettings
from readmit_chassis.tracing import span

log = structlog.get_logger()

E = TypeVar("E", bound=BaseModel)
Handler = Callable[[E, Envelope], Awaitable[None]]
BatchHandler = Callable[[list[tuple[E, Envelope]]], Awaitable[None]]
Publisher = Callable[[str, bytes, bytes, dict[str, str]], Awaitable[None]]

Record = Any  # aiokafka's ConsumerRecord: the library has no types
OnMessage = Callable[[StreamMessage[Any]], Awaitable[None]]
_Read = tuple[Record, E, Envelope]
_Unread = tuple[Record, str]  # and the reason

#: What a cluster that is well says to one event, for its size, its content or its topic.
_REFUSALS = (
    InvalidTimestampError,
    InvalidTopicError,
    MessageSizeTooLargeError,
    PolicyViolationError,
    RecordListTooLargeError,
    TopicAuthorizationFailedError,
    UnsupportedForMessageFormatError,
)

#: Problems told of an event that cannot be read, and the longest reason of a dead letter, in characters.
_PROBLEMS, _REASON = 10, 2000

#: All retries of one event together stay far below this; beyond it the group would give the partition away.
_MAX_POLL_INTERVAL_MS = 300_000


def backoff(attempts: int = 8, first_s: float = 0.2, ceiling_s: float = 10.0) -> Iterator[float]:
    """Pauses between attempts, in seconds: doubling, capped, with full jitter (about 40 s in all by default)."""
    for attempt in range(attempts):
        yield random.uniform(0.5, 1.0) * min(ceiling_s, first_s * 2**attempt)  # noqa: S311  spreading, not secrecy


def make_broker(settings: KafkaSettings, service: str) -> Broker:
    """A broker client that loses nothing: acks from all replicas, rewind on failure, no topic made by accident."""
    return Broker(
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


def publisher(broker: Broker) -> Publisher:
    """Publish raw bytes; returns when the cluster has them. Raises `Refused` or, while it is away, `Transient`."""

    async def publish_bytes(topic: str, key: bytes, value: bytes, headers: dict[str, str]) -> None:
        try:
            await broker.deliver(topic, key, value, headers)
        except (KafkaError, OSError, IncorrectState) as error:  # the last: not connected yet, or no longer
            refused = await _is_refusal(error, broker)
            raise (Refused if refused else Transient)(f"cannot publish to {topic}: {error!r}") from error

    return publish_bytes


async def _is_refusal(error: Exception, broker: Broker) -> bool:
    """Whether the cluster said no to this one event. What it says of itself, or by silence, is an outage."""
    if isinstance(error, UnknownTopicOrPartitionError):  # the client's answer too when it reached nobody
        return bool(await broker.ping(5.0))
    return isinstance(error, _REFUSALS)


async def publish(broker: Broker, *, topic: str, key: str, event: BaseModel, envelope: Envelope) -> None:
    """Publish one event directly, for facts that have no transaction of their own."""
    await publisher(broker)(topic, key.encode(), event.model_dump_json().encode(), envelope.headers())


def consume(
    broker: Broker,
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

    async def handle_alone(events: list[tuple[E, Envelope]]) -> None:
        for event, envelope in events:
            with (
                structlog.contextvars.bound_contextvars(event_id=str(envelope.id)),
                span(f"process {topic}", envelope.traceparent),
            ):
                await handle(event, envelope)

    on_message = _delivering(publisher(broker), topic, dead_letter, event_type, handle_alone, pauses)
    _subscribe(broker, topic, group, AckPolicy.NACK_ON_ERROR, _stopping(on_message, topic, process))


def consume_batch(
    broker: Broker,
    *,
    topic: str,
    dead_letter: str,
    group: str,
    event_type: type[E],
    handle: BatchHandler[E],
    process: Process,
    max_records: int = 500,
    pauses: Callable[[], Iterator[float]] = backoff,
) -> None:
    """`consume`, many events at a time: at most `max_records`, as many as are there, in order per partition.

    The offsets are committed after the effect of all. When the handler raises `BadMessage` for a batch, its events come
    again one by one, so that only the bad one is dead-lettered: what it did for the batch must be undone by then, or be
    harmless twice. All attempts at a batch share one series of pauses.
    """
    on_message = _delivering(publisher(broker), topic, dead_letter, event_type, handle, pauses)
    _subscribe(
        broker, topic, group, AckPolicy.NACK_ON_ERROR, _stopping(on_message, topic, process),
        batch=True, max_records=max_records, batch_timeout_ms=100,
    )  # fmt: skip


def follow(broker: KafkaBroker, *, topic: str, event_type: type[E], handle: Handler[E], process: Process) -> None:
    """Hear every event of a compacted topic from its beginning, in this process alone; nothing is committed.

    An event that cannot be read is skipped with an error in the log: the topic holds state, the next event mends it.
    """

    async def on_message(message: StreamMessage[Any]) -> None:
        (record,) = _records(message)
        try:
            event, envelope = decode(record, event_type)
        except BadMessage as reason:
            EVENTS_CONSUMED.labels(topic, "unreadable").inc()
            log.error("event_unreadable", topic=topic, reason=str(reason))  # noqa: TRY400  the reason says it all
            return
        await handle(event, envelope)
        EVENTS_CONSUMED.labels(topic, "handled").inc()

    _subscribe(broker, topic, None, AckPolicy.ACK_FIRST, _stopping(on_message, topic, process))


def decode(record: Record, event_type: type[E]) -> tuple[E, Envelope]:
    """Event and envelope of a record. Raises `BadMessage`; the reason names fields, never values."""
    envelope = Envelope.from_headers(_text_headers(record))
    try:
        return event_type.model_validate_json(record.value or b""), envelope
    except ValidationError as error:
        raise BadMessage(f"not a {event_type.__name__}: {_in_words(error)}") from error


def _in_words(error: ValidationError) -> str:
    """The first problems. There may be one for each item of a long list."""
    problems = error.errors(include_url=False, include_context=False, include_input=False)
    said = [f"{'.'.join(map(str, problem['loc']))}: {problem['msg']}" for problem in problems[:_PROBLEMS]]
    more = len(problems) - len(said)
    return "; ".join(said) + (f"; and {more} more" if more else "")


def dead_letter_of(record: Record, *, reason: str) -> tuple[bytes, bytes, dict[str, str]]:
    """Key, value and headers of the dead letter: the message as it came, and where and why it stopped."""
    headers = {name: value for name, value in _text_headers(record).items() if name != "content-type"}
    headers |= {
        "dlt_topic": record.topic,
        "dlt_partition": str(record.partition),
        "dlt_offset": str(record.offset),
        "dlt_reason": reason[:_REASON],  # headers count for the size of a message, which is limited
    }
    return record.key or b"", record.value or b"", headers


def _text_headers(record: Record) -> dict[str, str]:
    """Headers as text, whatever their bytes are: a stray one must not hide the message from its consumer."""
    return {name: (value or b"").decode("utf-8", "backslashreplace") for name, value in record.headers}


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


def _delivering(
    send: Publisher,
    topic: str,
    dead_letter: str,
    event_type: type[E],
    handle: BatchHandler[E],
    pauses: Callable[[], Iterator[float]],
) -> OnMessage:
    """What `consume` and `consume_batch` do with a message of one record or of many."""
    for outcome in ("handled", "dead_letter", "crashed"):  # a rate needs a zero to start from
        EVENTS_CONSUMED.labels(topic, outcome)

    async def deliver(events: list[_Read[E]], remaining: Iterator[float]) -> list[_Unread]:
        """Give the events their effect, all at once or else one by one; returns those that can have none."""
        if not events:
            return []
        try:
            await with_retries(lambda: handle([read[1:] for read in events]), remaining)
        except BadMessage as bad:
            if len(events) == 1:
                return [(events[0][0], str(bad))]
            log.warning("batch_taken_apart", events=len(events), reason=str(bad))
            return [letter for read in events for letter in await deliver([read], remaining)]
        EVENTS_CONSUMED.labels(topic, "handled").inc(len(events))
        return []

    async def on_message(message: StreamMessage[Any]) -> None:
        with EVENT_SECONDS.labels(topic).time(), structlog.contextvars.bound_contextvars(topic=topic):
            events: list[_Read[E]] = []
            letters: list[_Unread] = []
            for record in _records(message):
                try:
                    events.append((record, *decode(record, event_type)))
                except BadMessage as bad:
                    letters.append((record, str(bad)))
            remaining = pauses()
            # After the events: were a crash to bring the batch again, its letters would be written again as well.
            for record, reason in [*letters, *await deliver(events, remaining)]:
                await with_retries(partial(send, dead_letter, *dead_letter_of(record, reason=reason)), remaining)
                EVENTS_CONSUMED.labels(topic, "dead_letter").inc()
                log.error("event_dead_lettered", reason=reason)

    return on_message


def _stopping(handle: OnMessage, topic: str, process: Process) -> OnMessage:
    """A failure that nobody expected stops the process, with this message and all after it uncommitted."""

    async def guarded(message: StreamMessage[Any]) -> None:
        started = time.monotonic()
        try:
            await handle(message)
        except asyncio.CancelledError:
            raise
        except BaseException as error:
            EVENTS_CONSUMED.labels(topic, "crashed").inc(len(_records(message)))
            log.error("event_failed", topic=topic, seconds=round(time.monotonic() - started, 3))  # noqa: TRY400  fail logs it
            process.fail(error)
            # Returning would commit, raising the error would rewind and run the message again at once. A cancelled
            # subscriber does neither: it just ends.
            raise asyncio.CancelledError from error

    return guarded


def _records(message: StreamMessage[Any]) -> tuple[Record, ...]:
    """The records of a message: one, or those of a batch."""
    raw = message.raw_message
    return raw if isinstance(raw, tuple) else (raw,)


async def _parse(raw: Any, original: Callable[[Any], Awaitable[StreamMessage[Any]]]) -> StreamMessage[Any]:
    """FastStream's parser for records with any headers: where it cannot read one it skips the message, uncounted."""
    return await original(tuple(map(_readable, raw)) if isinstance(raw, tuple) else _readable(raw))


def _readable(record: Record) -> Record:
    headers = tuple((name, value.encode()) for name, value in _text_headers(record).items())
    return record if headers == tuple(record.headers) else replace(record, headers=headers)


async def _whole(message: StreamMessage[Any]) -> StreamMessage[Any]:
    """FastStream decoder that hands the handler the whole message: headers and raw bytes are decoded here."""
    return message


def _subscribe(
    broker: KafkaBroker, topic: str, group: str | None, ack_policy: AckPolicy, handle: OnMessage, **batching: Any
) -> None:
    broker.subscriber(
        topic,
        group_id=group,
        auto_offset_reset="earliest",
        ack_policy=ack_policy,
        parser=_parse,
        decoder=_whole,
        no_reply=True,  # a header of a message is no address that we write to
        max_poll_interval_ms=_MAX_POLL_INTERVAL_MS,
        fetch_max_wait_ms=100,
        **batching,
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
