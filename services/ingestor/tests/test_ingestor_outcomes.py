"""`POST /outcomes`: all or nothing, once per prediction, corrected only on request, every fault named by its place."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID, uuid4

import httpx
import psycopg
import pytest
from fastapi import FastAPI
from psycopg.rows import dict_row

from readmit_chassis.failures import Transient
from readmit_chassis.migrations import apply_migrations
from readmit_chassis.outages import answer_outages
from readmit_contracts.events import OutcomeRecorded
from readmit_contracts.testing import example_prediction
from readmit_ingestor import outcomes, store
from readmit_ingestor.outcomes import Conflict, Outcome, record
from readmit_ingestor.outcomes_api import outcomes_router
from readmit_ingestor.outcomes_reading import MAX_BYTES, MAX_ERRORS
from readmit_ingestor.predictions import keep_all

pytestmark = pytest.mark.stack

Database = psycopg.Connection[Any]
_HEADER = "prediction_id,readmitted_within_30_days"


def conninfo(database: Database) -> str:
    parts = database.info
    return f"host=127.0.0.1 port={parts.port} dbname={parts.dbname} user={parts.user}"


@pytest.fixture
async def pool(database: Database) -> AsyncIterator[store.Pool]:
    async with store.make_pool(conninfo(database)) as opened:
        yield opened


@pytest.fixture
async def client(pool: store.Pool, database: Database) -> AsyncIterator[httpx.AsyncClient]:
    app = FastAPI()
    app.include_router(outcomes_router(pool, conninfo(database), 15_000))
    transport = httpx.ASGITransport(app)
    async with httpx.AsyncClient(base_url="http://ingestor", transport=transport) as opened:
        yield opened


def said(prediction_id: UUID | str, readmitted: bool = True, **more: Any) -> dict[str, Any]:
    return {"prediction_id": str(prediction_id), "readmitted_within_30_days": readmitted, **more}


async def post_csv(client: httpx.AsyncClient, text: str | bytes) -> httpx.Response:
    return await client.post("/outcomes", content=text, headers={"content-type": "text/csv; charset=utf-8"})


def counts(response: httpx.Response) -> tuple[int, int, int, int]:
    assert response.status_code == 200, response.text
    body = response.json()
    return body["recorded"], body["unchanged"], body["corrected"], body["unknown_predictions"]


def stored(database: Database) -> dict[UUID, dict[str, Any]]:
    with database.cursor(row_factory=dict_row) as cursor:
        return {row["prediction_id"]: row for row in cursor.execute("SELECT * FROM raw_data.outcomes").fetchall()}


def announced(database: Database) -> list[OutcomeRecorded]:
    rows = database.execute("SELECT payload FROM raw_data.outbox WHERE topic = 'outcome.recorded' ORDER BY id")
    return [OutcomeRecorded.model_validate(payload) for (payload,) in rows.fetchall()]


async def test_one_outcome_is_recorded_and_announced_in_the_trace_of_its_prediction(
    client: httpx.AsyncClient, database: Database
) -> None:
    prediction_id = uuid4()
    at = datetime(2026, 10, 1, 9, 30, tzinfo=UTC)
    response = await client.post("/outcomes", json=said(prediction_id, intervened=False, observed_at=at.isoformat()))
    assert counts(response) == (1, 0, 0, 1)
    row = stored(database)[prediction_id]
    assert (row["readmitted"], row["intervened"], row["observed_at"]) == (True, False, at)
    [event] = announced(database)
    assert (event.prediction_id, event.readmitted_within_30_days, event.intervened, event.observed_at) == (
        prediction_id, True, False, at,
    )  # fmt: skip
    assert not event.correction
    [(key, headers)] = database.execute("SELECT key, headers FROM raw_data.outbox").fetchall()
    assert key == headers["ce_subject"] == str(prediction_id)
    assert headers["ce_type"] == OutcomeRecorded.EVENT_TYPE
    assert headers["traceparent"].split("-")[1] == prediction_id.hex


async def test_the_same_again_changes_and_announces_nothing(client: httpx.AsyncClient, database: Database) -> None:
    body = [said(uuid4(), number % 2 == 0) for number in range(3)]
    assert counts(await client.post("/outcomes", json=body)) == (3, 0, 0, 3)
    before = stored(database)
    assert counts(await client.post("/outcomes", json=[*body, body[0]])) == (0, 4, 0, 3)
    assert counts(await client.post("/outcomes", json=[body[1] | {"correction": True}])) == (0, 1, 0, 1)
    assert stored(database) == before
    assert len(announced(database)) == 3


async def test_a_prediction_that_is_there_is_known(
    client: httpx.AsyncClient, pool: store.Pool, database: Database
) -> None:
    known = example_prediction(prediction_id=uuid4())
    await keep_all(pool, [known])
    body = [said(known.prediction_id), said(uuid4())]
    assert counts(await client.post("/outcomes", json=body)) == (2, 0, 0, 1)
    summary = (await client.get("/outcomes/summary")).json()
    assert (summary["recorded"], summary["labelled"], summary["unknown_predictions"]) == (2, 1, 1)


async def test_another_outcome_is_a_conflict_that_names_the_predictions_and_nothing_of_the_request_is_kept(
    client: httpx.AsyncClient, database: Database
) -> None:
    first, second, third = uuid4(), uuid4(), uuid4()
    await client.post("/outcomes", json=[said(first), said(second)])
    before = stored(database)
    response = await client.post("/outcomes", json=[said(third), said(first, False), said(second, intervened=True)])
    assert response.status_code == 409
    assert response.headers["content-type"] == "application/problem+json"
    assert {error["value"] for error in response.json()["errors"]} == {str(first), str(second)}
    assert stored(database) == before
    assert len(announced(database)) == 2


async def test_conflicts_anywhere_in_a_long_request_are_told_together_and_nothing_of_it_is_kept(
    pool: store.Pool, database: Database
) -> None:
    ids = sorted(uuid4() for _ in range(2_500))
    await record(pool, [Outcome(ids[0], readmitted=True), Outcome(ids[-1], readmitted=True)])
    with pytest.raises(Conflict) as conflict:
        await record(pool, [Outcome(one, readmitted=False) for one in ids])
    assert conflict.value.different == [ids[0], ids[-1]]
    assert set(stored(database)) == {ids[0], ids[-1]}
    assert len(announced(database)) == 2


async def test_a_correction_replaces_what_was_recorded_and_says_so(
    client: httpx.AsyncClient, database: Database
) -> None:
    there, new = uuid4(), uuid4()
    await client.post("/outcomes", json=said(there, True))
    body = [said(there, False, correction=True), said(new, correction=True)]
    assert counts(await client.post("/outcomes", json=body)) == (1, 0, 1, 2)
    assert (stored(database)[there]["readmitted"], stored(database)[there]["corrections"]) == (False, 1)
    assert {event.prediction_id: event.correction for event in announced(database)[1:]} == {there: True, new: False}


async def test_an_outcome_that_stands_in_a_dataset_can_no_longer_be_corrected(
    client: httpx.AsyncClient, database: Database
) -> None:
    used = uuid4()
    await client.post("/outcomes", json=said(used))
    database.execute("UPDATE raw_data.outcomes SET used_in_version = 1, used_in_batch = 6")
    assert counts(await client.post("/outcomes", json=said(used))) == (0, 1, 0, 1)
    response = await client.post("/outcomes", json=said(used, False, correction=True))
    assert response.status_code == 409
    [error] = response.json()["errors"]
    assert (error["value"], "dataset" in error["problem"]) == (str(used), True)
    assert stored(database)[used]["readmitted"] is True


async def test_csv_says_what_json_says(client: httpx.AsyncClient, database: Database) -> None:
    ids = [uuid4() for _ in range(6)]
    words = ("true", "1", "YES", "false", "0", "No")
    lines = [f"{prediction_id},{word},," for prediction_id, word in zip(ids, words, strict=True)]
    lines[0] = f"{str(ids[0]).upper()},true,yes,2026-10-01T10:00:00+02:00"
    text = "\ufeff" + "\r\n".join([_HEADER + ", intervened ,observed_at", *lines, "", ""])
    assert counts(await post_csv(client, text)) == (6, 0, 0, 6)
    rows = stored(database)
    assert [rows[prediction_id]["readmitted"] for prediction_id in ids] == [True, True, True, False, False, False]
    assert [rows[prediction_id]["intervened"] for prediction_id in ids] == [True, *[None] * 5]
    assert rows[ids[0]]["observed_at"] == datetime(2026, 10, 1, 8, tzinfo=UTC)
    again = said(ids[0], intervened=True, observed_at="2026-10-01T08:00:00Z")
    assert counts(await client.post("/outcomes", json=again)) == (0, 1, 0, 1)


_ID = "c0ffee00-1b2c-4d3e-8f4a-5b6c7d8e9f00"
_TOMORROW = (datetime.now(UTC) + timedelta(days=1)).isoformat()


@pytest.mark.parametrize(
    ("body", "places"),
    [
        (said("7"), ["prediction_id"]),
        ([said(_ID), said(_ID.replace("-", ""))], ["[1].prediction_id"]),
        (said(_ID) | {"readmitted_within_30_days": "yes"}, ["readmitted_within_30_days"]),
        (said(_ID, intervened=1), ["intervened"]),
        (said(_ID, observed_at="2026-10-01T10:00:00"), ["observed_at"]),
        (said(_ID, observed_at=1_700_000_000), ["observed_at"]),
        (said(_ID, observed_at=_TOMORROW), ["observed_at"]),
        (said(_ID, observed_at="0001-01-01T00:00:00+14:00"), ["observed_at"]),
        (said(_ID, correction="x\0", note="\ud800"), ["note", "correction"]),
        ([said(_ID), 7, [], {}], ["[1].outcome", "[2].outcome", "[3].prediction_id", "[3].readmitted_within_30_days"]),
        ([said(_ID), said(_ID, False, correction=True)], ["[1].prediction_id"]),
    ],
)
async def test_what_is_wrong_in_json_is_told_by_index_and_field_and_nothing_is_recorded(
    body: Any, places: list[str], client: httpx.AsyncClient, database: Database
) -> None:
    response = await client.post("/outcomes", content=json.dumps(body), headers={"content-type": "application/json"})
    assert response.status_code == 422, response.text
    problem = response.json()
    assert [error["field"] for error in problem["errors"]] == places
    assert all(error["problem"] and error["allowed"] for error in problem["errors"])
    assert stored(database) == {}
    assert announced(database) == []


@pytest.mark.parametrize(
    ("text", "places"),
    [
        (f"{_HEADER}\n{_ID},maybe\n", ["line 2: readmitted_within_30_days"]),
        (f"{_HEADER}\n\n{_ID},\n", ["line 3: readmitted_within_30_days"]),
        (f"{_HEADER}\n{_ID},1,1\n", ["line 2: outcome"]),
        (f"{_HEADER},intervened\n{_ID},1,2\n{_ID}x,0,0", ["line 2: intervened", "line 3: prediction_id"]),
        (f"{_HEADER},observed_at\n{_ID},1,{_TOMORROW}\n", ["line 2: observed_at"]),
        (f"{_HEADER}\n{_ID},1\n{_ID},0\n", ["line 3: prediction_id"]),
        (f"{_HEADER},name\n{_ID},1,x\n", ["line 1"]),
        (f"{_HEADER},{_HEADER}\n", ["line 1"]),
        (f"prediction_id;readmitted_within_30_days\n{_ID};1\n", ["line 1"]),
        ("", ["line 1"]),
        (_HEADER, []),
        (f"{_HEADER}\n{_ID},\0\n", []),
        (f"{_HEADER}\n{_ID},é\n".encode("latin-1"), []),
        (f"{_HEADER}\n" + "x" * 200_000, []),
    ],
)
async def test_what_is_wrong_in_csv_is_told_by_line_and_column_and_nothing_is_recorded(
    text: str | bytes, places: list[str], client: httpx.AsyncClient, database: Database
) -> None:
    response = await post_csv(client, text)
    assert response.status_code == 422, response.text
    problem = response.json()
    assert problem["detail"]
    assert [error["field"] for error in problem["errors"]] == places
    assert stored(database) == {}


@pytest.mark.parametrize("body", ["", "{", "[]", "[" * 5_000, '{"a": 1' + "0" * 5_000 + "}"])
async def test_what_is_no_outcome_at_all_is_refused(body: str, client: httpx.AsyncClient) -> None:
    response = await client.post("/outcomes", content=body, headers={"content-type": "application/json"})
    assert response.status_code == 422, response.text


async def test_at_most_a_hundred_faults_are_told(client: httpx.AsyncClient) -> None:
    response = await client.post("/outcomes", json=[said("x") for _ in range(1_000)])
    assert len(response.json()["errors"]) == MAX_ERRORS
    assert "perhaps more" in response.json()["detail"]


async def test_other_forms_are_415_and_too_much_is_413_before_it_is_read(client: httpx.AsyncClient) -> None:
    response = await client.post("/outcomes", content="<x/>", headers={"content-type": "application/xml"})
    assert response.status_code == 415
    sent = 0

    async def endless() -> AsyncIterator[bytes]:
        nonlocal sent
        while sent < 10 * MAX_BYTES:
            sent += 1_000_000
            yield b"x" * 1_000_000

    response = await client.post("/outcomes", content=endless(), headers={"content-type": "text/csv"})
    assert response.status_code == 413
    assert sent < 2 * MAX_BYTES


async def test_a_hundred_thousand_lines_are_one_transaction_and_one_more_is_too_many(
    client: httpx.AsyncClient, database: Database
) -> None:
    lines = [f"{uuid4()},{number % 2},,2026-10-01T10:00:00Z" for number in range(100_001)]
    header = _HEADER + ",intervened,observed_at"
    response = await post_csv(client, "\n".join([header, *lines]))
    assert (response.status_code, "100000" in response.json()["detail"]) == (422, True)
    assert counts(await post_csv(client, "\n".join([header, *lines[:-1]]))) == (100_000, 0, 0, 100_000)
    assert database.execute(
        "SELECT count(*), count(DISTINCT key), count(DISTINCT headers ->> 'ce_id') FROM raw_data.outbox"
    ).fetchall() == [(100_000, 100_000, 100_000)]


async def test_requests_about_the_same_predictions_at_the_same_time_record_each_once(
    pool: store.Pool, database: Database
) -> None:
    given = [Outcome(uuid4(), readmitted=True) for _ in range(4_000)]
    done = await asyncio.gather(*(record(pool, given[at:] + given[:at]) for at in (0, 1_000, 2_000, 3_000)))
    assert sum(one.recorded for one in done) == 4_000
    assert sum(one.unchanged for one in done) == 12_000
    assert len(announced(database)) == len(stored(database)) == 4_000


async def test_a_database_that_is_away_is_503() -> None:
    nowhere = store.make_pool("host=127.0.0.1 port=1 connect_timeout=1")
    app = FastAPI()
    app.include_router(outcomes_router(nowhere, "host=127.0.0.1 port=1 connect_timeout=1", 15_000))
    answer_outages(app, Transient, psycopg.OperationalError, detail="away")
    async with httpx.AsyncClient(base_url="http://ingestor", transport=httpx.ASGITransport(app)) as client:
        assert (await client.post("/outcomes", json=said(uuid4()))).status_code == 503
        assert (await client.post("/feedback/batches")).status_code == 503


def test_the_monitor_reads_outcomes_and_no_other_raw_table() -> None:
    from readmit_chassis.testing import postgres_server  # noqa: PLC0415  needs the testing extra, which not all have

    with postgres_server() as own, psycopg.connect(own, autocommit=True) as connection:  # roles belong to a server
        connection.execute("CREATE ROLE readmit_monitor")
        connection.execute("CREATE SCHEMA raw_data")
        connection.execute("CREATE SCHEMA clean_data")
        apply_migrations(own, store.SCHEMA, "readmit_ingestor")
        tables = connection.execute(
            "SELECT relname FROM pg_class WHERE relnamespace = 'raw_data'::regnamespace AND relkind = 'r'"
            " AND has_table_privilege('readmit_monitor', oid, 'SELECT')"
        ).fetchall()
        assert tables == [("outcomes",)]
        connection.execute("SET ROLE readmit_monitor")
        assert connection.execute("SELECT count(*) FROM raw_data.outcomes").fetchone() == (0,)


_KILLED = """
import asyncio, os, signal, sys
from uuid import UUID
from readmit_ingestor import outcomes, store
conninfo, step, *ids = sys.argv[1:]
whole = getattr(outcomes, step)
async def killed(*args):
    await whole(*args)
    os.kill(os.getpid(), signal.SIGKILL)
