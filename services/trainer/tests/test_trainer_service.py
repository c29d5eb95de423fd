"""The whole service on a real broker and a real database: from `batch.ready` to `model.registered`."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import httpx
import psycopg
import pytest
from aiokafka import AIOKafkaConsumer
from fastapi import FastAPI
from psycopg_pool import AsyncConnectionPool
from trainer_stand_ins import fits_at_once

from readmit_chassis.envelope import new_envelope
from readmit_chassis.kafka import create_topics, make_broker, publish
from readmit_chassis.outages import answer_outages
from readmit_chassis.process import Process
from readmit_chassis.settings import KafkaSettings
from readmit_chassis.testing import embedded_kafka
from readmit_contracts.events import BatchReady, ModelRegistered
from readmit_contracts.topics import BATCH_READY, MODEL_REGISTERED
from readmit_trainer.app import make_app
from readmit_trainer.domain import FAMILIES
from readmit_trainer.handlers import jobs_router
from readmit_trainer.settings import Settings
from readmit_trainer.store import JobStore

Event = Callable[..., BatchReady]


@asynccontextmanager
async def running(app: FastAPI) -> AsyncIterator[httpx.AsyncClient]:
    client = httpx.AsyncClient(base_url="http://trainer", transport=httpx.ASGITransport(app))
    async with app.router.lifespan_context(app), client:
        yield client


async def registered(address: str, count: int) -> list[ModelRegistered]:
    """The first events of the topic, as the promoter would hear them."""
    consumer = AIOKafkaConsumer(MODEL_REGISTERED.name, bootstrap_servers=address, auto_offset_reset="earliest")
    await consumer.start()
    try:
        async with asyncio.timeout(60):
            return [ModelRegistered.model_validate_json((await consumer.getone()).value) for _ in range(count)]
    finally:
        await consumer.stop()


@pytest.mark.stack
async def test_each_batch_is_announced_twice_and_trained_once(
    settings: Settings, pool: AsyncConnectionPool, make_event: Event
) -> None:
    with embedded_kafka() as address:
        await create_topics(address, [(BATCH_READY.name, 3, {}), (MODEL_REGISTERED.name, 1, {})])
        kafka = KafkaSettings(bootstrap_servers=address, idempotent_producer=False)
        outside, process = make_broker(kafka, "outside"), Process()
        app = make_app(settings.model_copy(update={"kafka": kafka}), process, fits_at_once)
        await outside.start()
        try:
            async with running(app) as client:
                for number in (1, 2, 1, 2):
                    cause = new_envelope(BatchReady.EVENT_TYPE, source="test", subject=f"1/{number}")
                    event = make_event(number)
                    await publish(outside, topic=BATCH_READY.name, key="1", event=event, envelope=cause)
                events = await registered(address, 6)
                assert [(e.batch, e.model.family) for e in events] == [(b, f) for b in (1, 2) for f in FAMILIES]
                jobs = (await client.get("/jobs", params={"dataset_version": 1})).json()["jobs"]
                assert [(job["status"], job["attempts"]) for job in jobs] == [("done", 1)] * 6
                assert (await client.get("/jobs?dataset_version=2")).json() == {"jobs": []}
                assert (await client.get("/jobs?dataset_version=0")).status_code == 422
                assert (await client.get("/readyz")).status_code == 200
            assert process.failure is None
        finally:
            await outside.stop()


async def test_a_database_that_is_away_is_503_with_the_problem() -> None:
    app = FastAPI()
    answer_outages(app, psycopg.OperationalError, detail="The jobs cannot be read now.")
    nobody = "host=127.0.0.1 port=1 connect_timeout=1"
    async with AsyncConnectionPool(nobody, min_size=0, max_size=1, timeout=0.2, open=False) as nowhere:
        app.include_router(jobs_router(JobStore(nowhere)))
        async with httpx.AsyncClient(base_url="http://trainer", transport=httpx.ASGITransport(app)) as client:
            answer = await client.get("/jobs")
    assert answer.status_code == 503
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.json()["status"] == 503
