"""The whole service: its REST face, its loops, and the composition on a real broker and a real database."""

from __future__ import annotations

import asyncio
import gc
import hashlib
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import uuid4

import httpx
import psycopg
import pytest
from aiokafka import AIOKafkaConsumer
from fastapi import FastAPI
from prometheus_client import REGISTRY
from psycopg.conninfo import conninfo_to_dict

from readmit_chassis.envelope import new_envelope
from readmit_chassis.failures import BadMessage, Transient
from readmit_chassis.kafka import create_topics, make_broker, publish, publisher
from readmit_chassis.outages import answer_outages
from readmit_chassis.process import Process
from readmit_chassis.s3 import MemoryStore
from readmit_chassis.settings import load_settings
from readmit_chassis.testing import embedded_kafka, free_port
from readmit_contracts.events import (
    DriftDetected,
    Event,
    ModelLoaded,
    ModelPromoted,
    ModelRegistered,
    ModelRejected,
    PerformanceDegraded,
    PredictionsMade,
)
from readmit_contracts.examples import EXAMPLES
from readmit_contracts.topics import (
    DRIFT_DETECTED,
    MODEL_LOADED,
    MODEL_PROMOTED,
    MODEL_REGISTERED,
    MODEL_REJECTED,
    PERFORMANCE_DEGRADED,
    PREDICTION_MADE,
)
from readmit_promoter import candidates, pods, store
from readmit_promoter.announcement import Announcement
from readmit_promoter.app import make_app
from readmit_promoter.governor import Progress
from readmit_promoter.handlers import judge_next, keep_reconciled, observe
from readmit_promoter.policy import Policy
from readmit_promoter.registry import MlflowRegistry
from readmit_promoter.settings import Settings

Candidate = Callable[..., ModelRegistered]
Cohort = Callable[..., dict[str, Any]]
#: FastStream forgets to close its producer when Kafka cannot be reached.
KAFKA_AWAY = pytest.mark.filterwarnings("ignore:Unclosed AIOKafkaProducer:ResourceWarning")
DRIFT = next(example for example in EXAMPLES if isinstance(example, DriftDetected))
DEGRADED = next(example for example in EXAMPLES if isinstance(example, PerformanceDegraded))
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
    settings: Settings, quick_policy: Policy
) -> None:
    process = Process()
    async with running(make_app(settings, quick_policy, process)) as client:
        assert (await client.get("/livez")).status_code == 200
        page = (await client.get("/docs")).text
        assert ("docs-files/swagger-ui-bundle.js" in page, "//" in page) == (True, False)  # no host outside
        assert (await client.get("/redoc")).status_code == 404
        ready = await client.get("/readyz")
        assert (ready.status_code, ready.json()["waiting_for"]) == (503, ["kafka"])
        assert (await client.get("/champion")).json() == {"champion": None}
        assert (await client.get("/decisions")).json() == {"decisions": []}
        assert (await client.get("/pods")).json() == {"pods": []}
        assert (await client.get("/decisions?limit=0")).status_code == 422
    assert process.failure is None


