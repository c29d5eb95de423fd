"""Consumer lag: how many messages of its partitions this process's consumer groups have not handled yet."""

from __future__ import annotations

import asyncio
from typing import Any

import structlog
from aiokafka import AIOKafkaConsumer
from aiokafka.errors import KafkaError
from faststream.kafka import KafkaBroker

from readmit_chassis.metrics import CONSUMER_LAG

log = structlog.get_logger()

Labels = tuple[str, str, str]


async def watch_lag(broker: KafkaBroker, interval_s: float = 5.0) -> None:
    """Measure until cancelled. A partition that another process has taken over leaves the metric."""
    shown: set[Labels] = set()
    while True:
        try:
            lags = await measure(broker)
        except (KafkaError, OSError) as error:  # the last figures hold: Kafka being away is no reason to show none
            log.debug("lag_not_measured", error=str(error))
        else:
            for labels, lag in lags.items():
                CONSUMER_LAG.labels(*labels).set(lag)
            for labels in shown - set(lags):
                CONSUMER_LAG.remove(*labels)
            shown = set(lags)
        await asyncio.sleep(interval_s)


async def measure(broker: KafkaBroker) -> dict[Labels, int]:
    """Lag in messages by (group, topic, partition): end of the log less what the group has committed."""
    lags: dict[Labels, int] = {}
    for subscriber in broker.subscribers:
        consumer: AIOKafkaConsumer | None = getattr(subscriber, "consumer", None)
        group: str | None = getattr(subscriber, "group_id", None)
        if consumer is None or group is None:  # not started, or one that commits nothing
            continue
        for partition, lag in (await _of(consumer)).items():
            lags[group, partition.topic, str(partition.partition)] = lag
    return lags


async def _of(consumer: AIOKafkaConsumer) -> dict[Any, int]:
    assigned = list(consumer.assignment())
    if not assigned:
        return {}
    ends, begins = await asyncio.gather(consumer.end_offsets(assigned), consumer.beginning_offsets(assigned))
    lags = {}
    for partition in assigned:
        committed = await consumer.committed(partition)
        done = begins[partition] if committed is None else committed
        # Small brokers report an end that is behind what they have already delivered.
        lags[partition] = max(0, ends[partition] - done)
    return lags
