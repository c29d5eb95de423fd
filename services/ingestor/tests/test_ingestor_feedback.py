"""Predictions whose outcome came back become the next training batch: once, in their patient's split, or they wait."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import httpx
import psycopg
import pytest
from fastapi import FastAPI
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from psycopg.rows import dict_row

from readmit_contracts.encounter import COLUMNS, example_encounter, schema_sha256
from readmit_contracts.events import BatchReady, PredictionMade
from readmit_contracts.testing import example_prediction
from readmit_features.cleaning import clean_encounter
from readmit_ingestor import feedback, ingestion, store
from readmit_ingestor.feedback import FIRST_FEEDBACK_ID, FeedbackWatch, NothingMade, make_batch
from readmit_ingestor.outcomes import Conflict, Outcome, record
from readmit_ingestor.outcomes_api import outcomes_router
from readmit_ingestor.predictions import keep_all
from readmit_ingestor.runner import Runner
from readmit_ingestor.sources import Places

pytestmark = pytest.mark.stack

Database = psycopg.Connection[Any]
_FEATURES = {
    key: value
    for key, value in clean_encounter(example_encounter()).values.items()
    if key not in {"encounter_id", "patient_nbr"}
}
_SPLITS = ("train", "validation", "test")
_FIRST_AT = datetime(2026, 1, 1, tzinfo=UTC)


def predicted(number: int = 0, **changes: Any) -> PredictionMade:
    """The prediction of a patient of its own, some minutes after the one with the number before."""
    features = _FEATURES | changes.pop("features", {})
    key = hashlib.sha256(str(number).encode()).hexdigest()[:16]
    at = _FIRST_AT + timedelta(minutes=number)
    update = {"prediction_id": uuid4(), "split": "train", "patient_key": key, "at": at, "features": features}
    return example_prediction(**update | changes)


def conninfo(database: Database) -> str:
    parts = database.info
    return f"host=127.0.0.1 port={parts.port} dbname={parts.dbname} user={parts.user}"


@pytest.fixture
async def pool(database: Database) -> AsyncIterator[store.Pool]:
    async with store.make_pool(conninfo(database)) as opened:
        yield opened


@pytest.fixture
def dataset(database: Database) -> int:
    """A version with no rows of its own."""
    return add_dataset(database, 1)


def add_dataset(database: Database, version: int, *, synthetic: bool = False, batches: int = 0) -> int:
    database.execute(
        "INSERT INTO clean_data.datasets (version, content_sha256, schema_sha256, source, synthetic, rows_raw,"
        " rows_quarantined, rows_excluded, batches_total) VALUES (%s, %s, %s, 'test', %s, 0, 0, 0, %s)",
        (version, hashlib.sha256(str(version).encode()).hexdigest(), schema_sha256(), synthetic, batches),
    )
    return version


async def label(pool: store.Pool, events: Sequence[PredictionMade], *, readmitted: bool = False) -> None:
    await keep_all(pool, events)
    await record(pool, [Outcome(event.prediction_id, readmitted) for event in events])


def rows_of(database: Database, split: str) -> list[dict[str, Any]]:
    with database.cursor(row_factory=dict_row) as cursor:
        query = f"SELECT * FROM clean_data.diabetes_{split} ORDER BY dataset_version, encounter_id"  # noqa: S608
        return cursor.execute(query.encode()).fetchall()


def announced(database: Database) -> list[BatchReady]:
    rows = database.execute("SELECT payload FROM raw_data.outbox WHERE topic = 'batch.ready' ORDER BY id").fetchall()
    return [BatchReady.model_validate(payload) for (payload,) in rows]


def used(database: Database) -> dict[UUID, tuple[int, int]]:
    rows = database.execute(
        "SELECT prediction_id, used_in_version, used_in_batch FROM raw_data.outcomes WHERE used_in_version IS NOT NULL"
    ).fetchall()
    return {prediction_id: (version, batch) for prediction_id, version, batch in rows}


async def until(condition: Callable[[], Awaitable[bool]], timeout_s: float = 30.0) -> None:
    async with asyncio.timeout(timeout_s):
        while not await condition():  # noqa: ASYNC110  the condition is in the database
            await asyncio.sleep(0.02)


async def test_labelled_predictions_become_a_batch_in_the_split_of_their_patient(
    pool: store.Pool, database: Database, dataset: int
) -> None:
    events = [predicted(number, split=_SPLITS[number % 3]) for number in range(9)]
    events[0] = events[0].model_copy(update={"features": _FEATURES | {"race": None, "insulin": "Down"}})
    await keep_all(pool, events)
    await record(
        pool,
        [
            Outcome(event.prediction_id, readmitted=number in {0, 1}, intervened={0: True, 3: False}.get(number))
            for number, event in enumerate(events)
        ],
    )
    made = make_batch(conninfo(database), 15_000)
    assert (made.rows, made.positives, made.intervened, made.validation_rows, made.test_rows) == (3, 1, 1, 3, 3)
    train = rows_of(database, "train")
    assert [row["encounter_id"] for row in train] == [FIRST_FEEDBACK_ID + seq for seq in (1, 4, 7)]
    assert [(row["readmitted"], row["readmitted_30d"], row["intervened"], row["batch_id"]) for row in train] == [
        ("<30", True, True, 1), (None, False, False, 1), (None, False, None, 1),
    ]  # fmt: skip
    assert {key: train[0][key] for key in _FEATURES} == events[0].features
    assert len({row["patient_nbr"] for split in _SPLITS for row in rows_of(database, split)}) == 9
    assert all(
        FIRST_FEEDBACK_ID <= row["patient_nbr"] < 9_000_000_000_000_000
        for split in _SPLITS
        for row in rows_of(database, split)
    )
    [event] = announced(database)
    assert (event.dataset_version, event.batch, event.batches_total, event.origin) == (dataset, 1, 1, "feedback")
    assert (event.rows, event.positives, event.intervened, event.synthetic) == (3, 1, 1, False)
    [info] = database.execute(
        "SELECT rows, positives, intervened, origin, sha256 FROM clean_data.batch_info"
    ).fetchall()
    assert info == (3, 1, 1, "feedback", event.batch_sha256)
    columns = ", ".join([*(column.key for column in COLUMNS), "readmitted_30d"])
    with (
        database.cursor() as cursor,
        cursor.copy(
            f"COPY (SELECT {columns} FROM clean_data.diabetes_train ORDER BY encounter_id) TO STDOUT CSV".encode()  # noqa: S608
        ) as copy,
    ):
        assert hashlib.sha256(b"".join(map(bytes, copy))).hexdigest() == event.batch_sha256
    assert set(used(database)) == {event.prediction_id for event in events}
    assert set(used(database).values()) == {(dataset, 1)}


async def test_a_batch_follows_those_of_a_source_and_leaves_them_as_they_are(
    pool: store.Pool, database: Database, tmp_path: Path
) -> None:
    database.execute(
        "INSERT INTO raw_data.ingestions (request_id, source, requested_by) VALUES (%s, 'sample:3000', 'test')",
        (uuid4(),),
    )
    claimed = store.claim(database)
    assert claimed is not None
    Runner(conninfo(database), Places(tmp_path, ""), 1_000, 0.05).run_one(database, claimed)
    before = announced(database)
    validation = len(rows_of(database, "validation"))
    await label(pool, [predicted(number, synthetic=True, split=_SPLITS[number % 3]) for number in range(6)])
    made = make_batch(conninfo(database), 15_000)
    assert (made.batch, made.rows) == (len(before) + 1, 2)
    assert announced(database)[:-1] == before
    assert (announced(database)[-1].batches_total, announced(database)[-1].synthetic) == (len(before) + 1, True)
    assert len(rows_of(database, "validation")) == validation + 2
    infos = database.execute("SELECT batch_id, origin, sha256 FROM clean_data.batch_info ORDER BY 1").fetchall()
    assert infos == [(event.batch, event.origin, event.batch_sha256) for event in announced(database)]


async def test_the_oldest_come_first_and_nothing_is_used_twice(
    pool: store.Pool, database: Database, dataset: int
) -> None:
    events = [predicted(number, split="validation" if number % 4 == 3 else "train") for number in range(16)]
    await label(pool, events)
    made = [make_batch(conninfo(database), 5) for _ in range(3)]
    assert [(one.batch, one.rows, one.validation_rows) for one in made] == [(1, 5, 1), (2, 5, 2), (3, 2, 1)]
    by_batch = [[used(database)[event.prediction_id][1] for event in events]]
    assert by_batch == [sorted(by_batch[0])]
    with pytest.raises(NothingMade, match="0 labelled predictions"):
        make_batch(conninfo(database), 5)
    await label(pool, [*events[:5], predicted(99)])
    assert make_batch(conninfo(database), 5).rows == 1
    assert len(rows_of(database, "train")) == 13


async def test_what_is_missing_is_told(pool: store.Pool, database: Database) -> None:
    await label(pool, [predicted()])
    with pytest.raises(NothingMade, match="no dataset"):
        make_batch(conninfo(database), 10)
    add_dataset(database, 1)
    database.execute("UPDATE clean_data.datasets SET schema_sha256 = %s", ("0" * 64,))
    with pytest.raises(NothingMade, match="another encounter schema"):
        make_batch(conninfo(database), 10)
    add_dataset(database, 2)
    with pytest.raises(NothingMade, match="1 labelled predictions of train patients wait, 2 are needed"):
        make_batch(conninfo(database), 10, at_least=2)
    with psycopg.connect(conninfo(database)) as other:
        other.execute("SELECT pg_advisory_xact_lock(hashtext('clean_data.datasets'))")
        with pytest.raises(NothingMade, match="an ingestion is being written"):
            make_batch(conninfo(database), 10)
    assert used(database) == {}
    assert announced(database) == []
    assert make_batch(conninfo(database), 10).dataset_version == 2


async def test_what_may_not_be_used_is_set_aside_with_its_reason(
    pool: store.Pool, database: Database, dataset: int
) -> None:
    torn = predicted(7)
    await label(
        pool,
        [
            predicted(0),
            predicted(1, split=None),
            predicted(2, patient_key=None),
            predicted(3, features={"time_in_hospital": None}),
            predicted(4, features={"gender": "Robot"}),
            predicted(5, features={"discharge_disposition_id": 11}),
            predicted(6, synthetic=True),
            torn,
            predicted(8, split="test", patient_key=torn.patient_key),
        ],
    )
    expected = {"no_patient": 2, "incomplete": 1, "not_clean": 1, "not_readmittable": 1, "other_kind": 1}
    app = FastAPI()
    app.include_router(outcomes_router(pool, conninfo(database), 15_000))
    async with httpx.AsyncClient(base_url="http://ingestor", transport=httpx.ASGITransport(app)) as client:
        before = (await client.get("/outcomes/summary")).json()
        assert {one["reason"]: one["outcomes"] for one in before["set_aside"]} == expected
        assert before["waiting"] == {"train": 2, "validation": 0, "test": 1}
        made = await client.post("/feedback/batches")
        assert (made.status_code, made.json()["rows"], made.json()["test_rows"]) == (200, 1, 0)
        after = (await client.get("/outcomes/summary")).json()
        again = await client.post("/feedback/batches")
    assert {one["reason"]: one["outcomes"] for one in after["set_aside"]} == expected | {"two_splits": 2}
    assert all(one["why"] for one in after["set_aside"])
    assert after["waiting"] == dict.fromkeys(_SPLITS, 0)
    assert (after["recorded"], after["labelled"], after["used"], after["batch_rows"]) == (9, 9, 1, 15_000)
    assert again.status_code == 409
    assert "GET /outcomes/summary" in again.json()["detail"]
    assert sum(len(rows_of(database, split)) for split in _SPLITS) == 1


async def test_a_patient_who_stands_in_another_split_already_is_set_aside(
    pool: store.Pool, database: Database, dataset: int
) -> None:
    first = predicted(0)
    await label(pool, [first])
    make_batch(conninfo(database), 10)
    await label(pool, [predicted(1, split="validation", patient_key=first.patient_key), predicted(2)])
    assert make_batch(conninfo(database), 10).validation_rows == 0
    assert database.execute("SELECT set_aside FROM raw_data.outcomes WHERE used_in_version IS NULL").fetchall() == [
        ("two_splits",)
    ]


async def test_were_a_patient_ever_to_stand_in_two_splits_nothing_is_committed(
    pool: store.Pool, database: Database, dataset: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    torn = predicted(0)
    await label(pool, [torn, predicted(1, split="test", patient_key=torn.patient_key)])
    # Were the one that takes such patients out ever to fail.
    monkeypatch.setattr(feedback, "_take_torn_out", lambda *_: None)
    with pytest.raises(RuntimeError, match="more than one split"):
        make_batch(conninfo(database), 10)
    assert rows_of(database, "train") == rows_of(database, "test") == []
    assert used(database) == {}


async def test_a_row_that_the_database_refuses_stands_in_no_message(
    pool: store.Pool, database: Database, dataset: int
) -> None:
    database.execute("ALTER TABLE clean_data.diabetes_train ADD CONSTRAINT never CHECK (gender = 'nobody')")
    await label(pool, [predicted()])
    with pytest.raises(RuntimeError) as refused:
        make_batch(conninfo(database), 10)
    assert str(refused.value) == "PostgreSQL refused a row of feedback: 23514 diabetes_train, never"
    assert refused.value.__suppress_context__


async def test_an_outcome_is_corrected_until_it_is_used(pool: store.Pool, database: Database, dataset: int) -> None:
    event = predicted()
    await label(pool, [event], readmitted=False)
    correction = Outcome(event.prediction_id, readmitted=True, correction=True)
    assert (await record(pool, [correction])).corrected == 1
    assert make_batch(conninfo(database), 10).positives == 1
    with pytest.raises(Conflict) as conflict:
        await record(pool, [Outcome(event.prediction_id, readmitted=False, correction=True)])
    assert conflict.value.used == [event.prediction_id]


async def test_corrections_and_a_batch_at_the_same_time_end_with_the_label_that_is_on_record(
    pool: store.Pool, database: Database, dataset: int
) -> None:
    events = [predicted(number) for number in range(200)]
    await label(pool, events)
    corrections = [Outcome(event.prediction_id, readmitted=True, correction=True) for event in events]

    async def correct(some: list[Outcome]) -> None:
        with contextlib.suppress(Conflict):  # the batch was faster
            await record(pool, some)

    await asyncio.gather(
        *(correct(corrections[at : at + 10]) for at in range(0, 200, 10)),
        asyncio.to_thread(make_batch, conninfo(database), 200),
    )
    labels = database.execute(
        "SELECT count(*) FROM raw_data.outcomes AS o JOIN raw_data.predictions AS p USING (prediction_id)"
        " JOIN clean_data.diabetes_train AS t ON t.encounter_id = %s + p.seq AND t.readmitted_30d = o.readmitted",
        (FIRST_FEEDBACK_ID,),
    ).fetchone()
    assert labels == (200,)


async def test_a_batch_is_made_by_itself_when_enough_have_come_back_and_once_however_many_watch(
    pool: store.Pool, database: Database, dataset: int
) -> None:
    watches = [asyncio.create_task(FeedbackWatch(conninfo(database), 20, poll_s=0.2).run()) for _ in range(2)]
    try:
        await label(pool, [predicted(number) for number in range(19)])
        await label(pool, [predicted(number, split="validation") for number in range(100, 103)])
        await label(pool, [predicted(200)])

        async def made() -> bool:
            return len(announced(database)) == 1

        await until(made)
        assert [(event.batch, event.rows) for event in announced(database)] == [(1, 20)]
        await label(pool, [predicted(number) for number in range(300, 345)])

        async def made_two_more() -> bool:
            return len(announced(database)) == 3

        await until(made_two_more)
    finally:
        for watch in watches:
            watch.cancel()
        await asyncio.gather(*watches, return_exceptions=True)
    assert [(event.batch, event.rows) for event in announced(database)] == [(1, 20), (2, 20), (3, 20)]
    assert len(used(database)) == 63


async def test_a_watch_waits_out_an_outage(pool: store.Pool, database: Database, dataset: int) -> None:
    watch = asyncio.create_task(FeedbackWatch(conninfo(database), 1, poll_s=0.1).run())
    held = "SELECT pid FROM pg_locks WHERE locktype = 'advisory' AND granted AND pid <> pg_backend_pid()"

    async def watching() -> bool:
        return database.execute(held.encode()).fetchone() is not None

    async def made() -> bool:
        return len(announced(database)) == 1

    try:
        await until(watching)
        database.execute(f"SELECT pg_terminate_backend(pid) FROM ({held}) AS watching".encode())  # noqa: S608
        await label(pool, [predicted()])
        await until(made)
        assert not watch.done()
    finally:
        watch.cancel()
        await asyncio.gather(watch, return_exceptions=True)


_KILLED = """
import os, signal, sys
from readmit_ingestor import feedback
conninfo, step = sys.argv[1:]
whole = getattr(feedback, step)
def killed(*args, **kwargs):
    whole(*args, **kwargs)
    os.kill(os.getpid(), signal.SIGKILL)