@pytest.mark.stack
async def test_from_registered_to_promoted_to_loaded_over_kafka(
    settings: Settings, candidate: Candidate, cohort: Cohort, objects: MemoryStore, quick_policy: Policy
) -> None:
    """A candidate comes in as an event; the promotion goes out as one; MLflow is away all the time."""
    with embedded_kafka() as address:
        topics = (
            MODEL_REGISTERED, MODEL_PROMOTED, MODEL_LOADED, PREDICTION_MADE, DRIFT_DETECTED, PERFORMANCE_DEGRADED,
        )  # fmt: skip
        await create_topics(address, [(topic.name, 1, {}) for topic in topics])
        kafka = settings.kafka.model_copy(update={"bootstrap_servers": address})
        settings = settings.model_copy(update={"kafka": kafka})
        outside = make_broker(kafka, "outside")
        process = Process()
        event = candidate(cohort(1.0, rows=1000))
        await outside.start()
        try:
            async with running(make_app(settings, quick_policy, process, objects)) as client:
                await publish(outside, topic=MODEL_REGISTERED.name, key="any", event=event, envelope=_envelope(event))
                promoted = await _first(address, MODEL_PROMOTED.name)
                assert (promoted.epoch, promoted.model, promoted.bundle) == (1, event.model, event.bundle)
                champion = (await client.get("/champion")).json()["champion"]
                assert (champion["version"], champion["epoch"]) == (event.model.version, 1)

                loaded = LOADED.model_copy(
                    update={
                        "model": event.model, "epoch": 1, "sha256": event.bundle.sha256, "at": datetime.now(UTC)
                    }
                )  # fmt: skip
                await publish(outside, topic=MODEL_LOADED.name, key="pod", event=loaded, envelope=_envelope(loaded))
                await until(lambda: _pods(client))
                [pod] = (await client.get("/pods")).json()["pods"]
                assert (pod["pod_id"], pod["epoch"], pod["outcome"]) == (loaded.pod_id, 1, "serving")
                await until(lambda: _is_ready(client))
                await until(lambda: _has_converged(client))
                promotion = (await client.get("/rollout")).json()["promotion"]
                assert (promotion["epoch"], promotion["missing"], len(promotion["pods"])) == (1, [], 1)
                assert 0 < promotion["first_s"] == promotion["median_s"] == promotion["last_s"] < 60

                for topic, noticed in ((DRIFT_DETECTED, DRIFT), (PERFORMANCE_DEGRADED, DEGRADED)):
                    await publish(outside, topic=topic.name, key="any", event=noticed, envelope=_envelope(noticed))
                await until(lambda: _has_reacted(client, DRIFT.EVENT_TYPE, DEGRADED.EVENT_TYPE))
            assert process.failure is None
        finally:
            await outside.stop()


#: What stands in the place of a figure, as bytes on the topic, and how the ledger tells it.
BAD_FIGURES = {
    b"NaN": "NaN", b"-Infinity": "-Infinity", b"1e999": "Infinity", b"null": "null", b"1.7": "1.7", b'"high"': '"high"',
    b'{"x": 1}': "an object",
}  # fmt: skip


