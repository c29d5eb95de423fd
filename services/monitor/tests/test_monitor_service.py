"""The whole service: its REST face, its settings, and the composition on a real broker and a real database."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any, TypeVar

import httpx
import pytest
from aiokafka import AIOKafkaConsumer
from fastapi import FastAPI
from psycopg.conninfo import conninfo_to_dict

from readmit_chassis.envelope import Envelope, new_envelope
from readmit_chassis.kafka import create_topics, make_broker, publish
from readmit_chassis.process import Process
from readmit_chassis.settings import load_settings
from readmit_chassis.testing import embedded_kafka, free_port
from readmit_contracts.events import (
    BatchReady,
    DriftDetected,
    Event,
    ModelPromoted,
    OutcomeRecorded,
    PerformanceDegraded,
    PredictionMade,
    PredictionsMade,
)
from readmit_contracts.examples import EXAMPLES
from readmit_contracts.testing import message_of
from readmit_contracts.topics import (
    BATCH_READY,
    DRIFT_DETECTED,
    MODEL_PROMOTED,
    OUTCOME_RECORDED,
    PERFORMANCE_DEGRADED,
    PREDICTION_MADE,
    Topic,
)
from readmit_monitor.app import make_app
from readmit_monitor.settings import Settings

Predict = Callable[..., list[PredictionMade]]
E = TypeVar("E", bound=Event)
#: FastStream forgets to close its producer when Kafka cannot be reached.
KAFKA_AWAY = pytest.mark.filterwarnings("ignore:Unclosed AIOKafkaProducer:ResourceWarning")
PROMOTED = next(example for example in EXAMPLES if isinstance(example, ModelPromoted))
BATCH = next(example for example in EXAMPLES if isinstance(example, BatchReady)).model_copy(update={"synthetic": True})


@pytest.fixture
def environment(conninfo: str, monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """As a deployment would set it, with Kafka away."""
    database = conninfo_to_dict(conninfo)
    variables = {
        "KAFKA__BOOTSTRAP_SERVERS": f"127.0.0.1:{free_port()}",
        "KAFKA__IDEMPOTENT_PRODUCER": "false",
        "POSTGRES__HOST": database["host"],
        "POSTGRES__PORT": database["port"],
        "POSTGRES__DATABASE": database["dbname"],
        "POSTGRES__USER": database["user"],
        "POSTGRES__PASSWORD": "trusted",
    }
    for name, value in variables.items():
        monkeypatch.setenv(f"MONITOR_{name}", str(value))
    return monkeypatch


@pytest.fixture
def settings(environment: pytest.MonkeyPatch) -> Settings:
    return load_settings(Settings)


@asynccontextmanager
async def running(app: FastAPI) -> AsyncIterator[httpx.AsyncClient]:
    """The application with its lifespan, and a client of it."""
    client = httpx.AsyncClient(base_url="http://monitor", transport=httpx.ASGITransport(app))
    async with app.router.lifespan_context(app), client:
        yield client
    gc.collect()  # so that what was not closed is found here


async def until(condition: Callable[[], Any], timeout_s: float = 60.0) -> Any:
    """The condition's first truthy value."""
    async with asyncio.timeout(timeout_s):
        while not (value := await condition()):  # noqa: ASYNC110  what is waited for is in another process
            await asyncio.sleep(0.05)
    return value


@pytest.mark.stack
@KAFKA_AWAY
async def test_with_kafka_away_it_lives_and_answers_but_is_not_ready(settings: Settings) -> None:
    process = Process()
    async with running(make_app(settings, process)) as client:
        assert (await client.get("/livez")).status_code == 200
        page = (await client.get("/docs")).text
        assert ("docs-files/swagger-ui-bundle.js" in page, "//" in page) == (True, False)  # no host outside
        assert (await client.get("/redoc")).status_code == 404
        ready = await client.get("/readyz")
        assert (ready.status_code, ready.json()["waiting_for"]) == (503, ["kafka"])
        drift = (await client.get("/drift")).json()
        assert (drift["state"], drift["window_rows"], drift["min_rows"]) == ("no_predictions", 0, 500)
        assert (await client.get("/predictions/summary")).json() == {"rows": 0, "models": []}
        performance = (await client.get("/performance")).json()
        assert (performance["state"], performance["window_rows"], performance["min_rows"]) == ("no_champion", 0, 500)
        metrics = (await client.get("/metrics")).text
    assert "drift_threshold_psi 0.2" in metrics
    assert "live_auroc NaN" in metrics
    assert process.failure is None


Say = Callable[[Topic, Event], Awaitable[None]]


