"""Asking through Kafka and reading the answer, on the clients of Airflow's Kafka provider.

The provider's operators do neither as Readmit needs it: `ProduceToTopicOperator` sends no headers, and its sensors read
from where a consumer group stands, which is unknown before a group has formed. Here the ends of the answer's topics are
noted before the request is published, and whoever waits reads from there: late or again, it misses nothing.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from typing import Any

from airflow.providers.apache.kafka.hooks.consume import KafkaConsumerHook
from airflow.providers.apache.kafka.hooks.produce import KafkaProducerHook
from confluent_kafka import OFFSET_BEGINNING, Consumer, KafkaError, KafkaException, Message, Producer, TopicPartition
from pydantic import ValidationError

from readmit_chassis.envelope import new_envelope
from readmit_contracts.events import Event
from readmit_contracts.topics import Topic

log = logging.getLogger(__name__)

#: Airflow's connection to the cluster: `AIRFLOW_CONN_READMIT_KAFKA`, or one made in the UI.
CONNECTION = "readmit_kafka"

#: The offset from which to read each partition, by topic; the index is the partition. Goes through XCom.
Positions = dict[str, list[int]]

_ANSWER_S = 30.0
_POLL_S = 0.5


class _ConsumerHook(KafkaConsumerHook):
    """The provider's consumer for reading at given offsets: it joins no group and commits nothing."""

    def _get_client(self, config: dict[str, Any]) -> Consumer:
        ours = {"enable.auto.commit": False, "auto.offset.reset": "earliest", "allow.auto.create.topics": False}
        return super()._get_client({"group.id": "readmit-airflow", **config, **ours})


class _ProducerHook(KafkaProducerHook):
    """The provider's producer that says "sent" only of what all replicas have, once."""

    def _get_client(self, config: dict[str, Any]) -> Producer:
        return super()._get_client({**config, "acks": "all", "enable.idempotence": True})


def ends(topics: Sequence[Topic]) -> Positions:
    """Where each partition ends now. Raises `KafkaException` when the cluster is away or a topic is missing."""
    with closing(_consumer()) as consumer:
        return {
            topic.name: [
                consumer.get_watermark_offsets(partition, timeout=_ANSWER_S, cached=False)[1]
                for partition in _partitions(consumer, topic.name)
            ]
            for topic in topics
        }


def publish(topic: Topic, key: str, event: Event) -> None:
    """Publish one event with its envelope. Raises `KafkaException` unless the cluster has it."""
    envelope = new_envelope(event.EVENT_TYPE, source="airflow", subject=key)
    producer = _ProducerHook(kafka_config_id=CONNECTION).get_producer()
    failures: list[KafkaError] = []

    def on_delivery(error: KafkaError | None, _: Message) -> None:
        if error is not None:
            failures.append(error)

    producer.produce(
        topic.name,
        key=key.encode(),
        value=event.model_dump_json().encode(),
        headers=list(envelope.headers().items()),
        on_delivery=on_delivery,
    )
    if producer.flush(_ANSWER_S):
        producer.purge()
        raise KafkaException(KafkaError(KafkaError._MSG_TIMED_OUT, f"{topic.name}: no answer in {_ANSWER_S:g} s"))  # noqa: SLF001  librdkafka's own codes are spelt so
    if failures:
        raise KafkaException(failures[0])
    log.info("%s published with key %s", topic.name, key)


def arriving(topics: Sequence[Topic], start: Positions, *, deadline: float) -> Iterator[Event]:
    """The events of these topics from `start` on, as they come; ends at `deadline` (of `time.monotonic`).

    What can't be read as the topic's event is skipped with a warning. Raises `KafkaException`.
    """
    with closing(_consumer()) as consumer:
        consumer.assign(_assignment(consumer, topics, start))
        types = {topic.name: topic.event for topic in topics}
        while (left_s := deadline - time.monotonic()) > 0:
            yield from _poll(consumer, types, min(left_s, _POLL_S))


def present(topic: Topic, start: Positions) -> list[Event]:
    """The events of a topic from `start` to its end of now. Raises `KafkaException`."""
    until = ends([topic])[topic.name]
    found: list[Event] = []
    with closing(_consumer()) as consumer:
        partitions = _assignment(consumer, [topic], start)
        consumer.assign(partitions)
        deadline = time.monotonic() + _ANSWER_S
        while not _has_read(consumer, partitions, until):
            if time.monotonic() > deadline:
                raise KafkaException(KafkaError(KafkaError._TIMED_OUT, f"{topic.name}: not read in {_ANSWER_S:g} s"))  # noqa: SLF001  as above
            found += _poll(consumer, {topic.name: topic.event}, _POLL_S)
    return found


def _consumer() -> Consumer:
    consumer: Consumer = _ConsumerHook(topics=[], kafka_config_id=CONNECTION).get_conn
    return consumer


def _partitions(consumer: Consumer, topic: str) -> list[TopicPartition]:
    described = consumer.list_topics(topic, timeout=_ANSWER_S).topics[topic]
    if described.error is not None:
        raise KafkaException(described.error)
    return [TopicPartition(topic, partition) for partition in sorted(described.partitions)]


def _assignment(consumer: Consumer, topics: Sequence[Topic], start: Positions) -> list[TopicPartition]:
    """Every partition at its start; one that has been added since, at its beginning."""
    assignment = []
    for topic in topics:
        known = start[topic.name]
        for partition in _partitions(consumer, topic.name):
            partition.offset = known[partition.partition] if partition.partition < len(known) else OFFSET_BEGINNING
            assignment.append(partition)
    return assignment


def _has_read(consumer: Consumer, partitions: Sequence[TopicPartition], until: Sequence[int]) -> bool:
    """Whether each partition was read to its end. Before a first message, a partition stands at its start."""
    read = {at.partition: at.offset for at in consumer.position(list(partitions))}
    return all(
        max(read[partition.partition], partition.offset) >= until[partition.partition]
        for partition in partitions
        if partition.partition < len(until)
    )


def _poll(consumer: Consumer, types: Mapping[str, type[Event]], timeout_s: float) -> Iterator[Event]:
    message = consumer.poll(timeout_s)
    if message is None:
        return
    if message.error() is not None:
        raise KafkaException(message.error())
    try:
        yield types[message.topic() or ""].model_validate_json(message.value() or b"")
    except ValidationError:
        log.warning("unreadable event skipped: %s/%s@%s", message.topic(), message.partition(), message.offset())