@pytest.mark.stack
async def test_a_candidate_whose_figures_are_no_figures_is_refused_in_the_ledger_once_and_nothing_changes(
    settings: Settings,
    conninfo: str,
    pool: store.Pool,
    candidate: Candidate,
    cohort: Cohort,
    objects: MemoryStore,
    quick_policy: Policy,
) -> None:
    """Bytes as another program might write them; each comes twice, and once more as another event."""
    champion, *events = [candidate(cohort(1.0)) for _ in range(1 + len(BAD_FIGURES))]
    await _judged(champion, pool, objects, quick_policy)
    bad = {event.model.version: _with_figure(event, figure) for event, figure in zip(events, BAD_FIGURES, strict=True)}
    nameless = bad["2"].replace(b'"version":"2"', b'"version":null')
    with embedded_kafka() as address:
        topics = (MODEL_REGISTERED, MODEL_PROMOTED, MODEL_REJECTED, MODEL_LOADED, PREDICTION_MADE, DRIFT_DETECTED)
        await create_topics(address, [(topic.name, 1, {}) for topic in topics])
        await create_topics(address, [(MODEL_REGISTERED.dead_letter, 1, {})])
        kafka = settings.kafka.model_copy(update={"bootstrap_servers": address})
        outside, process = make_broker(kafka, "outside"), Process()
        await outside.start()
        try:
            app = make_app(settings.model_copy(update={"kafka": kafka}), quick_policy, process, objects)
            async with running(app) as client:
                headers = [_envelope(champion).headers() for _ in range(2)]
                for value in (*bad.values(), nameless):
                    for each in (headers[0], headers[0], headers[1]):
                        await publisher(outside)(MODEL_REGISTERED.name, b"any", value, each)
                letters = await _values(address, MODEL_REGISTERED.dead_letter, 3 * len(bad) + 3)
                told = [ModelRejected.model_validate_json(value) for value, _ in
                        await _values(address, MODEL_REJECTED.name, len(bad))]  # fmt: skip
                decisions = (await client.get("/decisions")).json()["decisions"]
                assert (await client.get("/champion")).json()["champion"]["version"] == champion.model.version
                for decision in decisions:
                    answer = (await client.post(f"/decisions/{decision['decision_id']}/replay")).json()
                    assert (answer["match"], answer["differences"]) == ("same", [])
                unread = decisions[0]["decision_id"]
                whole = (await client.get(f"/decisions/{unread}")).json()
                tried = (
                    await client.post(f"/decisions/{unread}/try", content=json.dumps(quick_policy.document()))
                ).json()
                check = (await client.get("/ledger/check")).json()
                assert (await client.get("/rollout")).json()["candidates_waiting"] == 0
            assert process.failure is None
        finally:
            await outside.stop()
    refused = {each["candidate"]["version"]: each for each in decisions if each["reason"] == "bad_announcement"}
    assert len(decisions) == 1 + len(bad) == 1 + len(refused)
    for version, figure in zip(bad, BAD_FIGURES.values(), strict=True):
        assert (refused[version]["outcome"], refused[version]["evidence_sha256"]) == ("rejected", None)
        assert refused[version]["detail"] == (
            f"the announcement cannot be read: validation.auroc is {figure}, allowed: a number from 0 to 1"
        )
    assert [gate["status"] for gate in whole["judgement"]["fact"]["decision"]["verdict"]["gates"]] == ["fail"]
    assert (tried["outcome"], tried["changed"]) == ("rejected", [])
    assert {each.model.version: each.detail for each in told} == {v: each["detail"] for v, each in refused.items()}
    assert check == {"entries": 2 + len(bad), "intact": True, "problems": []}
    assert {value for value, _ in letters} == {*bad.values(), nameless}
    reasons = {reason for value, reason in letters if value != nameless}
    assert reasons == {"not a ModelRegistered: validation.auroc must be a number from 0 to 1"}

    # A version keeps its judgement: what is announced of it later changes nothing, good or bad.
    with pytest.raises(BadMessage, match="register it as a new version"):
        await store.queue(pool, events[0], _envelope(events[0]))
    spoiled = Announcement.model_validate_json(_with_figure(champion, b"NaN"))
    with pytest.raises(BadMessage, match="not a ModelRegistered"):
        await candidates.take(spoiled, _envelope(champion), pool, quick_policy, lambda: None)
    async with store.transaction(pool) as connection:
        assert (await store.chain(connection))[0] == 2 + len(bad)


def _with_figure(event: ModelRegistered, figure: bytes) -> bytes:
    return event.model_dump_json().encode().replace(b'"auroc":0.5', b'"auroc":' + figure, 1)


async def _values(address: str, topic: str, at_least: int) -> list[tuple[bytes, str]]:
    """The first values of a topic with the reasons of dead letters, once there are so many, and what came with them."""
    consumer = AIOKafkaConsumer(topic, bootstrap_servers=address, auto_offset_reset="earliest")
    await consumer.start()
    found: list[tuple[bytes, str]] = []
    try:
        async with asyncio.timeout(60):
            while len(found) < at_least:
                for records in (await consumer.getmany(timeout_ms=200)).values():
                    found += [(each.value, dict(each.headers).get("dlt_reason", b"").decode()) for each in records]
        for records in (await consumer.getmany(timeout_ms=500)).values():
            found += [(each.value, "one too many") for each in records]
    finally:
        await consumer.stop()
    return found


def _envelope(event: Event) -> Any:
    return new_envelope(event.EVENT_TYPE, source="test", subject="any")


async def _judged(event: ModelRegistered, pool: store.Pool, objects: MemoryStore, policy: Policy) -> Progress | None:
    await store.queue(pool, event, _envelope(event))
    return await judge_next(pool, objects, policy)


async def _is_ready(client: httpx.AsyncClient) -> bool:
    return (await client.get("/readyz")).status_code == 200


