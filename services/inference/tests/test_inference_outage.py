"""Kafka and S3 go away under load and come back: no request fails, no answer is lost, and the pod catches up."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from collections.abc import Awaitable, Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from uuid import UUID

import httpx
import pytest
from aiokafka import AIOKafkaConsumer

from readmit_chassis.envelope import new_envelope
from readmit_chassis.kafka import create_topics, make_broker, publish
from readmit_chassis.s3 import S3Store
from readmit_chassis.settings import KafkaSettings
from readmit_chassis.testing import embedded_kafka, free_port, gate, s3_server
from readmit_contracts.encounter import example_encounter
from readmit_contracts.events import MODEL_STREAM, ModelLoaded, ModelPromoted, PredictionsMade
from readmit_contracts.topics import MODEL_LOADED, MODEL_PROMOTED, PREDICTION_MADE, TOPICS
from readmit_inference.testing import ROOT, promote, tiny_bundle

pytestmark = [pytest.mark.stack, pytest.mark.timeout(180)]

_AWAY_S = 3.0


class Pod:
    """A pod as a process, and clients that ask it without a pause."""

    def __init__(self, address: str) -> None:
        self._client = httpx.AsyncClient(base_url=address, timeout=10)
        self.epochs: list[int] = []
        self.failures: list[str] = []

    async def ask(self) -> None:
        while True:
            try:
                answer = await self._client.post("/predict", json=example_encounter())
            except httpx.HTTPError as error:
                self.failures.append(repr(error))
                continue
            if answer.status_code == 200:
                self.epochs.append(answer.json()["model"]["epoch"])
            else:
                self.failures.append(answer.text)
            await asyncio.sleep(0.005)

    async def close(self) -> None:
        await self._client.aclose()

    async def ready(self) -> bool:
        try:
            return (await self._client.get("/readyz")).status_code == 200
        except httpx.TransportError:
            return False

    async def metric(self, sample: str) -> float:
        lines = (await self._client.get("/metrics")).text.splitlines()
        return sum(float(line.rpartition(" ")[2]) for line in lines if line.rpartition(" ")[0] == sample)

    async def reaches(self, sample: str, least: float) -> None:
        async def reached() -> bool:
            return await self.metric(sample) >= least

        await eventually(reached)


async def eventually(condition: Callable[[], Awaitable[bool]]) -> None:
    async with asyncio.timeout(60):
        while not await condition():  # noqa: ASYNC110  what is waited for is in another process
            await asyncio.sleep(0.1)


@contextmanager
def running_pod(environment: dict[str, str], log: Path) -> Iterator[Pod]:
    port = free_port()
    with log.open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "readmit_inference"],
            env=os.environ | environment | {"INFERENCE_PORT": str(port)}, stderr=output, stdout=output,
        )  # fmt: skip
    try:
        yield Pod(f"http://127.0.0.1:{port}")
    finally:
        process.terminate()
        process.wait(timeout=30)


async def test_kafka_and_s3_go_and_come_back_under_load(tmp_path: Path) -> None:
    with ExitStack() as stack:
        kafka_port = free_port()
        broker_address = stack.enter_context(embedded_kafka(advertised_port=kafka_port))
        kafka = stack.enter_context(gate(int(broker_address.rpartition(":")[2]), kafka_port))
        direct = stack.enter_context(s3_server(ROOT.removeprefix("s3://").partition("/")[0]))
        s3 = stack.enter_context(gate(int(direct.endpoint_url.rpartition(":")[2])))
        settings = KafkaSettings(bootstrap_servers=f"127.0.0.1:{kafka.port}", idempotent_producer=False)
        await create_topics(settings.bootstrap_servers, [(t.name, t.partitions, t.config()) for t in TOPICS])
        store = S3Store(direct)
        promotions = [promote(store, tiny_bundle(epoch, family="lightgbm"), epoch) for epoch in (1, 2)]
        store._client.close()  # else its socket is collected in somebody else's test
        environment = {
            "INFERENCE_POD_ID": "pod-1",
            "INFERENCE_HEARTBEAT_S": "3600",
            "INFERENCE_CACHE_DIR": str(tmp_path / "cache"),
            "INFERENCE_KAFKA__BOOTSTRAP_SERVERS": settings.bootstrap_servers,
            "INFERENCE_KAFKA__IDEMPOTENT_PRODUCER": "false",
            "INFERENCE_S3__ENDPOINT_URL": f"http://127.0.0.1:{s3.port}",
            "INFERENCE_S3__ACCESS_KEY": direct.access_key,
            "INFERENCE_S3__SECRET_KEY": direct.secret_key.get_secret_value(),
        }
        pod = stack.enter_context(running_pod(environment, tmp_path / "log"))
        await announce(settings, promotions[0])
        await eventually(pod.ready)
        clients = [asyncio.create_task(pod.ask()) for _ in range(4)]
        await pod.reaches("prediction_log_published_total", 50)

        kafka.shut()
        s3.shut()
        await asyncio.sleep(_AWAY_S)
        during = len(pod.epochs)
        kafka.open()
        await announce(settings, promotions[1])
        await pod.reaches('model_loads_total{outcome="retried"}', 1)  # heard of, and S3 is still away
        assert set(pod.epochs) == {1}
        s3.open()
        await pod.reaches("model_epoch", 2)
        await asyncio.sleep(0.2)

        for client in clients:
            client.cancel()
        await asyncio.gather(*clients, return_exceptions=True)
        assert pod.failures == []
        assert during > 100
        assert pod.epochs[-1] == 2
        answered = await pod.metric('prediction_requests_total{outcome="answered"}')
        await pod.reaches("prediction_log_published_total", answered)
        assert await pod.metric('prediction_log_dropped_total{reason="full"}') == 0
        said = [
            ModelLoaded.model_validate_json(value)
            for value in await values(settings, MODEL_LOADED.name, lambda found: len(found) == 2)
        ]
        assert [(loaded.outcome, loaded.epoch) for loaded in said] == [("serving", 1), ("serving", 2)]
        # At least once: what was on its way when Kafka went may stand there twice.
        assert len(await logged(settings, int(answered))) == answered
        await pod.close()


async def announce(kafka: KafkaSettings, promotion: ModelPromoted) -> None:
    broker = make_broker(kafka, "promoter")
    await broker.start()
    envelope = new_envelope(ModelPromoted.EVENT_TYPE, source="promoter", subject=str(promotion.epoch))
    await publish(broker, topic=MODEL_PROMOTED.name, key=MODEL_STREAM, event=promotion, envelope=envelope)
    await broker.stop()


async def logged(kafka: KafkaSettings, least: int) -> set[UUID]:
    """The predictions that the log tells of, once they are so many."""

    def predictions(messages: list[bytes]) -> set[UUID]:
        events = [PredictionsMade.model_validate_json(value) for value in messages]
        return {name for event in events for name in event.answers.prediction_id}

    return predictions(await values(kafka, PREDICTION_MADE.name, lambda messages: len(predictions(messages)) >= least))


async def values(kafka: KafkaSettings, topic: str, are_enough: Callable[[list[bytes]], bool]) -> list[bytes]:
    """What a topic holds, once it is enough."""
    consumer = AIOKafkaConsumer(topic, bootstrap_servers=kafka.bootstrap_servers, auto_offset_reset="earliest")
    await consumer.start()
    found: list[bytes] = []
    try:
        async with asyncio.timeout(30):
            while not are_enough(found):
                for records in (await consumer.getmany(timeout_ms=500)).values():
                    found += [record.value for record in records]
    finally:
        await consumer.stop()
    return found
