"""What becomes of patients reaches the champion: outcomes that contradict it take it back, by the policy.

The real monitor and the real promoter over Kafka; candidates, predictions and outcomes are events.
"""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import uuid4

import httpx
import numpy as np
import psycopg
import pytest
import yaml
from psycopg.conninfo import conninfo_to_dict

from readmit_bundle import Bundle
from readmit_chassis.envelope import new_envelope
from readmit_chassis.kafka import create_topics, make_broker, publish
from readmit_chassis.s3 import S3Store
from readmit_chassis.settings import KafkaSettings
from readmit_chassis.testing import embedded_kafka, free_port, postgres_server, s3_server
from readmit_contracts.events import (
    MODEL_STREAM,
    Event,
    ModelVersion,
    OutcomeRecorded,
    PredictionMade,
)
from readmit_contracts.testing import example_prediction, message_of
from readmit_contracts.topics import MODEL_REGISTERED, OUTCOME_RECORDED, PREDICTION_MADE, TOPICS, Topic
from readmit_inference.testing import ROOT as BUNDLES
from readmit_inference.testing import tiny_bundle

from .processes import running, wait_until
from .test_rollout import POLICY, candidate, variant

pytestmark = pytest.mark.stack

_ROWS = 500


@dataclass
class Ward:
    """A promoter and a monitor, and whoever publishes to them."""

    promoter: str
    monitor: str
    store: S3Store
    kafka: KafkaSettings

    def register(self, bundle: Bundle, version: int, noise: float) -> ModelVersion:
        """A candidate with this noise, which the promoter will promote: who it is."""
        event = candidate(self.store, bundle, version, noise)
        self.say(MODEL_REGISTERED, [event])
        return event.model

    def say(self, topic: Topic, events: Sequence[Event]) -> None:
        asyncio.run(self._publish(topic, events))

    async def _publish(self, topic: Topic, events: Sequence[Event]) -> None:
        broker = make_broker(self.kafka, "test")
        await broker.start()
        try:
            for event in events:
                envelope = new_envelope(event.EVENT_TYPE, source="test", subject="any")
                await publish(broker, topic=topic.name, key=MODEL_STREAM, event=event, envelope=envelope)
        finally:
            await broker.stop()

    def champion(self) -> tuple[int, str] | None:
        """Epoch and version."""
        found = httpx.get(f"{self.promoter}/champion", timeout=10).json()["champion"]
        return found and (found["epoch"], found["version"])

    def performance(self) -> dict[str, Any]:
        found: dict[str, Any] = httpx.get(f"{self.monitor}/performance", timeout=10).json()
        return found

    def reactions(self) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = httpx.get(f"{self.promoter}/ledger?kind=reaction", timeout=10).json()["entries"]
        return found


@pytest.fixture
def ward(tmp_path: Path) -> Iterator[Ward]:
    rollout = {"reactions": {"degradation": "rollback"}}
    (tmp_path / "policy.yaml").write_text(yaml.safe_dump(POLICY | {"version": "take it back", "rollout": rollout}))
    with ExitStack() as stack:
        kafka = KafkaSettings(bootstrap_servers=stack.enter_context(embedded_kafka()), idempotent_producer=False)
        store = stack.enter_context(s3_server(BUNDLES.removeprefix("s3://").partition("/")[0]))
        superuser = stack.enter_context(postgres_server())
        with psycopg.connect(superuser, autocommit=True) as connection:
            connection.execute("CREATE SCHEMA governance")
            connection.execute("CREATE SCHEMA monitoring")
        asyncio.run(create_topics(kafka.bootstrap_servers, [(t.name, t.partitions, t.config()) for t in TOPICS]))
        database = conninfo_to_dict(superuser)
        shared = {
            "KAFKA__BOOTSTRAP_SERVERS": kafka.bootstrap_servers, "KAFKA__IDEMPOTENT_PRODUCER": "false",
            "POSTGRES__HOST": database["host"], "POSTGRES__PORT": database["port"],
            "POSTGRES__DATABASE": database["dbname"], "POSTGRES__USER": database["user"],
            "POSTGRES__PASSWORD": "trusted",
        }  # fmt: skip
        of_promoter = {
            "S3__ENDPOINT_URL": store.endpoint_url, "S3__ACCESS_KEY": store.access_key,
            "S3__SECRET_KEY": store.secret_key.get_secret_value(), "MLFLOW_URL": "http://127.0.0.1:1",
            "POLICY_FILE": tmp_path / "policy.yaml",
        }  # fmt: skip
        of_monitor = {"OUTCOMES_AFTER_DAYS": 0, "EVALUATE_EVERY_S": 0.5}
        urls = {}
        for service, own in (("promoter", of_promoter), ("monitor", of_monitor)):
            settings = {**shared, **own, "PORT": free_port()}
            environment = {f"{service.upper()}_{name}": str(value) for name, value in settings.items()}
            command = [sys.executable, "-m", f"readmit_{service}"]
            stack.enter_context(running(command, tmp_path / f"{service}.log", env=os.environ | environment))
            urls[service] = f"http://127.0.0.1:{settings['PORT']}"
        for url in urls.values():
            wait_until(lambda url=url: _is_ready(url), "readiness")
        yield Ward(urls["promoter"], urls["monitor"], S3Store(store), kafka)


