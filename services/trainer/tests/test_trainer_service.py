"""The whole service on a real broker and a real database: from its two events to those that it says."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import TypeVar
from uuid import uuid4

import httpx
import psycopg
import pytest
from aiokafka import AIOKafkaConsumer, ConsumerRecord
from aiokafka.admin import AIOKafkaAdminClient
from fastapi import FastAPI
from psycopg_pool import AsyncConnectionPool
from trainer_stand_ins import fits_at_once, takes_its_time

from readmit_chassis.envelope import new_envelope
from readmit_chassis.kafka import create_topics, make_broker, publish
from readmit_chassis.outages import answer_outages
from readmit_chassis.process import Process
from readmit_chassis.settings import KafkaSettings
from readmit_chassis.testing import embedded_kafka
from readmit_contracts import events
from readmit_contracts.events import BatchReady, ModelRegistered, TrainingFinished, TrainingRequested
from readmit_contracts.topics import BATCH_READY, MODEL_REGISTERED, TRAINING_FINISHED, TRAINING_REQUESTED
from readmit_trainer.app import make_app
from readmit_trainer.domain import FAMILIES
from readmit_trainer.handlers import jobs_router
from readmit_trainer.settings import Settings
from readmit_trainer.store import JobStore

Event = Callable[..., BatchReady]
E = TypeVar("E", bound=events.Event)
TOPICS = (BATCH_READY, TRAINING_REQUESTED, MODEL_REGISTERED, TRAINING_FINISHED)


@asynccontextmanager
async def running(app: FastAPI) -> AsyncIterator[httpx.AsyncClient]:
    client = httpx.AsyncClient(base_url="http://trainer", transport=httpx.ASGITransport(app))
    async with app.router.lifespan_context(app), client:
        yield client


async def until_ready(client: httpx.AsyncClient) -> None:
    """Joining its groups takes a trainer some seconds each."""
    async with asyncio.timeout(60):
        while (await client.get("/readyz")).status_code != 200:  # noqa: ASYNC110  the condition is in the service
            await asyncio.sleep(0.05)


async def heard(address: str, topic: str, kind: type[E], count: int) -> list[E]:
    """The first events of the topic, as anybody would hear them."""
    consumer = AIOKafkaConsumer(topic, bootstrap_servers=address, auto_offset_reset="earliest")
    await consumer.start()
    try:
        async with asyncio.timeout(60):
            return [kind.model_validate_json((await consumer.getone()).value) for _ in range(count)]
    finally:
        await consumer.stop()


@pytest.mark.stack
async def test_each_batch_is_announced_twice_and_trained_once(
    settings: Settings, pool: AsyncConnectionPool, make_event: Event
) -> None:
    with embedded_kafka() as address:
        await create_topics(address, [(topic.name, topic.partitions, {}) for topic in TOPICS])
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
                said = await heard(address, MODEL_REGISTERED.name, ModelRegistered, 6)
                assert [(e.batch, e.model.family) for e in said] == [(b, f) for b in (1, 2) for f in FAMILIES]
                jobs = (await client.get("/jobs", params={"dataset_version": 1})).json()["jobs"]
                assert [(job["status"], job["attempts"]) for job in jobs] == [("done", 1)] * 6
                assert (await client.get("/jobs?dataset_version=2")).json() == {"jobs": []}
                assert (await client.get("/jobs?dataset_version=0")).status_code == 422
                await until_ready(client)
                page = (await client.get("/docs")).text
                assert ("docs-files/swagger-ui-bundle.js" in page, "//" in page) == (True, False)  # no host outside
                assert (await client.get("/redoc")).status_code == 404
            assert process.failure is None
        finally:
            await outside.stop()


@pytest.mark.stack
async def test_a_batch_that_can_never_be_trained_on_goes_to_the_dead_letter_topic_with_its_reason(
    settings: Settings, pool: AsyncConnectionPool, make_event: Event
) -> None:
    with embedded_kafka() as address:
        names = [*(topic.name for topic in TOPICS), BATCH_READY.dead_letter]
        await create_topics(address, [(name, 1, {}) for name in names])
        kafka = KafkaSettings(bootstrap_servers=address, idempotent_producer=False)
        outside, process = make_broker(kafka, "outside"), Process()
        await outside.start()
        try:
            async with running(make_app(settings.model_copy(update={"kafka": kafka}), process, fits_at_once)):
                for event in (make_event(1, batch_sha256="0" * 64), make_event(1)):
                    cause = new_envelope(event.EVENT_TYPE, source="test", subject="1/1")
                    await publish(outside, topic=BATCH_READY.name, key="1", event=event, envelope=cause)
                said = await heard(address, MODEL_REGISTERED.name, ModelRegistered, len(FAMILIES))
                assert {one.batch for one in said} == {1}
                [dead] = await kept(address, BATCH_READY.dead_letter, 1)
                reason = b" ".join(value for _, value in dead.headers).decode()
                assert f"{'0' * 64} was announced: ingest the source again" in reason
            assert process.failure is None
        finally:
            await outside.stop()


@pytest.mark.stack
async def test_a_fit_of_five_times_the_poll_interval_causes_no_rebalance(
    settings: Settings, pool: AsyncConnectionPool, make_event: Event, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As a fit of 25 minutes would be with an interval of five: here 10 s with 2 s."""
    monkeypatch.setattr("readmit_chassis.kafka._MAX_POLL_INTERVAL_MS", 2_000)
    with embedded_kafka() as address:
        await create_topics(address, [(topic.name, topic.partitions, {}) for topic in TOPICS])
        kafka = KafkaSettings(bootstrap_servers=address, idempotent_producer=False)
        outside, process = make_broker(kafka, "outside"), Process()
        slow = settings.model_copy(update={"kafka": kafka, "timeout_s": 20.0, "families": ("lightgbm",)})
        await outside.start()
        admin = AIOKafkaAdminClient(bootstrap_servers=address)
        try:
            async with running(make_app(slow, process, takes_its_time)) as client:
                await until_ready(client)
                await admin.start()
                before = await membership(admin, "trainer-lightgbm")
                assert "member_id='trainer-" in before
                cause = new_envelope(BatchReady.EVENT_TYPE, source="test", subject="1/1")
                await publish(outside, topic=BATCH_READY.name, key="1", event=make_event(1), envelope=cause)
                seen = set()
                async with asyncio.timeout(60):
                    while not await registered(client):
                        seen.add(await membership(admin, "trainer-lightgbm"))
                        await asyncio.sleep(0.2)
                assert seen == {before}
                job = (await client.get("/jobs")).json()["jobs"][0]
                began, ended = (datetime.fromisoformat(job[key]) for key in ("started_at", "finished_at"))
                assert (ended - began).total_seconds() >= 10
        finally:
            await admin.close()
            await outside.stop()


