"""Publishes whole batches to one Kafka topic: one wait for thousands of records."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Sequence
from typing import Any

from aiokafka import AIOKafkaProducer
from aiokafka.errors import KafkaError
from aiokafka.producer.message_accumulator import BatchBuilder

from readmit_chassis.failures import Transient
from readmit_chassis.settings import KafkaSettings
from readmit_inference.prediction_event import Record

#: Brokers take a megabyte by default.
_BATCH_BYTES = 128 * 1024
_TIMEOUT_MS = 3_000


class Parcel:
    """Records packed as they travel: a batch of one partition, which can be sent again as it is."""

    def __init__(self, *records: Record) -> None:
        self.batch = BatchBuilder(_BATCH_BYTES, 0)
        self._events = 0
        for record in records:
            self.add(record)

    def __len__(self) -> int:
        """How many things its records tell of."""
        return self._events

    def add(self, record: Record) -> bool:
        """Pack one more; False, and nothing is packed, when there is no room for it."""
        packed = self.batch.append(timestamp=record.at_ms, key=record.key, value=record.value, headers=record.headers)
        if packed is None:
            return False
        self._events += record.events
        return True


class BatchPublisher:
    """A producer of its own, connected when first needed and again after each failure.

    A parcel goes to one partition, any: nothing may rely on the order of records. One whose answer was lost is sent
    again, so consumers keep what it tells of once, by what names it: of answers, the prediction's id.
    """

    def __init__(self, settings: KafkaSettings, client_id: str, topic: str) -> None:
        self._settings = settings
        self._client_id = client_id
        self._topic = topic
        self._producer: AIOKafkaProducer | None = None

    async def publish(self, parcels: Sequence[Parcel]) -> None:
        """Deliver the records. Raises `Transient`; some may have been delivered then."""
        try:
            producer = await self._connected()
            partitions = sorted(await producer.partitions_for(self._topic))
            turn = random.randrange(len(partitions))  # noqa: S311  spreading, not secrecy
            underway = []
            for parcel in parcels:
                turn = (turn + 1) % len(partitions)
                delivery = await producer.send_batch(parcel.batch, self._topic, partition=partitions[turn])
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
