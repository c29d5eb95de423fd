"""The whole service: its REST face, its loops, and the composition on a real broker and a real database."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import httpx
import psycopg
import pytest
from aiokafka import AIOKafkaConsumer
from fastapi import FastAPI
from prometheus_client import REGISTRY
from psycopg.conninfo import conninfo_to_dict

from readmit_chassis.envelope import new_envelope
from readmit_chassis.failures import Transient
from readmit_chassis.kafka import create_topics, make_broker, publish
from readmit_chassis.outages import answer_outages
from readmit_chassis.process import Process
from readmit_chassis.s3 import MemoryStore
from readmit_chassis.settings import load_settings
from readmit_chassis.testing import embedded_kafka, free_port
from readmit_contracts.events import Event, ModelLoaded, ModelPromoted, ModelRegistered
from readmit_contracts.examples import EXAMPLES
from readmit_contracts.topics import MODEL_LOADED, MODEL_PROMOTED, MODEL_REGISTERED
from readmit_promoter import store
from readmit_promoter.app import make_app
from readmit_promoter.handlers import judge, keep_reconciled, observe
from readmit_promoter.policy import Policy
from readmit_promoter.registry import MlflowRegistry
from readmit_promoter.settings import Settings

Candidate = Callable[..., ModelRegistered]
Cohort = Callable[..., dict[str, Any]]
#: FastStream forgets to close its producer when Kafka cannot be reached.
KAFKA_AWAY = pytest.mark.filterwarnings("ignore:Unclosed AIOKafkaProducer:ResourceWarning")
LOADED = next(example for example in EXAMPLES if isinstance(example, ModelLoaded))


async def until(condition: Callable[[], Any], timeout_s: float = 30.0) -> None:
    """Return once the condition (a function or a coroutine function) holds."""
    async with asyncio.timeout(timeout_s):
        while True:
            holds = condition()
            if await holds if asyncio.iscoroutine(holds) else holds:
                return
            await asyncio.sleep(0.02)


@pytest.fixture
def settings(conninfo: str, monkeypatch: pytest.MonkeyPatch) -> Settings:
    """As the environment would give them, with Kafka, S3 and MLflow away."""
    database = conninfo_to_dict(conninfo)
    environment = {
        "KAFKA__BOOTSTRAP_SERVERS": f"127.0.0.1:{free_port()}",
        "KAFKA__IDEMPOTENT_PRODUCER": "false",
        "POSTGRES__HOST": database["host"],
        "POSTGRES__PORT": database["port"],
        "POSTGRES__DATABASE": database["dbname"],
        "POSTGRES__USER": database["user"],
        "POSTGRES__PASSWORD": "trusted",
        "S3__ENDPOINT_URL": "http://127.0.0.1:1",
        "S3__ACCESS_KEY": "key",
        "S3__SECRET_KEY": "secret",
        "MLFLOW_URL": "http://127.0.0.1:1",
    }
    for name, value in environment.items():
        monkeypatch.setenv(f"PROMOTER_{name}", str(value))
    return load_settings(Settings)


@asynccontextmanager
async def running(app: FastAPI) -> AsyncIterator[httpx.AsyncClient]:
    """The application with its lifespan, and a client of it."""
    transport = httpx.ASGITransport(app)
    client = httpx.AsyncClient(base_url="http://promoter", transport=transport)
    async with app.router.lifespan_context(app), client:
        yield client
    gc.collect()  # so that what was not closed is found here


@pytest.mark.stack
@KAFKA_AWAY
async def test_with_kafka_s3_and_mlflow_away_it_lives_and_shows_the_ledger_but_is_not_ready(
    settings: Settings,
) -> None:
    process = Process()
    async with running(make_app(settings, process)) as client:
        assert (await client.get("/livez")).status_code == 200
        ready = await client.get("/readyz")
        assert (ready.status_code, ready.json()["waiting_for"]) == (503, ["kafka"])
        assert (await client.get("/champion")).json() == {"champion": None}
        assert (await client.get("/decisions")).json() == {"decisions": []}
        assert (await client.get("/pods")).json() == {"pods": []}
        assert (await client.get("/decisions?limit=0")).status_code == 422
    assert process.failure is None


@pytest.mark.stack
async def test_from_registered_to_promoted_to_loaded_over_kafka(
    settings: Settings, candidate: Candidate, cohort: Cohort, objects: MemoryStore
) -> None:
    """A candidate comes in as an event; the promotion goes out as one; MLflow is away all the time."""
    with embedded_kafka() as address:
        topics = (MODEL_REGISTERED, MODEL_PROMOTED, MODEL_LOADED)
        await create_topics(address, [(topic.name, 1, {}) for topic in topics])
        kafka = settings.kafka.model_copy(update={"bootstrap_servers": address})
        settings = settings.model_copy(update={"kafka": kafka})
        outside = make_broker(kafka, "outside")
        process = Process()
        event = candidate(cohort(1.0, rows=1000))
        await outside.start()
        try:
            async with running(make_app(settings, process, objects)) as client:
                await publish(outside, topic=MODEL_REGISTERED.name, key="any", event=event, envelope=_envelope(event))
                promoted = await _first(address, MODEL_PROMOTED.name)
                assert (promoted.epoch, promoted.model, promoted.bundle) == (1, event.model, event.bundle)
                champion = (await client.get("/champion")).json()["champion"]
                assert (champion["version"], champion["epoch"]) == (event.model.version, 1)

                loaded = LOADED.model_copy(update={"model": event.model, "epoch": 1, "sha256": event.bundle.sha256})
                await publish(outside, topic=MODEL_LOADED.name, key="pod", event=loaded, envelope=_envelope(loaded))
                await until(lambda: _pods(client))
                [pod] = (await client.get("/pods")).json()["pods"]
                assert (pod["pod_id"], pod["epoch"], pod["outcome"]) == (loaded.pod_id, 1, "serving")
                assert (await client.get("/readyz")).status_code == 200
            assert process.failure is None
        finally:
            await outside.stop()


def _envelope(event: Event) -> Any:
    return new_envelope(event.EVENT_TYPE, source="test", subject="any")


async def _pods(client: httpx.AsyncClient) -> bool:
    return bool((await client.get("/pods")).json()["pods"])


async def _first(address: str, topic: str) -> ModelPromoted:
    """The first event of the topic, as a pod would hear it."""
    consumer = AIOKafkaConsumer(topic, bootstrap_servers=address, auto_offset_reset="earliest")
    await consumer.start()
    try:
        record = await asyncio.wait_for(consumer.getone(), 60)
        return ModelPromoted.model_validate_json(record.value)
    finally:
        await consumer.stop()


@pytest.mark.stack
@KAFKA_AWAY
async def test_decisions_are_answered_newest_first_with_their_figures(
    settings: Settings,
    pool: store.Pool,
    candidate: Candidate,
    cohort: Cohort,
    objects: MemoryStore,
    quick_policy: Policy,
) -> None:
    first, second = candidate(cohort(3.0), synthetic=True), candidate(cohort(0.5), synthetic=True)
    for event in (first, second):
        await judge(event, _envelope(event), pool=pool, objects=objects, policy=quick_policy)
    async with running(make_app(settings, Process())) as client:
        newest, oldest = (await client.get("/decisions")).json()["decisions"]
        assert (await client.get("/decisions?limit=1")).json()["decisions"] == [newest]
    assert (newest["candidate"]["version"], oldest["candidate"]["version"]) == ("2", "1")
    assert (newest["epoch"], newest["outcome"], newest["reason"]) == (2, "promoted", "beats_champion")
    assert newest["champion_before"] == first.model.model_dump()
    assert 0 < newest["difference_low"] < newest["difference"] < newest["difference_high"]
    assert (newest["synthetic"], newest["evidence_sha256"]) == (True, second.evidence.sha256)
    assert oldest["difference"] is None


@pytest.mark.stack
async def test_a_promotion_does_not_wait_for_mlflow_which_follows_when_it_is_back(
    pool: store.Pool,
    candidate: Candidate,
    cohort: Cohort,
    objects: MemoryStore,
    quick_policy: Policy,
    fake_mlflow: Any,
) -> None:
    event = candidate(cohort(1.0))
    decided = asyncio.Event()
    transport = httpx.MockTransport(fake_mlflow)
    async with httpx.AsyncClient(base_url="http://mlflow", transport=transport) as client:
        for path, body in (("registered-models/create", {}), ("model-versions/create", {"source": "s3://b/x"})):
            await client.post(f"/api/2.0/mlflow/{path}", json={"name": event.model.name, **body})
        fake_mlflow.available = False
        loop = keep_reconciled(pool, MlflowRegistry(client), decided=decided, interval_s=60)
        async with Process().background(loop):
            await judge(event, _envelope(event), pool=pool, objects=objects, policy=quick_policy)
            decided.set()
            async with store.transaction(pool) as connection:
                assert (await store.champion(connection)) is not None
            await until(lambda: REGISTRY.get_sample_value("registry_lags") == 1)
            assert fake_mlflow.writes == 0
            fake_mlflow.available = True
            await until(lambda: REGISTRY.get_sample_value("registry_lags") == 0)
    assert fake_mlflow.aliases[event.model.name] == {"champion": "1"}


@pytest.mark.stack
async def test_the_gauges_tell_who_serves_the_champion(
    pool: store.Pool, candidate: Candidate, cohort: Cohort, objects: MemoryStore, quick_policy: Policy
) -> None:
    for noise in (3.0, 0.1):
        event = candidate(cohort(noise))
        await judge(event, _envelope(event), pool=pool, objects=objects, policy=quick_policy)
    for pod, epoch, outcome in (("a", 2, "serving"), ("b", 1, "serving"), ("c", 2, "refused"), ("d", 2, "serving")):
        update = {"pod_id": pod, "epoch": epoch, "outcome": outcome}
        await store.note_pod(pool, LOADED.model_copy(update=update))
    await observe(pool)
    assert REGISTRY.get_sample_value("champion_epoch") == 2
    seen = {state: REGISTRY.get_sample_value("pods", {"state": state}) for state in ("serving", "behind", "refused")}
    assert seen == {"serving": 2, "behind": 1, "refused": 1}


@pytest.mark.stack
@KAFKA_AWAY
async def test_at_start_the_champion_is_announced_again(
    settings: Settings,
    conninfo: str,
    pool: store.Pool,
    candidate: Candidate,
    cohort: Cohort,
    objects: MemoryStore,
    quick_policy: Policy,
) -> None:
    event = candidate(cohort(1.0))
    await judge(event, _envelope(event), pool=pool, objects=objects, policy=quick_policy)
    async with running(make_app(settings, Process())):
        pass
    with psycopg.connect(conninfo) as connection:
        payloads = connection.execute("SELECT payload FROM governance.outbox ORDER BY id").fetchall()
    assert len(payloads) == 2
    assert payloads[0] == payloads[1]


async def test_a_database_that_is_away_is_503_as_problem_details() -> None:
    app = FastAPI()
    answer_outages(app, Transient, detail="The ledger cannot be read now.")

    @app.get("/decisions")
    async def away() -> None:
        raise Transient("database: password=secret")

    async with httpx.AsyncClient(base_url="http://promoter", transport=httpx.ASGITransport(app)) as client:
        answer = await client.get("/decisions")
    assert (answer.status_code, answer.headers["content-type"]) == (503, "application/problem+json")
    assert answer.json()["status"] == 503
    assert "secret" not in answer.text


@pytest.mark.parametrize("event", [ModelRegistered, ModelLoaded])
def test_the_examples_of_the_contract_can_be_read(event: type[Event]) -> None:
    example = next(example for example in EXAMPLES if isinstance(example, event))
    assert event.model_validate_json(example.model_dump_json()) == example
