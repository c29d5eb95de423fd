"""Promotions heard and loads announced over a real broker of the Kafka protocol."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator

import pytest
from aiokafka import AIOKafkaConsumer
from faststream.kafka import KafkaBroker
from prometheus_client import REGISTRY

from readmit_chassis.envelope import Envelope, new_envelope
from readmit_chassis.kafka import create_topics, make_broker, publish
from readmit_chassis.s3 import MemoryStore
from readmit_chassis.settings import KafkaSettings
from readmit_contracts.encounter import example_encounter
from readmit_contracts.events import (
    MODEL_STREAM,
    ModelLoaded,
    ModelPromoted,
    PredictionMade,
    PredictionsMade,
    RolloutChanged,
)
from readmit_contracts.topics import MODEL_LOADED, MODEL_PROMOTED, PREDICTION_MADE, ROLLOUT_CHANGED, TOPICS
from readmit_inference.settings import Settings
from readmit_inference.testing import promote, rollout, running, tiny_bundle, until

pytestmark = pytest.mark.stack


async def create_all(address: str) -> None:
    await create_topics(address, [(topic.name, topic.partitions, topic.config()) for topic in TOPICS])


@pytest.fixture(scope="module")
def kafka() -> Iterator[KafkaSettings]:
    from readmit_chassis.testing import embedded_kafka  # noqa: PLC0415  its parts are there only for stack tests

    with embedded_kafka() as address:
        asyncio.run(create_all(address))
        yield KafkaSettings(bootstrap_servers=address, idempotent_producer=False)


@pytest.fixture
async def promoter(kafka: KafkaSettings) -> AsyncIterator[KafkaBroker]:
    broker = make_broker(kafka, "promoter")
    await broker.start()
    yield broker
    await broker.stop()


async def announce(promoter: KafkaBroker, promotion: ModelPromoted) -> None:
    envelope = new_envelope(ModelPromoted.EVENT_TYPE, source="promoter", subject=str(promotion.epoch))
    await publish(promoter, topic=MODEL_PROMOTED.name, key=MODEL_STREAM, event=promotion, envelope=envelope)


async def announced(kafka: KafkaSettings, pod_id: str, count: int) -> list[ModelLoaded]:
    """The first loads that a pod announces."""
    consumer = AIOKafkaConsumer(
        MODEL_LOADED.name, bootstrap_servers=kafka.bootstrap_servers, auto_offset_reset="earliest"
    )
    await consumer.start()
    found: list[ModelLoaded] = []
    try:
        async with asyncio.timeout(30):
            async for record in consumer:
                loaded = ModelLoaded.model_validate_json(record.value)
                if loaded.pod_id == pod_id and loaded.occasion == "load":
                    headers = {name: value.decode() for name, value in record.headers}
                    assert Envelope.from_headers(headers).type == ModelLoaded.EVENT_TYPE
                    assert record.key == pod_id.encode()
                    found.append(loaded)
                if len(found) == count:
                    return found
    finally:
        await consumer.stop()
    return found


async def test_every_pod_follows_promotions_and_says_what_it_serves(
    kafka: KafkaSettings, promoter: KafkaBroker, settings: Settings, store: MemoryStore
) -> None:
    def pod(name: str) -> Settings:
        return settings.model_copy(update={"kafka": kafka, "pod_id": name, "cache_dir": settings.cache_dir / name})

    async with running(pod("early"), store) as early:
        for epoch, golden_shift in ((1, 0.0), (2, 0.01), (3, 0.0)):
            await announce(promoter, promote(store, tiny_bundle(epoch, golden_shift=golden_shift), epoch))
            await until(lambda: early.champion.settled == epoch)  # noqa: B023  awaited at once
        async with running(pod("late"), store) as late:
            await until(lambda: late.champion.settled == 3)
            assert (await announced(kafka, "late", 1))[-1].pod_id == "late"
        heard = await announced(kafka, "early", 3)
    assert [(said.outcome, said.epoch) for said in heard] == [("serving", 1), ("refused", 2), ("serving", 3)]


async def test_what_cannot_be_read_on_the_topic_is_skipped(
    kafka: KafkaSettings, promoter: KafkaBroker, settings: Settings, store: MemoryStore
) -> None:
    await promoter.publish(b"not an event", MODEL_PROMOTED.name, key=b"noise")
    await announce(promoter, promote(store, tiny_bundle(4), epoch=9))
    async with running(settings.model_copy(update={"kafka": kafka}), store) as service:
        await until(lambda: service.champion.settled == 9)


async def test_every_answer_becomes_an_event(kafka: KafkaSettings, settings: Settings, store: MemoryStore) -> None:
    """Also those that are still in memory when the pod is asked to stop."""
    async with running(settings.model_copy(update={"kafka": kafka, "pod_id": "logging"}), store) as service:
        await service.settle(promote(store, tiny_bundle(5), epoch=1))
        answers = {}
        for number in range(700):
            answer = (await service.predict(example_encounter() | {"num_lab_procedures": number % 100})).json()
            answers[answer["prediction_id"]] = answer
    events = await logged(kafka, len(answers))
    assert {str(event.prediction_id) for event in events} == set(answers)
    for event in events:
        answer = answers[str(event.prediction_id)]
        assert (event.risk, event.epoch, event.pod_id) == (answer["risk"], answer["model"]["epoch"], "logging")


async def logged(kafka: KafkaSettings, count: int) -> list[PredictionMade]:
    """The first answers of `prediction.made`, as a consumer would read them."""
    consumer = AIOKafkaConsumer(
        PREDICTION_MADE.name, bootstrap_servers=kafka.bootstrap_servers, auto_offset_reset="earliest"
    )
    await consumer.start()
    found: list[PredictionMade] = []
    try:
        async with asyncio.timeout(30):
            while len(found) < count:
                record = await consumer.getone()
                event = PredictionsMade.model_validate_json(record.value)
                envelope = Envelope.from_headers({name: value.decode() for name, value in record.headers})
                assert (record.key, envelope.subject) == (None, event.pod_id)
                assert envelope.type == PredictionsMade.EVENT_TYPE
                found += event.predictions()
    finally:
        await consumer.stop()
    return found


async def test_a_kafka_that_dies_fails_no_request_and_holds_no_shutdown_up(
    settings: Settings, store: MemoryStore
) -> None:
    from readmit_chassis.testing import embedded_kafka  # noqa: PLC0415  its parts are there only for stack tests

    full, lost = dropped("full"), dropped("shutdown")
    with embedded_kafka() as address:
        await create_all(address)
        own = KafkaSettings(bootstrap_servers=address, idempotent_producer=False)
        pod = running(settings.model_copy(update={"kafka": own, "log_capacity": 50}), store)
        service = await pod.__aenter__()
        await service.settle(promote(store, tiny_bundle(6), epoch=1))
        assert (await service.predict(example_encounter())).status_code == 200
        assert len(await logged(own, 1)) == 1
    try:
        for _ in range(400):
            assert (await service.predict(example_encounter())).status_code == 200
    finally:
        async with asyncio.timeout(30):
            await pod.__aexit__(None, None, None)
    assert (dropped("full") - full) + (dropped("shutdown") - lost) == 400


def dropped(reason: str) -> float:
    return REGISTRY.get_sample_value("prediction_log_dropped_total", {"reason": reason}) or 0.0


async def rolled_out(promoter: KafkaBroker, changed: RolloutChanged) -> None:
    envelope = new_envelope(RolloutChanged.EVENT_TYPE, source="promoter", subject=str(changed.revision))
    await publish(promoter, topic=ROLLOUT_CHANGED.name, key=MODEL_STREAM, event=changed, envelope=envelope)


async def words_of(kafka: KafkaSettings, pod_id: str, until_occasion: str) -> list[ModelLoaded]:
    """What a pod has said until the first time that it says this."""
    consumer = AIOKafkaConsumer(
        MODEL_LOADED.name, bootstrap_servers=kafka.bootstrap_servers, auto_offset_reset="earliest"
    )
    await consumer.start()
    found: list[ModelLoaded] = []
    try:
        async with asyncio.timeout(30):
            while not found or found[-1].occasion != until_occasion:
                loaded = ModelLoaded.model_validate_json((await consumer.getone()).value)
                if loaded.pod_id == pod_id:
                    found.append(loaded)
    finally:
        await consumer.stop()
    return found


async def test_every_pod_follows_rollouts_also_after_a_restart_and_lives_aloud(
    kafka: KafkaSettings, promoter: KafkaBroker, settings: Settings, store: MemoryStore
) -> None:
    def pod(name: str) -> Settings:
        own = {"kafka": kafka, "pod_id": name, "cache_dir": settings.cache_dir / name, "heartbeat_s": 0.05}
        return settings.model_copy(update=own)

    await announce(promoter, promote(store, tiny_bundle(1), epoch=20))
    changed = rollout(store, tiny_bundle(2, family="lightgbm"), 7, "canary", share=1.0, champion_epoch=20)
    async with running(pod("trying-1"), store) as one, running(pod("trying-2"), store) as two:
        await until(lambda: one.champion.settled == two.champion.settled == 20)
        await rolled_out(promoter, changed)
        await until(lambda: None not in (one.champion.trial, two.champion.trial))
        models = [(await service.predict(example_encounter())).json()["model"] for service in (one, two)]
        assert models[0] == models[1]
        assert models[0]["role"] == "challenger"
        await asyncio.sleep(0.2)
    words = await words_of(kafka, "trying-1", "leaving")
    assert [(said.occasion, said.role) for said in words].count(("load", "challenger")) == 1
    challenger = [said for said in words if said.role == "challenger"]
    assert {(said.outcome, said.epoch, said.rollout_revision) for said in challenger} == {("serving", 20, 7)}
    beats = [said for said in words if said.occasion == "heartbeat"]
    assert {said.role for said in beats} == {"champion", "challenger"}
    assert [said.at for said in words] == sorted(said.at for said in words)
    assert [said.occasion for said in words].count("leaving") == 1
    async with running(pod("trying-1"), store) as restarted:
        await until(lambda: restarted.champion.trial is not None)
        await rolled_out(promoter, changed.model_copy(update={"revision": 8, "stage": "ended"}))
        await until(lambda: restarted.champion.trial is None)
