"""Publishes whole batches to one Kafka topic: one wait for thousands of records."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator
from typing import Any

from aiokafka import AIOKafkaProducer
from aiokafka.errors import KafkaError
from aiokafka.producer.message_accumulator import BatchBuilder

from readmit_chassis.failures import Transient
from readmit_chassis.settings import KafkaSettings
from readmit_inference.prediction_event import Record

#: Brokers take a megabyte by default.
_BATCH_BYTES = 512 * 1024
_TIMEOUT_MS = 3_000


class BatchPublisher:
    """A producer of its own, connected when first needed and again after each failure.

    The records of a batch go to one partition, any: nothing may rely on their order. A batch whose answer was lost is
    sent again, so consumers deduplicate by event id.
    """

    def __init__(self, settings: KafkaSettings, client_id: str, topic: str) -> None:
        self._settings = settings
        self._client_id = client_id
        self._topic = topic
        self._producer: AIOKafkaProducer | None = None

    async def publish(self, records: AsyncIterator[Record]) -> None:
        """Deliver the records. Raises `Transient`; some may have been delivered then."""
        try:
            producer = await self._connected()
            partitions = sorted(await producer.partitions_for(self._topic))
            turn = random.randrange(len(partitions))  # noqa: S311  spreading, not secrecy
            underway = []
            async for batch in _batches(producer, records):
                turn = (turn + 1) % len(partitions)
                delivery = await producer.send_batch(batch, self._topic, partition=partitions[turn])
                delivery.add_done_callback(_looked_at)
                underway.append(delivery)
            await asyncio.gather(*underway)
        except (KafkaError, OSError) as error:
            await self.close()
            raise Transient(f"cannot publish to {self._topic}: {error!r}") from error

    async def close(self) -> None:
        """Disconnect, within seconds even when Kafka is away."""
        producer, self._producer = self._producer, None
        if producer is not None:
            await producer.stop()

    async def _connected(self) -> AIOKafkaProducer:
        if self._producer is None:
            self._producer = AIOKafkaProducer(
                bootstrap_servers=self._settings.bootstrap_servers,
                client_id=self._client_id,
                acks="all",
                # Idempotent, it would never give a batch up, and could not be stopped while Kafka is away.
                enable_idempotence=False,
                max_batch_size=_BATCH_BYTES,
                request_timeout_ms=_TIMEOUT_MS,
            )
            await self._producer.start()
        return self._producer


def _looked_at(delivery: asyncio.Future[Any]) -> None:
    """When one batch fails, nobody waits for the others; asyncio would complain of theirs."""
    if not delivery.cancelled():
        delivery.exception()


async def _batches(producer: AIOKafkaProducer, records: AsyncIterator[Record]) -> AsyncIterator[BatchBuilder]:
    """As few as hold the records, none too large for a broker. A record is far smaller than a batch."""
    batch = producer.create_batch()
    async for record in records:
        while not batch.append(timestamp=record.at_ms, key=record.key, value=record.value, headers=record.headers):
            yield batch
            batch = producer.create_batch()
    yield batch