setattr(outcomes, step, killed)
async def main():
    async with store.make_pool(conninfo) as pool:
        await outcomes.record(pool, [outcomes.Outcome(UUID(one), True, correction=True) for one in ids])
asyncio.run(main())
"""


@pytest.mark.parametrize("step", ["_insert", "_compare", "_correct", "_announce", "_count_unknown"])
async def test_killed_at_any_step_nothing_is_recorded_and_asking_again_records_all_once(
    step: str, pool: store.Pool, database: Database
) -> None:
    ids = [uuid4() for _ in range(3)]
    await record(pool, [Outcome(ids[0], readmitted=False)])
    assert hasattr(outcomes, step)
    killed = await asyncio.to_thread(
        subprocess.run, [sys.executable, "-c", _KILLED, conninfo(database), step, *map(str, ids)],
        check=False, capture_output=True, env={**os.environ},
    )  # fmt: skip
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    assert list(stored(database)) == ids[:1]
    assert len(announced(database)) == 1
    done = await record(pool, [Outcome(one, readmitted=True, correction=True) for one in ids])
    assert (done.recorded, done.corrected, done.unchanged) == (2, 1, 0)
    assert {one: row["readmitted"] for one, row in stored(database).items()} == dict.fromkeys(ids, True)
    assert len(announced(database)) == 4