setattr(feedback, step, killed)
feedback.make_batch(conninfo, 15_000)
"""


@pytest.mark.parametrize(
    "step",
    [
        "_lock",
        "_choose",
        "_take_torn_out",
        "_leave_for_later",
        "_hold",
        "_append",
        "refuse_leakage",
        "note_batches",
        "announce_batch",
        "_describe",
        "_note_set_aside",
    ],
)
async def test_killed_at_any_step_it_leaves_nothing_and_a_rerun_completes_once(
    step: str, pool: store.Pool, database: Database, dataset: int
) -> None:
    events = [predicted(number, split=_SPLITS[number % 3]) for number in range(30)]
    await label(pool, [*events, predicted(50, split=None)])
    killed = await asyncio.to_thread(
        subprocess.run, [sys.executable, "-c", _KILLED, conninfo(database), step],
        check=False, capture_output=True, env={**os.environ},
    )  # fmt: skip
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    assert sum(len(rows_of(database, split)) for split in _SPLITS) == 0
    assert announced(database) == []
    assert used(database) == {}
    assert make_batch(conninfo(database), 15_000).batch == 1
    assert [len(rows_of(database, split)) for split in _SPLITS] == [10, 10, 10]
    assert [(event.batch, event.batches_total, event.rows) for event in announced(database)] == [(1, 1, 10)]
    assert set(used(database)) == {event.prediction_id for event in events}
    with pytest.raises(NothingMade):
        make_batch(conninfo(database), 15_000)


async def test_killed_after_the_commit_a_rerun_makes_nothing_more(
    pool: store.Pool, database: Database, dataset: int
) -> None:
    await label(pool, [predicted(number) for number in range(5)])
    killed = await asyncio.to_thread(
        subprocess.run,
        [sys.executable, "-c", _KILLED.replace("feedback, step", "feedback.store, step"), conninfo(database),
         "newest_sizes"],
        check=False, capture_output=True, env={**os.environ},
    )  # fmt: skip
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    with pytest.raises(NothingMade):
        make_batch(conninfo(database), 15_000)
    assert [event.rows for event in announced(database)] == [5]
    assert len(rows_of(database, "train")) == 5


_EMPTY = (
    "TRUNCATE raw_data.predictions, raw_data.outcomes, raw_data.outbox, clean_data.datasets, clean_data.batch_info,"
    " clean_data.diabetes_train, clean_data.diabetes_validation, clean_data.diabetes_test"
)

#: What comes: a prediction by its number, an outcome of it, or a wish for a batch of at most so many rows.
_STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("prediction"), st.integers(0, 11)),
        st.tuples(st.just("outcome"), st.integers(0, 11)),
        st.tuples(st.just("batch"), st.integers(1, 4)),
    ),
    max_size=30,
)


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(steps=_STEPS, order=st.permutations([(kind, at) for kind in ("prediction", "outcome") for at in range(12)]))
def test_in_whatever_order_and_however_often_both_sides_come_the_labelled_set_is_the_same(
    steps: list[tuple[str, int]], order: list[tuple[str, int]], database: Database
) -> None:
    """Twelve predictions of six patients, of whom one has no number; in the end everything has come at least once."""
    database.execute(_EMPTY.encode())
    add_dataset(database, 1)
    splits = {patient: (*_SPLITS, "train", "validation", None)[patient] for patient in range(6)}
    events = [
        predicted(number, split=splits[number % 6], patient_key=None if number % 6 == 5 else f"{number % 6:016x}")
        for number in range(12)
    ]
    batches = 0

    async def take(pool: store.Pool, kind: str, at: int) -> int:
        if kind == "prediction":
            await keep_all(pool, [events[at]])
        elif kind == "outcome":
            await record(pool, [Outcome(events[at].prediction_id, readmitted=at % 2 == 0)])
        else:
            try:
                make_batch(conninfo(database), at)
            except NothingMade:
                return 0
            return 1
        return 0

    async def run() -> int:
        async with store.make_pool(conninfo(database)) as pool:
            made = [await take(pool, *step) for step in [*steps, *order]]
            made += [await take(pool, "batch", 100)]
            await keep_all(pool, events)
            return sum(made)

    batches = asyncio.run(run())
    assert [event.batch for event in announced(database)] == list(range(1, batches + 1))
    found = database.execute(
        " UNION ALL ".join(
            f"SELECT p.prediction_id, '{split}', t.readmitted_30d, t.patient_nbr FROM clean_data.diabetes_{split} AS t"  # noqa: S608
            f" JOIN raw_data.predictions AS p ON t.encounter_id = {FIRST_FEEDBACK_ID} + p.seq"
            for split in _SPLITS
        ).encode()
    ).fetchall()
    waiting = {event.prediction_id for event in events} - used(database).keys()
    expected = {
        (event.prediction_id, event.split, at % 2 == 0)
        for at, event in enumerate(events)
        if event.split is not None and event.prediction_id not in waiting
    }
    assert sorted(row[:3] for row in found) == sorted(expected)
    # Without a train patient to go with, held-out ones wait.
    assert all(event.split != "train" for event in events if event.prediction_id in waiting)
    placed: dict[int, set[str]] = {}
    for _, split, _, patient in found:
        placed.setdefault(patient, set()).add(split)
    assert all(len(where) == 1 for where in placed.values())


def test_the_steps_that_are_killed_are_those_of_a_batch() -> None:
    for step in ("refuse_leakage", "note_batches", "announce_batch"):
        assert getattr(feedback, step) is getattr(ingestion, step)
