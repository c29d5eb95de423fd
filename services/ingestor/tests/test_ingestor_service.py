"""What the ingestor does with the events that it reads, and the whole service on a real broker and database."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any
from uuid import uuid4

import httpx
import psycopg
import pytest
from aiokafka import AIOKafkaConsumer
from fastapi import FastAPI
from prometheus_client import REGISTRY

from readmit_chassis.envelope import Envelope, new_envelope
from readmit_chassis.failures import BadMessage, Transient
from readmit_chassis.kafka import create_topics, make_broker, publish
from readmit_chassis.process import Process
from readmit_chassis.settings import KafkaSettings, PostgresSettings
from readmit_contracts.events import Event, IngestionFinished, IngestionRequested, PredictionsMade
from readmit_contracts.examples import EXAMPLES
from readmit_contracts.testing import example_prediction, message_of
from readmit_contracts.topics import BATCH_READY, INGESTION_FINISHED, INGESTION_REQUESTED, PREDICTION_MADE
from readmit_ingestor import store
from readmit_ingestor.api import ingestion_router
from readmit_ingestor.app import make_app
from readmit_ingestor.handlers import on_ingestion_requested, on_predictions_made
from readmit_ingestor.settings import Settings

Database = psycopg.Connection[Any]
REQUESTED = next(example for example in EXAMPLES if isinstance(example, IngestionRequested))
MADE = next(example for example in EXAMPLES if isinstance(example, PredictionsMade))
PREDICTED = example_prediction()


def envelope(event: Event) -> Envelope:
    return new_envelope(event.EVENT_TYPE, source="test", subject="any")


def on_one_message(pool: store.Pool) -> Callable[[PredictionsMade, Envelope], Awaitable[None]]:
    keep = on_predictions_made(pool)

    async def handle(event: PredictionsMade, envelope: Envelope) -> None:
        await keep([(event, envelope)])

    return handle


async def until(condition: Callable[[], Awaitable[bool]], timeout_s: float = 60.0) -> None:
    async with asyncio.timeout(timeout_s):
        while not await condition():  # noqa: ASYNC110  the condition is outside this process
            await asyncio.sleep(0.02)


@asynccontextmanager
async def running(app: FastAPI) -> AsyncIterator[httpx.AsyncClient]:
    client = httpx.AsyncClient(base_url="http://ingestor", transport=httpx.ASGITransport(app))
    async with app.router.lifespan_context(app), client:
        yield client


async def heard(address: str, topic: str, count: int) -> list[tuple[bytes, bytes]]:
    """Key and value of the first events of a topic, as anybody would hear them."""
    consumer = AIOKafkaConsumer(topic, bootstrap_servers=address, auto_offset_reset="earliest")
    await consumer.start()
    try:
        async with asyncio.timeout(60):
            records = [await consumer.getone() for _ in range(count)]
        return [(record.key, record.value) for record in records]
    finally:
        await consumer.stop()


@pytest.fixture
def conninfo(database: Database) -> str:
    parts = database.info
    return f"host=127.0.0.1 port={parts.port} dbname={parts.dbname} user={parts.user}"


@pytest.fixture
async def pool(conninfo: str) -> AsyncIterator[store.Pool]:
    async with store.make_pool(conninfo) as opened:
        yield opened


@pytest.mark.stack
async def test_every_example_of_every_event_that_it_reads_has_its_effect_once_however_often_it_comes(
    pool: store.Pool, database: Database
) -> None:
    handlers: dict[type[Event], Callable[[Any, Envelope], Awaitable[None]]] = {
        IngestionRequested: on_ingestion_requested(pool),
        PredictionsMade: on_one_message(pool),
    }
    examples = [example for example in EXAMPLES if type(example) in handlers]
    assert {type(example) for example in examples} == set(handlers)
    before = REGISTRY.get_sample_value("predictions_stored_total") or 0.0
    for example in examples:
        read = type(example).model_validate_json(example.model_dump_json())
        for cause in (envelope(read), envelope(read)):
            await handlers[type(read)](read, cause)
            await handlers[type(read)](read, cause)
    assert database.execute("SELECT source, requested_by FROM raw_data.ingestions").fetchall() == [("uci", "readmit")]
    [row, _] = database.execute(
        "SELECT prediction_id, at, pod_id, model_name, model_version, sha256, epoch, synthetic, risk, threshold,"
        " readmitted, latency_ms, patient_key, features FROM raw_data.predictions ORDER BY at"
    ).fetchall()
    assert row == (
        PREDICTED.prediction_id, PREDICTED.at, "inference-1", "diabetes_readmission_lightgbm", "5", "a1" * 32, 3, False,
        0.173, 0.125, True, 0.41, "9d2c1f0a7b3e4d5c", PREDICTED.features,
    )  # fmt: skip
    assert REGISTRY.get_sample_value("predictions_stored_total") == before + 2


@pytest.mark.stack
@pytest.mark.parametrize("change", [{"features": {"age": "[70-80)\0"}}, {"epoch": 2**40}, {"pod_id": "a\0b"}])
async def test_a_prediction_that_no_column_can_hold_is_a_bad_message_whose_reason_shows_no_value(
    pool: store.Pool, database: Database, change: dict[str, Any]
) -> None:
    with pytest.raises(BadMessage) as bad:
        await on_one_message(pool)(message_of(PREDICTED.model_copy(update=change)), envelope(MADE))
    assert "70-80" not in str(bad.value)
    assert database.execute("SELECT count(*) FROM raw_data.predictions").fetchone() == (0,)


@pytest.mark.stack
async def test_a_request_that_no_column_can_hold_is_a_bad_message_over_kafka_and_422_over_rest(
    pool: store.Pool,
) -> None:
    with pytest.raises(BadMessage):
        await on_ingestion_requested(pool)(REQUESTED.model_copy(update={"source": "a\0b"}), envelope(REQUESTED))
    app = FastAPI()
    app.include_router(ingestion_router(pool))
    async with httpx.AsyncClient(base_url="http://ingestor", transport=httpx.ASGITransport(app)) as client:
        assert (await client.post("/ingestions", json={"source": "a\0b"})).status_code == 422
        assert (await client.get("/ingestions")).json() == {"ingestions": []}


async def test_a_database_that_is_away_makes_both_events_wait() -> None:
    nowhere = store.make_pool("host=127.0.0.1 port=1 connect_timeout=1")
    for handle, event in ((on_ingestion_requested(nowhere), REQUESTED), (on_one_message(nowhere), MADE)):
        with pytest.raises(Transient, match="away"):
            await handle(event, envelope(event))  # type: ignore[operator]  # each with its own


@pytest.mark.stack
async def test_whoever_asks_by_event_or_rest_hears_of_the_end_and_predictions_are_kept(
    conninfo: str, database: Database, tmp_path: Path
) -> None:
    from readmit_chassis.testing import embedded_kafka  # noqa: PLC0415  needs the testing extra, which not all have

    with embedded_kafka() as address:
        topics = (INGESTION_REQUESTED, INGESTION_FINISHED, BATCH_READY, PREDICTION_MADE)
        await create_topics(address, [(topic.name, 1, {}) for topic in topics])
        kafka = KafkaSettings(bootstrap_servers=address, idempotent_producer=False)
        parts = psycopg.conninfo.conninfo_to_dict(conninfo)
        postgres = PostgresSettings(
            host="127.0.0.1", port=int(str(parts["port"])), database=str(parts["dbname"]), user="postgres",
            password="unused",
        )  # fmt: skip
        settings = Settings(
            kafka=kafka, postgres=postgres, cache_dir=tmp_path / "cache", batch_rows=1_000, schedule_hours=0
        )
        outside, process = make_broker(kafka, "outside"), Process()
        await outside.start()
        try:
            async with running(make_app(settings, process)) as client:
                requested = REQUESTED.model_copy(update={"source": "sample:2000", "request_id": uuid4()})
                key = str(requested.request_id)
                for _ in range(2):
                    await publish(
                        outside, topic=INGESTION_REQUESTED.name, key=key, event=requested, envelope=envelope(requested)
                    )
                asked = await client.post("/ingestions", json={"source": str(tmp_path / "nowhere.csv")})
                assert asked.status_code == 202
                said = await heard(address, INGESTION_FINISHED.name, 2)
                ends = [IngestionFinished.model_validate_json(value) for _, value in said]
                assert {key.decode(): end.outcome for (key, _), end in zip(said, ends, strict=True)} == {
                    key: "done", asked.json()["request_id"]: "failed",
                }  # fmt: skip
                made = message_of(*(example_prediction(prediction_id=uuid4()) for _ in range(2)))
                for _ in range(2):
                    await publish(outside, topic=PREDICTION_MADE.name, key="any", event=made, envelope=envelope(made))

                async def both_kept() -> bool:
                    return database.execute("SELECT count(*) FROM raw_data.predictions").fetchone() == (2,)

                async def ready() -> bool:
                    return (await client.get("/readyz")).status_code == 200

                await until(both_kept)
                await until(ready)
                page = (await client.get("/docs")).text
                assert ("docs-files/swagger-ui-bundle.js" in page, "//" in page) == (True, False)  # no host outside
                assert (await client.get("/redoc")).status_code == 404
                assert len((await client.get("/ingestions")).json()["ingestions"]) == 2
            assert process.failure is None
        finally:
            await outside.stop()