async def _has_converged(client: httpx.AsyncClient) -> bool:
    return (await client.get("/rollout")).json()["promotion"]["status"] == "converged"


async def _has_reacted(client: httpx.AsyncClient, *causes: str) -> bool:
    """By what the ledger says: once to each of these types of event."""
    entries = (await client.get("/ledger?kind=reaction")).json()["entries"]
    return sorted(entry["fact"]["cause"].split()[0] for entry in entries) == sorted(causes)


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
        await _judged(event, pool, objects, quick_policy)
    async with running(make_app(settings, quick_policy, Process())) as client:
        newest, oldest = (await client.get("/decisions")).json()["decisions"]
        assert (await client.get("/decisions?limit=1")).json()["decisions"] == [newest]
    assert (newest["candidate"]["version"], oldest["candidate"]["version"]) == ("2", "1")
    assert (newest["epoch"], newest["outcome"], newest["reason"]) == (2, "promoted", "beats_champion")
    assert (newest["verdict"], newest["policy_version"]) == ("accepted", "quick")
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
            await _judged(event, pool, objects, quick_policy)
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
        await _judged(event, pool, objects, quick_policy)
    await pods.note_pod(pool, LOADED.model_copy(update={"pod_id": "gone", "occasion": "leaving"}))
    for pod, epoch, outcome in (("a", 2, "serving"), ("b", 1, "serving"), ("c", 2, "refused"), ("d", 2, "serving")):
        update = {"pod_id": pod, "epoch": epoch, "outcome": outcome}
        await pods.note_pod(pool, LOADED.model_copy(update=update))
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
    await _judged(event, pool, objects, quick_policy)
    async with running(make_app(settings, quick_policy, Process())):
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


@pytest.mark.parametrize("event", [ModelLoaded, PredictionsMade, DriftDetected, PerformanceDegraded])
def test_the_examples_of_the_contract_can_be_read(event: type[Event]) -> None:
    example = next(example for example in EXAMPLES if isinstance(example, event))
    assert event.model_validate_json(example.model_dump_json()) == example


def test_the_example_of_a_candidate_is_read_whole_from_its_announcement() -> None:
    example = next(example for example in EXAMPLES if isinstance(example, ModelRegistered))
    assert Announcement.model_validate_json(example.model_dump_json()).read() == example


KEYS = {"vera": "viewer", "ada": "approver", "root": "admin"}


@pytest.fixture
def with_keys(settings: Settings, tmp_path: Path) -> Settings:
    """Settings with a key for each role: its own name."""
    file = tmp_path / "keys.json"
    entries = [
        {"id": who, "sha256": hashlib.sha256(who.encode()).hexdigest(), "scopes": [role]} for who, role in KEYS.items()
    ]
    file.write_text(json.dumps({"keys": entries}))
    return settings.model_copy(update={"api_keys_file": file})


def _as(who: str) -> dict[str, str]:
    return {"x-api-key": who}


