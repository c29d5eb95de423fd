"""Predictions come back in batches: all kept once, or none where one fits no column."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from typing import Any
from uuid import UUID, uuid4

import psycopg
import pytest
from aiokafka import AIOKafkaConsumer
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import REGISTRY

from readmit_chassis.envelope import new_envelope
from readmit_chassis.failures import BadMessage, Transient
from readmit_chassis.kafka import consume_batch, create_topics, make_broker, publish
from readmit_chassis.process import Process
from readmit_chassis.settings import KafkaSettings
from readmit_contracts.encounter import COLUMNS, example_encounter
from readmit_contracts.events import PredictionMade, PredictionsMade
from readmit_contracts.testing import example_prediction, message_of
from readmit_contracts.topics import PREDICTION_MADE
from readmit_features.cleaning import clean_encounter, clean_rows
from readmit_ingestor import store
from readmit_ingestor.handlers import on_predictions_made
from readmit_ingestor.predictions import WHY_SET_ASIDE, keep_all, set_aside

Database = psycopg.Connection[Any]
_FEATURES = {
    key: value
    for key, value in clean_encounter(example_encounter()).values.items()
    if key not in {"encounter_id", "patient_nbr"}
}


def predicted(**changes: Any) -> PredictionMade:
    features = _FEATURES | changes.pop("features", {})
    ours = {"prediction_id": uuid4(), "split": "train", "patient_key": "9d2c1f0a7b3e4d5c", "features": features}
    return example_prediction(**ours | changes)


def features(**changes: Any) -> PredictionMade:
    return predicted(features=changes)


@pytest.fixture
async def pool(database: Database) -> AsyncIterator[store.Pool]:
    parts = database.info
    conninfo = f"host=127.0.0.1 port={parts.port} dbname={parts.dbname} user={parts.user}"
    async with store.make_pool(conninfo) as opened:
        yield opened


def kept(database: Database) -> set[UUID]:
    return {found for (found,) in database.execute("SELECT prediction_id FROM raw_data.predictions").fetchall()}


@pytest.mark.stack
async def test_a_batch_is_kept_once_however_often_its_events_come(pool: store.Pool, database: Database) -> None:
    events = [predicted() for _ in range(700)]
    assert await keep_all(pool, [*events[:500], *events[:3]]) == 500
    assert await keep_all(pool, events) == 200
    assert await keep_all(pool, []) == 0
    assert kept(database) == {event.prediction_id for event in events}


@pytest.mark.stack
async def test_predictions_are_numbered_in_the_order_in_which_they_were_made(
    pool: store.Pool, database: Database
) -> None:
    events = [predicted(at=datetime(2026, 11, day, tzinfo=UTC)) for day in (3, 1, 2)]
    await keep_all(pool, events)
    rows = database.execute("SELECT at FROM raw_data.predictions ORDER BY seq").fetchall()
    assert [at.day for (at,) in rows] == [1, 2, 3]


@pytest.mark.stack
@pytest.mark.parametrize("change", [{"features": {"race": "a\0"}}, {"epoch": 2**40}, {"pod_id": "a\0b"}])
async def test_one_event_that_no_column_can_hold_is_a_bad_message_and_the_others_can_be_kept_after_it(
    pool: store.Pool, database: Database, change: dict[str, Any]
) -> None:
    good, bad = [predicted(), predicted()], predicted(**change)
    with pytest.raises(BadMessage) as refused:
        await keep_all(pool, [good[0], bad, good[1]])
    assert "a\0" not in str(refused.value)
    assert kept(database) == set()
    assert await keep_all(pool, good) == 2


@pytest.mark.stack
async def test_over_kafka_one_message_that_no_column_can_hold_is_dead_lettered_and_all_others_are_kept(
    pool: store.Pool, database: Database
) -> None:
    from readmit_chassis.testing import embedded_kafka  # noqa: PLC0415  needs the testing extra, which not all have

    messages = [message_of(*(predicted() for _ in range(3))) for _ in range(40)]
    bad = messages[17] = message_of(predicted(), features(payer_code="\0"), predicted())
    with embedded_kafka() as address:
        await create_topics(address, [(PREDICTION_MADE.name, 1, {}), (PREDICTION_MADE.dead_letter, 1, {})])
        broker = make_broker(KafkaSettings(bootstrap_servers=address, idempotent_producer=False), "test")
        process = Process()
        letters = AIOKafkaConsumer(PREDICTION_MADE.dead_letter, bootstrap_servers=address, auto_offset_reset="earliest")
        consume_batch(
            broker, topic=PREDICTION_MADE.name, dead_letter=PREDICTION_MADE.dead_letter, group="ingestor-predictions",
            event_type=PredictionsMade, handle=on_predictions_made(pool), process=process,
        )  # fmt: skip
        await broker.start()
        await letters.start()
        try:
            for number, message in enumerate(messages):
                envelope = new_envelope(message.EVENT_TYPE, source="test", subject="any")
                await publish(broker, topic=PREDICTION_MADE.name, key=str(number), event=message, envelope=envelope)
            async with asyncio.timeout(60):
                letter = await letters.getone()
                while len(kept(database)) < 3 * (len(messages) - 1):  # noqa: ASYNC110  the condition is in the database
                    await asyncio.sleep(0.02)
        finally:
            await letters.stop()
            await broker.stop()
    assert letter.value.decode() == bad.model_dump_json()
    assert kept(database) == {
        name for message in messages if message is not bad for name in message.answers.prediction_id
    }
    assert process.failure is None


@pytest.mark.stack
async def test_the_handler_counts_what_it_kept(pool: store.Pool) -> None:
    before = REGISTRY.get_sample_value("predictions_stored_total") or 0.0
    event = message_of(predicted(), predicted())
    envelope = new_envelope(event.EVENT_TYPE, source="test", subject="any")
    await on_predictions_made(pool)([(event, envelope), (event, envelope), (message_of(predicted()), envelope)])
    assert REGISTRY.get_sample_value("predictions_stored_total") == before + 3


async def test_a_database_that_is_away_makes_a_batch_wait() -> None:
    nowhere = store.make_pool("host=127.0.0.1 port=1 connect_timeout=1")
    with pytest.raises(Transient, match="away"):
        await keep_all(nowhere, [predicted()])


@pytest.mark.parametrize(
    ("event", "reason"),
    [
        (predicted(), None),
        (features(race=None, weight=None, diag_2=None), None),
        (predicted(split=None), "no_patient"),
        (predicted(patient_key=None), "no_patient"),
        (features(time_in_hospital=None), "incomplete"),
        (features(admission_type_id=None), "incomplete"),
        (features(time_in_hospital=365), "not_clean"),
        (features(time_in_hospital="3"), "not_clean"),
        (features(number_inpatient=True), "not_clean"),
        (features(num_lab_procedures=3.0), "not_clean"),
        (features(diag_1=428), "not_clean"),
        (features(insulin="up"), "not_clean"),
        (features(gender="Robot"), "not_clean"),
        (features(discharge_disposition_id=11), "not_readmittable"),
    ],
)
def test_what_can_never_become_a_row_is_known_from_the_start(event: PredictionMade, reason: str | None) -> None:
    assert set_aside(event) == reason
    assert reason is None or reason in WHY_SET_ASIDE


_VALUES = st.one_of(
    st.none(), st.booleans(), st.integers(-2, 500), st.floats(allow_nan=False), st.text(max_size=9),
    st.sampled_from([value for column in COLUMNS for value in (*column.allowed, *column.labels)]),
)  # fmt: skip


@given(st.dictionaries(st.sampled_from(sorted(_FEATURES)), _VALUES, max_size=2))
def test_whatever_is_not_set_aside_is_what_cleaning_makes_of_it(changed: dict[str, Any]) -> None:
    event = features(**changed)
    if set_aside(event) is not None:
        return
    cells = {"encounter_id": 1, "patient_nbr": 1, "readmitted": "NO"} | event.features
    row = ["?" if cells[column.key] is None else str(cells[column.key]) for column in COLUMNS]
    cleaned = clean_rows([row])
    assert cleaned.refused == {}
    assert dict(zip([column.key for column in COLUMNS], cleaned.rows[0], strict=True)) == cells