async def registered(client: httpx.AsyncClient) -> bool:
    """Whether the one job is done."""
    return [job["status"] for job in (await client.get("/jobs")).json()["jobs"]] == ["done"]


async def membership(admin: AIOKafkaAdminClient, group: str) -> str:
    """Who is in the group and what they read: another generation has other members or other parts."""
    [described] = await admin.describe_consumer_groups([group])
    return str(described)


async def kept(address: str, topic: str, count: int) -> list[ConsumerRecord]:
    """The first records of a topic as they are."""
    consumer = AIOKafkaConsumer(topic, bootstrap_servers=address, auto_offset_reset="earliest")
    await consumer.start()
    try:
        async with asyncio.timeout(60):
            return [await consumer.getone() for _ in range(count)]
    finally:
        await consumer.stop()


@pytest.mark.stack
async def test_who_asks_for_training_over_kafka_or_rest_hears_of_the_end_once(
    settings: Settings, pool: AsyncConnectionPool
) -> None:
    """Two trainers of one group; each request is published twice."""
    with embedded_kafka() as address:
        await create_topics(address, [(topic.name, topic.partitions, {}) for topic in TOPICS])
        kafka = KafkaSettings(bootstrap_servers=address, idempotent_producer=False)
        settings = settings.model_copy(update={"kafka": kafka})
        outside, process = make_broker(kafka, "outside"), Process()
        requested = TrainingRequested(
            request_id=uuid4(), reason="weekly", requested_by="test", requested_at=datetime.now(UTC), force=True
        )
        key = str(requested.request_id)
        await outside.start()
        try:
            async with (
                running(make_app(settings, process, fits_at_once)) as client,
                running(make_app(settings, process, fits_at_once)),
            ):
                for _ in range(2):
                    cause = new_envelope(requested.EVENT_TYPE, source="test", subject=key)
                    await publish(outside, topic=TRAINING_REQUESTED.name, key=key, event=requested, envelope=cause)
                [end] = await heard(address, TRAINING_FINISHED.name, TrainingFinished, 1)
                assert (end.request_id, end.outcome, len(end.models)) == (requested.request_id, "done", len(FAMILIES))
                asked = (await client.post("/trainings", json={"reason": "again", "force": True})).json()
                ends = await heard(address, TRAINING_FINISHED.name, TrainingFinished, 2)
                assert [str(each.request_id) for each in ends] == [key, asked["request_id"]]
                shown = (await client.get("/trainings")).json()["trainings"]
                assert [each["status"] for each in shown] == ["done", "done"]
                jobs = (await client.get("/jobs")).json()["jobs"]
                assert [job["request_id"] for job in jobs].count(key) == len(FAMILIES)
                assert len(jobs) == 2 * len(FAMILIES)
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