@pytest.mark.stack
@KAFKA_AWAY
async def test_commands_take_a_role_and_a_reason_and_what_is_denied_is_written_down(
    with_keys: Settings,
    pool: store.Pool,
    candidate: Candidate,
    cohort: Cohort,
    objects: MemoryStore,
    quick_policy: Policy,
) -> None:
    for noise in (3.0, 1.0):
        await _judged(candidate(cohort(noise)), pool, objects, quick_policy)
    because = {"reason": "alerts doubled"}
    async with running(make_app(with_keys, quick_policy, Process(), objects)) as client:
        before = (await client.get("/ledger")).json()["entries"]
        for headers in ({}, _as("nobody"), {"authorization": "Bearer nobody"}):
            answer = await client.post("/rollback", json=because, headers=headers)
            assert (answer.status_code, answer.headers["www-authenticate"]) == (401, "Bearer")
        assert (await client.post("/rollback", json={"reason": " "}, headers=_as("ada"))).status_code == 422
        assert (await client.get("/ledger")).json()["entries"] == before

        answer = await client.post("/rollback", json=because, headers=_as("vera"))
        assert (answer.status_code, answer.json()["title"]) == (403, "Forbidden")
        assert "takes the role approver" in answer.json()["detail"]
        [denied] = (await client.get("/ledger?limit=1")).json()["entries"]
        assert (denied["kind"], denied["by"], denied["fact"]["problem"]) == ("denial", "vera", "forbidden")

        never = {"reason": "typo", "to": {"name": "diabetes_readmission_lightgbm", "version": "99"}}
        answer = await client.post("/rollback", json=never, headers=_as("ada"))
        assert (answer.status_code, answer.json()["type"]) == (409, "urn:readmit:problem:never_served")
        assert "Allowed: diabetes_readmission_lightgbm version 1." in answer.json()["detail"]
        [denied] = (await client.get("/ledger?limit=1&kind=denial")).json()["entries"]
        assert (denied["by"], denied["fact"]["asked"]) == ("ada", never)

        answer = await client.post("/rollback", json=because, headers={"authorization": "Bearer ada"})
        assert (answer.status_code, answer.json()["kind"], answer.json()["by"]) == (200, "rollback", "ada")
        champion = (await client.get("/champion")).json()["champion"]
        assert (champion["version"], champion["epoch"], champion["action"]) == ("1", 3, "rollback")
        assert (champion["decided_by"], champion["reason"]) == ("ada", "alerts doubled")

        assert (await client.post("/freeze", json=because, headers=_as("ada"))).status_code == 200
        assert (await client.get("/rollout")).json()["frozen"] is True
        assert (await client.post("/unfreeze", json=because, headers=_as("ada"))).status_code == 403
        assert (await client.post("/unfreeze", json=because, headers=_as("root"))).status_code == 200
        answer = await client.post("/trial/end", json=because, headers=_as("root"))
        assert answer.json()["type"] == "urn:readmit:problem:no_trial"
        check = (await client.get("/ledger/check")).json()
        assert (check["intact"], check["problems"]) == (True, [])


@pytest.mark.stack
@KAFKA_AWAY
async def test_a_person_approves_over_rest(
    with_keys: Settings,
    pool: store.Pool,
    candidate: Candidate,
    cohort: Cohort,
    objects: MemoryStore,
    quick_policy: Policy,
) -> None:
    manual = quick_policy.model_copy(update={"rollout": quick_policy.rollout.model_copy(update={"approval": "manual"})})
    for noise in (3.0, 1.0):
        await _judged(candidate(cohort(noise)), pool, objects, manual)
    async with running(make_app(with_keys, manual, Process(), objects)) as client:
        second, first = (await client.get("/decisions")).json()["decisions"]
        assert [first["outcome"], second["outcome"]] == ["waiting_for_approval"] * 2
        assert (await client.get("/rollout")).json()["candidates_unanswered"] == 2
        because = {"reason": "looked at it"}
        answer = await client.post(f"/decisions/{second['decision_id']}/refuse", json=because, headers=_as("ada"))
        assert answer.json()["kind"] == "refusal"
        assert (await client.get("/rollout")).json()["candidates_unanswered"] == 1
        answer = await client.post(f"/decisions/{first['decision_id']}/approve", json=because, headers=_as("ada"))
        assert answer.json() == {"outcome": "promoted"}
        assert (await client.get("/rollout")).json()["candidates_unanswered"] == 0
        answer = await client.post(f"/decisions/{uuid4()}/approve", json=because, headers=_as("ada"))
        assert answer.json()["type"] == "urn:readmit:problem:unknown_decision"
        second, first = (await client.get("/decisions")).json()["decisions"]
        assert (first["outcome"], first["epoch"], second["outcome"]) == ("promoted", 1, "refused")
        whole = (await client.get(f"/decisions/{first['decision_id']}")).json()
        assert [entry["kind"] for entry in whole["followed_by"]] == ["approval", "promotion"]
        assert whole["followed_by"][0]["by"] == "ada"