@asynccontextmanager
async def watching(settings: Settings, **changed: Any) -> AsyncIterator[tuple[httpx.AsyncClient, Say, str]]:
    """A monitor on a broker of its own, somebody who publishes to it, and the broker's address."""
    topics = (BATCH_READY, PREDICTION_MADE, DRIFT_DETECTED, MODEL_PROMOTED, OUTCOME_RECORDED, PERFORMANCE_DEGRADED)
    with embedded_kafka() as address:
        await create_topics(address, [(topic.name, topic.partitions, {}) for topic in topics])
        kafka = settings.kafka.model_copy(update={"bootstrap_servers": address})
        quick = settings.model_copy(
            update={"kafka": kafka, "evaluate_every_s": 0.5, "evaluate_every_rows": 50} | changed
        )
        outside = make_broker(kafka, "outside")
        process = Process()
        await outside.start()

        async def say(topic: Topic, event: Event) -> None:
            envelope = new_envelope(event.EVENT_TYPE, source="test", subject="any")
            await publish(outside, topic=topic.name, key="any", event=event, envelope=envelope)

        try:
            async with running(make_app(quick, process)) as client:
                yield client, say, address
            assert process.failure is None
        finally:
            await outside.stop()


async def ready(client: httpx.AsyncClient) -> None:
    """Once every consumer runs. Those that run already do not wait for the others."""

    async def is_ready() -> bool:
        return (await client.get("/readyz")).status_code == 200

    await until(is_ready)


async def found(client: httpx.AsyncClient, path: str, state: str) -> Any:
    """What stands at a path once it is in this state."""

    async def there() -> Any:
        document = (await client.get(path)).json()
        return document if document["state"] == state else None

    return await until(there)


@pytest.mark.stack
async def test_from_batches_and_predictions_to_drift_over_kafka(settings: Settings, predict: Predict) -> None:
    async with watching(settings) as (client, say, address):
        await say(BATCH_READY, BATCH.model_copy(update={"dataset_version": 1}))
        made = predict(520, changed={"payer_code": None})
        for first in range(0, len(made), 40):
            await say(PREDICTION_MADE, message_of(*made[first : first + 40]))
        drift = await found(client, "/drift", "drifted")
        assert drift["figures"][0]["feature"] == "payer_code"
        assert (drift["reference_dataset_version"], drift["reference_rows"]) == (1, 4000)
        summary = (await client.get("/predictions/summary")).json()
        assert summary["rows"] == summary["models"][0]["rows"] >= 500
        await ready(client)
        detected = await _first(address, DRIFT_DETECTED, DriftDetected)
        assert [figure.feature for figure in detected.drifted] == ["payer_code"]


@pytest.mark.stack
async def test_from_predictions_and_outcomes_that_contradict_them_to_a_degraded_champion_over_kafka(
    settings: Settings, predict: Predict
) -> None:
    async with watching(settings, min_outcomes=300, outcomes_after_days=0) as (client, say, address):
        await say(MODEL_PROMOTED, PROMOTED.model_copy(update={"epoch": 1, "validation_auroc": 0.7}))
        events = predict(320)
        low = sorted(event.risk for event in events)[60]
        for event in events:
            happened = OutcomeRecorded(
                prediction_id=event.prediction_id, readmitted_within_30_days=event.risk < low, recorded_at=event.at
            )
            await say(OUTCOME_RECORDED, happened)
        for event in events:
            await say(PREDICTION_MADE, message_of(event))
        performance = await found(client, "/performance", "degraded")
        assert performance["figures"][0]["name"] == "auroc"
        assert performance["figures"][0]["high"] < 0.67
        said = await _first(address, PERFORMANCE_DEGRADED, PerformanceDegraded)
        assert (said.epoch, said.model, said.degraded[0].reference) == (1, PROMOTED.model, 0.7)
        assert said.window_rows >= 300


async def _first(address: str, topic: Topic, kind: type[E]) -> E:
    """The first event of a topic, as anybody would hear it."""
    consumer = AIOKafkaConsumer(topic.name, bootstrap_servers=address, auto_offset_reset="earliest")
    await consumer.start()
    try:
        record = await asyncio.wait_for(consumer.getone(), 60)
    finally:
        await consumer.stop()
    assert Envelope.from_headers({k: v.decode() for k, v in record.headers}).type == kind.EVENT_TYPE
    return kind.model_validate_json(record.value)


@pytest.mark.stack
@pytest.mark.parametrize(
    ("variable", "value", "named"),
    [
        ("MIN_ROWS", "3000", "min_rows"),
        ("MIN_OUTCOMES", "3000", "min_outcomes"),
        ("KEEP_ANSWERS_DAYS", "30", "keep_answers_days"),
        ("MAX_AUROC_LOSS", "0", "MAX_AUROC_LOSS"),
        ("OUTCOMES_AFTER_DAYS", "nan", "OUTCOMES_AFTER_DAYS"),
    ],
)
def test_settings_by_which_nothing_could_ever_be_judged_are_refused_at_start(
    environment: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], variable: str, value: str, named: str
) -> None:
    environment.setenv(f"MONITOR_{variable}", value)
    with pytest.raises(SystemExit) as stopped:
        load_settings(Settings)
    assert stopped.value.code == 2
    assert named in capsys.readouterr().err


@pytest.mark.parametrize("event", [BatchReady, PredictionsMade, OutcomeRecorded, ModelPromoted])
def test_the_examples_of_the_contract_can_be_read(event: type[Event]) -> None:
    example = next(example for example in EXAMPLES if isinstance(example, event))
    assert event.model_validate_json(example.model_dump_json()) == example