def _is_ready(url: str) -> bool:
    try:
        return httpx.get(f"{url}/readyz", timeout=2).status_code == 200
    except httpx.HTTPError:
        return False


def answers(model: ModelVersion, epoch: int) -> list[PredictionMade]:
    """What pods answered in an epoch, of the last days."""
    rng = np.random.default_rng(epoch)
    start = datetime.now(UTC) - timedelta(days=2)
    return [
        example_prediction(
            prediction_id=uuid4(), model=model, epoch=epoch, risk=float(rng.beta(2, 6)),
            patient_key=f"{number:016x}", rollout_id=None, other=None, at=start + timedelta(minutes=number),
        )
        for number in range(_ROWS)
    ]  # fmt: skip


def outcomes(made: Sequence[PredictionMade], *, right: bool) -> list[OutcomeRecorded]:
    """A quarter is readmitted: those of the highest risks with some of the others, or those of the lowest."""
    rng = np.random.default_rng(5)
    scores = np.array([event.risk for event in made]) * (1 if right else -1) + rng.normal(scale=0.1, size=len(made))
    readmitted = scores > np.quantile(scores, 0.75)
    return [
        OutcomeRecorded(
            prediction_id=event.prediction_id, readmitted_within_30_days=bool(came_back), recorded_at=datetime.now(UTC)
        )
        for event, came_back in zip(made, readmitted, strict=True)
    ]


@pytest.mark.timeout(400)
def test_outcomes_that_contradict_the_champion_take_it_back_by_the_policy_once(ward: Ward) -> None:
    first = ward.register(variant(tiny_bundle(1), 1), 1, noise=4.0)
    wait_until(lambda: ward.champion() == (1, "1"), "first champion")
    second = ward.register(variant(tiny_bundle(1), 2), 2, noise=2.0)
    wait_until(lambda: ward.champion() == (2, "2"), "second champion")
    wait_until(lambda: ward.performance()["epoch"] == 2, "word of it at the monitor")

    early = answers(second, 2)
    ward.say(PREDICTION_MADE, [message_of(*early)])
    ward.say(OUTCOME_RECORDED, outcomes(early, right=True))
    wait_until(lambda: ward.performance()["state"] == "sound", "judgement on what became of its patients", 120)
    assert (ward.champion(), ward.reactions()) == ((2, "2"), [])

    contradicted = [
        outcome.model_copy(update={"correction": True, "recorded_at": datetime.now(UTC)})
        for outcome in outcomes(early, right=False)
    ]
    ward.say(OUTCOME_RECORDED, contradicted)
    wait_until(lambda: ward.champion() == (3, first.version), "the former champion", 120)
    [reaction] = ward.reactions()
    assert reaction["fact"]["action"] == "rollback"
    assert reaction["fact"]["cause"].startswith("readmit.performance.degraded.v1 ")
    assert "AUROC" in reaction["reason"]

    wait_until(lambda: ward.performance()["epoch"] == 3, "word of the rollback at the monitor")
    assert ward.performance()["state"] == "too_few"
    ward.say(OUTCOME_RECORDED, contradicted)  # heard again, and of a former champion by now
    restored = answers(first, 3)
    ward.say(PREDICTION_MADE, [message_of(*restored)])
    ward.say(OUTCOME_RECORDED, outcomes(restored, right=True))
    wait_until(lambda: ward.performance()["state"] == "sound", "judgement on the former champion", 120)
    assert ward.champion() == (3, first.version)
    assert len(ward.reactions()) == 1
    assert httpx.get(f"{ward.promoter}/ledger/check", timeout=10).json()["intact"] is True