@pytest.mark.stack
@KAFKA_AWAY
async def test_without_keys_everybody_reads_and_nobody_changes_anything(
    settings: Settings, with_keys: Settings, quick_policy: Policy
) -> None:
    async with running(make_app(settings, quick_policy, Process())) as client:
        assert (await client.get("/rollout")).json() == {
            "promotion": None, "trial": None, "frozen": False, "candidates_waiting": 0,
            "candidates_unanswered": 0,
        }  # fmt: skip
        answer = await client.post("/freeze", json={"reason": "anybody"})
        assert (answer.status_code, "PROMOTER_API_KEYS_FILE" in answer.json()["detail"]) == (401, True)
    closed = with_keys.model_copy(update={"open_reading": False})
    async with running(make_app(closed, quick_policy, Process())) as client:
        assert (await client.get("/decisions")).status_code == 401
        assert (await client.get("/decisions", headers=_as("vera"))).status_code == 200
        assert (await client.get("/livez")).status_code == 200


@pytest.mark.stack
@KAFKA_AWAY
async def test_decisions_are_derived_again_and_tried_under_another_policy(
    settings: Settings,
    pool: store.Pool,
    candidate: Candidate,
    cohort: Cohort,
    objects: MemoryStore,
    quick_policy: Policy,
) -> None:
    events = [candidate(cohort(noise)) for noise in (3.0, 1.0, 2.0)]
    for event in events:
        await _judged(event, pool, objects, quick_policy)
    async with running(make_app(settings, quick_policy, Process(), objects)) as client:
        assert (await client.get("/policy")).json()["version"] == "quick"
        rejected, promoted, first = [
            f"/decisions/{decision['decision_id']}" for decision in (await client.get("/decisions")).json()["decisions"]
        ]
        for path in (rejected, promoted, first):
            assert (await client.post(f"{path}/replay")).json()["match"] == "same"
        gates = (await client.get(promoted)).json()["judgement"]["fact"]["decision"]["verdict"]["gates"]
        assert {"champion", "calibration", "net_benefit", "subgroups", "latency"} <= {gate["gate"] for gate in gates}

        stricter = json.loads(json.dumps(quick_policy.document()))
        stricter["gates"]["evidence"]["min_rows"] = 10_000
        headers = {"content-type": "application/yaml"}
        tried = (await client.post(f"{promoted}/try", content=json.dumps(stricter), headers=headers)).json()
        assert (tried["outcome_before"], tried["outcome"]) == ("accepted", "rejected")
        assert {"gate": "evidence", "before": "pass", "now": "fail"} in [
            gate | {"now": "fail" if gate["now"] != "pass" else "pass"} for gate in tried["changed"]
        ]
        answer = await client.post(f"{promoted}/try", content=b"gates: {fairness: {}}", headers=headers)
        assert (answer.status_code, answer.json()["type"]) == (409, "urn:readmit:problem:bad_policy")
        assert "gates.fairness: unknown gate" in answer.json()["detail"]

        objects.objects.pop(events[1].evidence.uri)
        assert (await client.post(f"{promoted}/replay")).json()["match"] == "evidence_missing"
        assert (await client.post(f"/decisions/{uuid4()}/replay")).status_code == 404


@pytest.mark.stack
@KAFKA_AWAY
async def test_what_was_champion_at_a_time_is_asked_with_a_zone(
    settings: Settings,
    pool: store.Pool,
    candidate: Candidate,
    cohort: Cohort,
    objects: MemoryStore,
    quick_policy: Policy,
) -> None:
    await _judged(candidate(cohort(1.0)), pool, objects, quick_policy)
    async with running(make_app(settings, quick_policy, Process(), objects)) as client:
        now = datetime.now(UTC)
        for at, version in ((now, "1"), (now - timedelta(hours=1), None)):
            champion = (await client.get("/champion", params={"as_of": at.isoformat()})).json()["champion"]
            assert (champion and champion["version"]) == version
        assert (await client.get("/champion?as_of=2026-11-28T12:00")).status_code == 422
