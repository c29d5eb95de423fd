"""Bad rows can be found, corrected, dropped and replayed, each step once, and nothing else moves."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import httpx
import psycopg
import pytest
from fastapi import FastAPI

from readmit_features.synthetic import FIRST_SYNTHETIC_ID, write_sample
from readmit_ingestor import store
from readmit_ingestor.quarantine_api import quarantine_router
from readmit_ingestor.runner import Runner
from readmit_ingestor.sources import Places

pytestmark = pytest.mark.stack

Database = psycopg.Connection[Any]


@pytest.fixture
def conninfo(database: Database) -> str:
    parts = database.info
    return f"host=127.0.0.1 port={parts.port} dbname={parts.dbname} user={parts.user}"


@pytest.fixture
async def client(conninfo: str) -> AsyncIterator[httpx.AsyncClient]:
    app = FastAPI()
    async with store.make_pool(conninfo) as pool:
        app.include_router(quarantine_router(pool))
        async with httpx.AsyncClient(base_url="http://ingestor", transport=httpx.ASGITransport(app)) as opened:
            yield opened


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """Three bad rows among 2,000: two wrong values in line 11, one in line 12, a cell too many in line 21."""
    path = tmp_path / "source.csv"
    write_sample(path, rows=2_000)
    lines = path.read_text().replace(str(FIRST_SYNTHETIC_ID)[:6], "").splitlines()
    for at in (10, 11):
        lines[at] = lines[at].replace("Female", "Robot").replace("Male", "Robot")
    lines[10] = lines[10].rsplit(",", 1)[0] + ",SOON"
    lines[20] += ",one too many"
    path.write_text("\n".join(lines) + "\n")
    return path


def run(database: Database, conninfo: str, tmp_path: Path, source: object) -> dict[str, Any]:
    """What became of a request."""
    request_id = uuid4()
    database.execute(
        "INSERT INTO raw_data.ingestions (request_id, source, requested_by) VALUES (%s, %s, 'test')",
        (request_id, str(source)),
    )
    return run_next(database, conninfo, tmp_path)


def run_next(database: Database, conninfo: str, tmp_path: Path) -> dict[str, Any]:
    claimed = store.claim(database)
    assert claimed is not None
    Runner(conninfo, Places(tmp_path / "cache", ""), batch_rows=500, max_bad_share=0.05).run_one(database, claimed)
    with database.cursor(row_factory=psycopg.rows.dict_row) as cursor:
        cursor.execute("SELECT * FROM raw_data.ingestions WHERE request_id = %s", (claimed["request_id"],))
        found = cursor.fetchone()
    assert found is not None
    return found


async def test_bad_rows_are_listed_with_place_cells_and_reasons_and_counted_by_reason(
    client: httpx.AsyncClient, database: Database, conninfo: str, source: Path, tmp_path: Path
) -> None:
    ended = run(database, conninfo, tmp_path, source)
    assert ended["quarantined_by"] == {
        "gender: is not one of the allowed values": 2,
        "readmitted: is not one of the allowed values": 1,
        "*: has another number of cells than the header": 1,
    }
    rows = (await client.get("/quarantine")).json()["rows"]
    assert [(row["file"], row["line"], row["status"]) for row in rows] == [
        ("source.csv", line, "open") for line in (11, 12, 21)
    ]
    assert [reason["field"] for reason in rows[0]["reasons"]] == ["gender", "readmitted"]
    assert rows[0]["row"]["gender"] == "Robot"
    assert "Female" in rows[0]["reasons"][0]["allowed"]
    assert len(rows[2]["row"]) == 51
    only = (await client.get("/quarantine", params={"field": "readmitted"})).json()["rows"]
    assert [row["line"] for row in only] == [11]
    page = (await client.get("/quarantine", params={"limit": 2})).json()
    rest = (await client.get("/quarantine", params={"limit": 2, "after": page["next"]})).json()
    assert [row["line"] for row in (*page["rows"], *rest["rows"])] == [11, 12, 21]
    assert rest["next"] is None
    reasons = (await client.get("/quarantine/summary")).json()["reasons"]
    assert (reasons[0]["field"], reasons[0]["rows"]) == ("gender", 2)


async def test_a_correction_that_does_not_mend_the_row_is_refused_with_every_reason_and_changes_nothing(
    client: httpx.AsyncClient, database: Database, conninfo: str, source: Path, tmp_path: Path
) -> None:
    run(database, conninfo, tmp_path, source)
    [row_id, _, misshapen] = [row["id"] for row in (await client.get("/quarantine")).json()["rows"]]
    refused = await client.patch(f"/quarantine/{row_id}", json={"values": {"gender": "Female"}})
    assert refused.status_code == 422
    assert [error["field"] for error in refused.json()["errors"]] == ["readmitted"]
    refused = await client.patch(f"/quarantine/{row_id}", json={"values": {"sex": "F", "gender": "a\0b"}})
    assert [error["problem"] for error in refused.json()["errors"]] == [
        "is not a column", "contains characters that cannot be printed",
    ]  # fmt: skip
    refused = await client.patch(f"/quarantine/{misshapen}", json={"values": {"gender": "Female"}})
    assert len(refused.json()["errors"]) == 49
    assert {row["status"] for row in (await client.get("/quarantine")).json()["rows"]} == {"open"}


async def test_corrected_rows_are_replayed_into_a_new_version_and_the_old_one_stays(
    client: httpx.AsyncClient, database: Database, conninfo: str, source: Path, tmp_path: Path
) -> None:
    first = run(database, conninfo, tmp_path, source)
    [one, two, three] = [row["id"] for row in (await client.get("/quarantine")).json()["rows"]]
    assert (await client.post("/quarantine/replay", json={})).status_code == 409
    mended = await client.patch(f"/quarantine/{one}", json={"values": {"gender": "Female", "Readmitted": ">30"}})
    assert (mended.status_code, mended.json()["status"]) == (200, "corrected")
    dropped = await client.delete(f"/quarantine/{three}", params={"reason": "a test line"})
    assert (dropped.json()["status"], dropped.json()["note"]) == ("dropped", "a test line")
    asked = await client.post("/quarantine/replay", json={})
    assert asked.status_code == 202
    assert asked.headers["location"] == f"/ingestions/{asked.json()['request_id']}"
    ended = run_next(database, conninfo, tmp_path)
    assert (ended["status"], ended["source"], ended["rows_quarantined"]) == ("done", "quarantine:1", 0)
    assert ended["rows_read"] == first["rows_read"] - 2
    assert ended["dataset_version"] == 2
    lineage = database.execute(
        "SELECT previous_version, replay_of FROM clean_data.datasets WHERE version = 2"
    ).fetchone()
    assert lineage == (1, 1)
    rows = (await client.get("/quarantine")).json()["rows"]
    assert {row["id"]: (row["status"], row["replayed_in"]) for row in rows} == {
        one: ("replayed", 2), two: ("open", None), three: ("dropped", None),
    }  # fmt: skip
    before, after = (
        database.execute(
            "SELECT count(*) FROM raw_data.diabetes WHERE dataset_version = %s AND gender <> 'Robot'", (version,)
        ).fetchone()
        for version in (1, 2)
    )
    assert after == (before[0] + 1,)  # type: ignore[index]
    assert (await client.patch(f"/quarantine/{one}", json={"values": {"gender": "Male"}})).status_code == 409
    assert (await client.post("/quarantine/replay", json={"dataset_version": 1})).status_code == 409


async def test_a_second_replay_holds_all_corrections_so_far(
    client: httpx.AsyncClient, database: Database, conninfo: str, source: Path, tmp_path: Path
) -> None:
    run(database, conninfo, tmp_path, source)
    [one, two, _] = [row["id"] for row in (await client.get("/quarantine")).json()["rows"]]
    for row_id, values in ((one, {"gender": "Female", "readmitted": "NO"}), (two, {"gender": "Male"})):
        assert (await client.patch(f"/quarantine/{row_id}", json={"values": values})).status_code == 200
        assert (await client.post("/quarantine/replay", json={"dataset_version": 1})).status_code == 202
        run_next(database, conninfo, tmp_path)
    sizes = database.execute("SELECT rows_raw FROM clean_data.datasets ORDER BY version").fetchall()
    assert sizes == [(2_000,), (1_998,), (1_999,)]


@pytest.mark.parametrize(
    ("replayed", "code", "said"),
    [("quarantine:7", "source_not_found", "no such dataset"), ("quarantine:1", "nothing_to_replay", "corrected")],
)
def test_a_replay_of_nothing_fails_with_the_next_step(
    replayed: str, code: str, said: str, database: Database, conninfo: str, source: Path, tmp_path: Path
) -> None:
    run(database, conninfo, tmp_path, source)
    ended = run(database, conninfo, tmp_path, replayed)
    assert (ended["status"], ended["error_code"]) == ("failed", code)
    assert said in ended["error_message"]


def test_a_row_that_is_corrected_again_during_a_replay_waits_for_the_next(
    database: Database, conninfo: str, source: Path, tmp_path: Path
) -> None:
    from readmit_ingestor.replay import mark_replayed, open_replay  # noqa: PLC0415  the two steps apart

    run(database, conninfo, tmp_path, source)
    database.execute(
        "UPDATE raw_data.quarantine SET status = 'corrected', corrected = row, changed_at = clock_timestamp()"
        " WHERE line < 20"
    )
    with open_replay(conninfo, 1) as (opened, replay):
        part = next(opened.parts)
        database.execute("UPDATE raw_data.quarantine SET changed_at = clock_timestamp() WHERE line = 11")
        assert part.stream.read().count(b"\n") == 2_000  # a header, and all rows but the misshapen one
    mark_replayed(database, replay, 2)
    states = database.execute("SELECT line, status FROM raw_data.quarantine ORDER BY line").fetchall()
    assert states == [(11, "corrected"), (12, "replayed"), (21, "open")]


@pytest.mark.parametrize("call", [("GET", "/quarantine/99"), ("DELETE", "/quarantine/99?reason=x")])
async def test_a_row_that_is_not_there_is_404_with_the_next_step(
    call: tuple[str, str], client: httpx.AsyncClient
) -> None:
    answer = await client.request(*call)
    assert answer.status_code == 404
    assert "GET /quarantine" in answer.json()["detail"]


@pytest.mark.parametrize(
    "query", ["status=lost", "limit=0", "limit=1001", "after=-1", "dataset_version=0", "field=a%00b", f"after={2**63}"]
)
async def test_a_query_that_makes_no_sense_is_refused(query: str, client: httpx.AsyncClient) -> None:
    assert (await client.get(f"/quarantine?{query}")).status_code == 422
