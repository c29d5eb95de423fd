"""The client of the cluster: FastStream's, with a producer that is replaced when the cluster takes no more from it."""

from __future__ import annotations

import asyncio
from typing import Any

import structlog
from aiokafka import AIOKafkaProducer
from aiokafka.errors import (
    InvalidProducerEpoch,
    KafkaError,
    OutOfOrderSequenceNumber,
    ProducerFenced,
    UnknownProducerId,
)
from faststream.kafka import KafkaBroker

from readmit_chassis.failures import Transient

log = structlog.get_logger()

#: An idempotent producer numbers what it sends to a partition. After a refusal by the cluster a number is missing, and
#: that partition takes nothing more from this producer (seen with aiokafka 0.14 on Apache Kafka 4.1).
_SPENT = (InvalidProducerEpoch, OutOfOrderSequenceNumber, ProducerFenced, UnknownProducerId)


class Broker(KafkaBroker):
    """FastStream's client, which also gets itself a new producer when the one that it has is spent."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.generation = 0
        self._renewal: asyncio.Task[None] | None = None
        self._waiting: set[asyncio.Timeout] = set()

    async def deliver(self, topic: str, key: bytes, value: bytes, headers: dict[str, str]) -> None:
        """Publish; returns when the cluster has it. Raises what the client raises for this event or in an outage."""
        for _ in range(3):
            if self._renewal is not None:
                await asyncio.shield(self._renewal)
            generation = self.generation
            try:
                async with asyncio.timeout(None) as patience:
                    self._waiting.add(patience)
                    try:
                        await self.publish(value, topic, key=key, headers=headers)
                    finally:
                        self._waiting.discard(patience)
            except TimeoutError:
                if not patience.expired():
                    raise
            except _SPENT as error:
                log.warning("producer_spent", error=repr(error))
                await self.renew_producer(generation)
            else:
                return
        raise Transient(f"cannot publish to {topic}: no producer lasts")

    async def renew_producer(self, generation: int) -> None:
        """Replace the producer of that generation, unless it has been. Waits for Kafka; a caller may be cancelled."""
        if generation == self.generation:
            if self._renewal is None:
                self._renewal = asyncio.create_task(self._renew_producer())
            await asyncio.shield(self._renewal)

    async def _renew_producer(self) -> None:
        holder: Any = self.config.producer
        await holder.disconnect()  # what is in it is sent first, or fails
        for patience in self._waiting:  # they had not got into it, and nobody would wake them now
            patience.reschedule(asyncio.get_running_loop().time())
        connected = False
        while not connected:
            producer = AIOKafkaProducer(**self._connection_kwargs)
            try:
                await holder.connect(producer, serializer=None)
                connected = True
            except (KafkaError, OSError) as error:
                log.warning("kafka_unreachable", error=str(error), retry_in_s=1.0)
                await asyncio.sleep(1.0)
            finally:
                if not connected:
                    await producer.stop()
        self.generation += 1
        self._renewal = None
        log.warning("producer_renewed", generation=self.generation)

    async def stop(self, *why: Any) -> None:
        """Stop for good, in the middle of a renewal too."""
        if self._renewal is not None:
            self._renewal.cancel()
            await asyncio.gather(self._renewal, return_exceptions=True)
            self._renewal = None
        await super().stop(*why)
