"""The log of answers: what goes on the wire, and that no request ever pays for it."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager
from hashlib import blake2b
from itertools import repeat
from uuid import uuid4

import pytest
from prometheus_client import REGISTRY
from pydantic import SecretStr, ValidationError

from readmit_chassis.envelope import Envelope
from readmit_chassis.failures import Transient
from readmit_chassis.s3 import MemoryStore
from readmit_contracts.encounter import example_encounter
from readmit_contracts.events import PredictionMade, PredictionsMade
from readmit_features.split import split_of
from readmit_inference.batch_publisher import Parcel
from readmit_inference.domain import Answered, predict, prepare
from readmit_inference.prediction_event import Logged, Record, encoder, logged, pseudonyms
from readmit_inference.prediction_log import PredictionLog
from readmit_inference.settings import Settings
from readmit_inference.testing import promote, running, tiny_bundle, until

from .remembered import Remembered, records_in

KEY = SecretStr("a key of this test's own")
ENCOUNTER = example_encounter() | {"encounter_id": 271828182845, "patient_nbr": 314159265358, "payer_code": "?"}


@pytest.fixture(scope="module")
def answered() -> Answered:
    bundle = tiny_bundle(1, family="lightgbm")
    return predict(prepare(bundle, promote(MemoryStore(), bundle, epoch=7)), ENCOUNTER)


class FakeTopic:
    """Takes what is delivered; `away` and `stuck` play outages."""

    def __init__(self) -> None:
        self.records: list[Record] = []
        self.away = False
        self.stuck = False
        self.attempts = 0

    async def publish(self, parcels: Sequence[Parcel]) -> None:
        self.attempts += 1
        arrived = records_in(parcels)
        await asyncio.sleep(0)
        if self.stuck:
            await asyncio.Event().wait()
        if self.away:
            raise Transient("away")
        self.records += arrived


def numbered(answers: Sequence[Logged]) -> list[Record]:
    """Encodes only which answers they were: these tests give it as their latency."""
    return [Record(None, json.dumps([int(answer.latency_s) for answer in answers]).encode(), [], 0, len(answers))]


def numbers(topic: FakeTopic) -> list[int]:
    """Which answers have arrived, in their order."""
    return [number for record in topic.records for number in json.loads(record.value)]


def wired(answered: Answered, key: SecretStr | None = KEY, at_s: float = 1_764_000_000.25) -> Record:
    [record] = encoder("pod-1", "readmit-inference", key)([logged(answered, 0.0021, at_s)])
    return record


def read(record: Record) -> PredictionMade:
    [made] = PredictionsMade.model_validate_json(record.value).predictions()
    return made


def impatient() -> Iterator[float]:
    return repeat(0.001)


@asynccontextmanager
async def running_log(topic: FakeTopic, capacity: int = 1000) -> AsyncIterator[PredictionLog]:
    log = PredictionLog(numbered, topic.publish, capacity=capacity, pauses=impatient, new_parcel=Remembered)
    task = asyncio.create_task(log.run())
    await asyncio.sleep(0)
    try:
        yield log
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


def dropped(reason: str) -> float:
    return REGISTRY.get_sample_value("prediction_log_dropped_total", {"reason": reason}) or 0.0


def sample(name: str) -> float:
    return REGISTRY.get_sample_value(name) or 0.0


def test_the_bytes_are_the_event_of_the_contract(answered: Answered) -> None:
    record = wired(answered, at_s=1_764_000_000.25)
    event = PredictionsMade.model_validate_json(record.value)
    said = json.loads(record.value)
    assert said == json.loads(event.model_dump_json(exclude_unset=True))
    values, serving = answered.values, answered.serving
    made = read(record)
    assert (str(made.prediction_id), made.pod_id) == (answered.prediction_id, "pod-1")
    assert (made.risk, made.threshold) == (answered.risk, serving.model.threshold)
    assert made.readmitted_within_30_days == answered.readmitted_within_30_days
    assert (made.epoch, made.sha256, made.synthetic, made.role) == (7, serving.named.sha256, False, "champion")
    assert made.model == serving.cause.model
    assert made.features == {k: v for k, v in values.items() if k not in {"encounter_id", "patient_nbr"}}
    assert made.features["payer_code"] is None
    assert (made.latency_ms, made.at.timestamp()) == (pytest.approx(2.1), 1_764_000_000.25)

    envelope = Envelope.from_headers({name: value.decode() for name, value in record.headers})
    assert envelope.headers() == {name: value.decode() for name, value in record.headers}
    assert (envelope.type, envelope.source) == (PredictionsMade.EVENT_TYPE, "readmit-inference")
    assert (envelope.subject, envelope.time) == ("pod-1", made.at)
    assert envelope.traceparent.split("-")[1] == envelope.id.hex


def test_answers_of_one_model_share_a_message_in_their_order(answered: Answered) -> None:
    answers = [
        logged(answered._replace(prediction_id=str(uuid4()), risk=number / 100), number / 1000, 1_764_000_000 + number)
        for number in range(64)
    ]
    [record] = encoder("pod-1", "source", KEY)(answers)
    made = list(PredictionsMade.model_validate_json(record.value).predictions())
    assert record.events == len(made) == 64
    assert [str(one.prediction_id) for one in made] == [one.prediction_id for one in answers]
    assert [(one.risk, one.at.timestamp()) for one in made] == [(one.risk, one.at_s) for one in answers]
    assert len(record.value) < 64 * 500


def test_no_identifier_is_on_the_wire_and_only_the_key_makes_a_pseudonym(answered: Answered) -> None:
    for key in (KEY, None):
        record = wired(answered, key)
        everything = b" ".join((record.value, *(value for _, value in record.headers)))
        assert record.key is None
        assert b"271828182845" not in everything
        assert b"314159265358" not in everything
        assert KEY.get_secret_value().encode() not in everything
    keys = [read(wired(answered, key)).patient_key for key in (KEY, KEY, SecretStr("another key, just as long"), None)]
    keyed = blake2b(b"314159265358", key=KEY.get_secret_value().encode(), digest_size=8).hexdigest()
    assert keys[:2] == [keyed, keyed]
    assert keys[2] not in {keyed, None}
    assert keys[3] is None


def test_a_key_may_be_longer_than_the_hash_takes() -> None:
    longer = [pseudonyms(b"k" * 65)(7), pseudonyms(b"k" * 66)(7), pseudonyms(b"k" * 64)(7)]
    assert len(set(longer)) == 3


def test_without_a_patients_number_there_is_no_pseudonym_and_no_split(answered: Answered) -> None:
    made = read(wired(answered._replace(values=answered.values | {"patient_nbr": None})))
    assert (made.patient_key, made.split) == (None, None)


def test_an_answer_says_in_which_split_its_patient_is_and_always_was(answered: Answered) -> None:
    seen = {
        patient: read(wired(answered._replace(values=answered.values | {"patient_nbr": patient}))).split
        for patient in range(1, 60)
    }
    assert seen == {patient: split_of(patient) for patient in seen}
    assert set(seen.values()) == {"train", "validation", "test"}


@pytest.mark.parametrize(
    ("at_s", "text"),
    [
        (1_764_000_000.0, "2025-11-24T16:00:00+00:00"),
        (1_764_000_000.000_25, "2025-11-24T16:00:00.000250+00:00"),
        (1_764_000_000.999_999_9, "2025-11-24T16:00:01+00:00"),
    ],
)
def test_the_time_is_told_to_the_microsecond(answered: Answered, at_s: float, text: str) -> None:
    assert read(wired(answered, at_s=at_s)).at.isoformat() == text


async def test_a_log_that_has_fallen_behind_keeps_requests_waiting_no_longer_than_ever(answered: Answered) -> None:
    topic, encoded, most = FakeTopic(), 0, 0

    def counting(answers: Sequence[Logged]) -> list[Record]:
        nonlocal encoded, most
        encoded += len(answers)
        most = max(most, encoded)
        return numbered(answers)

    log = PredictionLog(counting, topic.publish, capacity=5_000, new_parcel=Remembered)
    for number in range(5_000):
        log.add(answered, number)
    task = asyncio.create_task(log.run())
    while len(numbers(topic)) < 5_000:
        encoded = 0
        await asyncio.sleep(0)
    task.cancel()
    assert 64 <= most < 2 * 64  # a slice, and in the turn of a delivery what is left of the next


async def test_keeping_an_answer_encodes_nothing(answered: Answered) -> None:
    encoded: list[Logged] = []

    def encode(answers: Sequence[Logged]) -> list[Record]:
        encoded.extend(answers)
        return numbered(answers)

    log = PredictionLog(encode, FakeTopic().publish, capacity=10)
    log.add(answered, 1)
    await asyncio.sleep(0)
    assert (len(log), encoded) == (1, [])


def test_a_key_that_can_be_guessed_is_refused(settings: Settings) -> None:
    with pytest.raises(ValidationError, match="pseudonym_key"):
        Settings.model_validate(settings.model_dump() | {"pseudonym_key": "short"})


async def test_every_answer_arrives_in_order_and_is_counted(answered: Answered) -> None:
    topic, published = FakeTopic(), sample("prediction_log_published_total")
    async with running_log(topic, capacity=10_000) as log:
        for number in range(9000):
            log.add(answered, number)
        assert sample("prediction_log_buffered_events") == 9000
        await log.finish(20)
        assert numbers(topic) == list(range(9000))
        assert len(log) == sample("prediction_log_buffered_events") == 0
    assert topic.attempts < 30
    assert sample("prediction_log_published_total") == published + 9000


async def test_a_full_log_loses_the_oldest_counts_them_and_stays_bounded(answered: Answered) -> None:
    topic, full = FakeTopic(), dropped("full")
    topic.away = True
    async with running_log(topic, capacity=100) as log:
        for number in range(1000):
            log.add(answered, number)
        assert len(log) == 100
        assert dropped("full") == full + 900
        topic.away = False
        await until(lambda: len(numbers(topic)) == 100)
    assert numbers(topic) == list(range(900, 1000))


async def test_what_is_packed_already_is_lost_a_parcel_at_a_time(answered: Answered) -> None:
    topic, full = FakeTopic(), dropped("full")
    topic.away = True
    async with running_log(topic, capacity=160) as log:
        for number in range(160):
            log.add(answered, number)
        await until(lambda: topic.attempts > 1)  # all of them are on their way, and stay there
        for number in range(160, 320):
            log.add(answered, number)
        await asyncio.sleep(0.1)
        log.add(answered, 320)
        assert dropped("full") == full + 10
        topic.away = False
        await until(lambda: len(numbers(topic)) == 311)
    assert numbers(topic) == [*range(160), *range(170, 321)]


async def test_who_waits_for_room_loses_nothing_to_a_kafka_that_is_slow(answered: Answered) -> None:
    topic = FakeTopic()
    before = dropped("full")
    async with running_log(topic, capacity=10) as log:
        for number in range(100):
            await log.room()
            log.add(answered, number)
        await until(lambda: len(numbers(topic)) == 100)
    assert dropped("full") == before


async def test_nobody_waits_for_room_while_kafka_is_away(answered: Answered) -> None:
    topic = FakeTopic()
    topic.away = True
    async with running_log(topic, capacity=10) as log:
        log.add(answered, 0)
        await until(lambda: topic.attempts > 0)
        async with asyncio.timeout(4):  # less than a single row may wait otherwise
            for number in range(1_000):
                await log.room()
                log.add(answered, number)


async def test_what_kafka_did_not_take_is_sent_again(answered: Answered) -> None:
    topic, full, shutdown = FakeTopic(), dropped("full"), dropped("shutdown")
    topic.away = True
    async with running_log(topic) as log:
        for number in range(500):
            log.add(answered, number)
        await until(lambda: topic.attempts > 3)
        assert not topic.records
        topic.away = False
        await until(lambda: len(numbers(topic)) == 500)
    assert (dropped("full"), dropped("shutdown")) == (full, shutdown)


@pytest.mark.parametrize("outage", ["away", "stuck"])
async def test_shutdown_waits_a_bounded_time_and_counts_what_is_lost(answered: Answered, outage: str) -> None:
    topic, shutdown = FakeTopic(), dropped("shutdown")
    setattr(topic, outage, True)
    async with running_log(topic) as log:
        log.add(answered, 1)
        log.add(answered, 2)
        await until(lambda: topic.attempts > 0)
        async with asyncio.timeout(5):
            await log.finish(0.05)
    assert dropped("shutdown") == shutdown + 2


async def test_the_service_logs_answers_and_nothing_else(settings: Settings, store: MemoryStore) -> None:
    """Kafka is away here, so that what was kept can be counted."""
    async with running(settings, store) as service:
        await service.settle(promote(store, tiny_bundle(1), epoch=1))
        before = sample("prediction_log_buffered_events")
        assert (await service.predict(ENCOUNTER)).status_code == 200
        assert (await service.predict({})).status_code == 422
        assert sample("prediction_log_buffered_events") == before + 1
    assert sample("prediction_log_buffered_events") == 1


async def test_the_log_can_be_switched_off(settings: Settings, store: MemoryStore) -> None:
    without = settings.model_copy(update={"log_predictions": False})
    buffered, lost = sample("prediction_log_buffered_events"), dropped("shutdown")
    async with running(without, store) as service:
        await service.settle(promote(store, tiny_bundle(1), epoch=1))
        assert (await service.predict(ENCOUNTER)).status_code == 200
    assert (sample("prediction_log_buffered_events"), dropped("shutdown")) == (buffered, lost)


async def test_with_kafka_away_answers_go_on_memory_is_bounded_and_losses_are_counted(
    settings: Settings, store: MemoryStore
) -> None:
    small = settings.model_copy(update={"log_capacity": 20})
    full, lost = dropped("full"), dropped("shutdown")
    async with running(small, store) as service:
        await service.settle(promote(store, tiny_bundle(1), epoch=1))
        statuses = {(await service.predict(ENCOUNTER)).status_code for _ in range(600)}
        buffered = sample("prediction_log_buffered_events")
    assert statuses == {200}
    assert buffered <= 20 + 2048
    assert (dropped("full") - full) + (dropped("shutdown") - lost) == 600
