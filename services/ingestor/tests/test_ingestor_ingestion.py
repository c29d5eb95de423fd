"""One ingestion on a real database: whole or not at all, once per content, no patient in two splits."""

from __future__ import annotations

import gzip
import io
import json
import os
import signal
import statistics
import subprocess
import sys
from itertools import pairwise
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import psycopg
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from readmit_chassis.envelope import Envelope, new_envelope
from readmit_contracts.encounter import COLUMNS
from readmit_contracts.events import BatchReady, IngestionFinished, IngestionRequested
from readmit_features.split import split_of
from readmit_features.synthetic import FIRST_SYNTHETIC_ID, write_sample
from readmit_ingestor import store
from readmit_ingestor.batches import Batch, read_batch
from readmit_ingestor.runner import Runner
from readmit_ingestor.sources import Places

pytestmark = pytest.mark.stack

Connection = psycopg.Connection[Any]


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """Rows that could be real: their identifiers are not those of a sample."""
    path = tmp_path / "source.csv"
    write_sample(path, rows=4_000)
    path.write_text(path.read_text().replace(str(FIRST_SYNTHETIC_ID)[:6], ""))
    return path


def runner(database: Connection, tmp_path: Path) -> Runner:
    return Runner(conninfo(database), Places(tmp_path / "cache", ""), batch_rows=1_000, max_bad_share=0.05)


def conninfo(database: Connection) -> str:
    parts = database.info
    return f"host=127.0.0.1 port={parts.port} dbname={parts.dbname} user={parts.user}"


def ask(database: Connection, source: object, cause: Envelope | None = None, order: str = "encounter") -> UUID:
    request_id = uuid4()
    database.execute(
        "INSERT INTO raw_data.ingestions (request_id, source, requested_by, headers, batch_order)"
        " VALUES (%s, %s, 'test', %s, %s)",
        (request_id, str(source), json.dumps(cause.headers()) if cause else None, order),
    )
    return request_id


def run(
    database: Connection, tmp_path: Path, source: object, cause: Envelope | None = None, order: str = "encounter"
) -> dict[str, Any]:
    request_id = ask(database, source, cause, order)
    claimed = store.claim(database)
    assert claimed is not None
    runner(database, tmp_path).run_one(database, claimed)
    with database.cursor(row_factory=psycopg.rows.dict_row) as cursor:
        cursor.execute("SELECT * FROM raw_data.ingestions WHERE request_id = %s", (request_id,))
        found = cursor.fetchone()
    assert found is not None
    return found


def announced(database: Connection, topic: str) -> list[dict[str, Any]]:
    """Payloads of what waits for the relay, oldest first."""
    query = "SELECT payload FROM raw_data.outbox WHERE topic = %s ORDER BY id"
    return [payload for (payload,) in database.execute(query, (topic,)).fetchall()]


def batches_announced(database: Connection) -> list[BatchReady]:
    return [BatchReady.model_validate(payload) for payload in announced(database, "batch.ready")]


def ends_announced(database: Connection) -> list[IngestionFinished]:
    return [IngestionFinished.model_validate(payload) for payload in announced(database, "ingestion.finished")]


def count(database: Connection, table: str) -> int:
    row = database.execute(f"SELECT count(*) FROM {table}".encode()).fetchone()  # noqa: S608  our literals
    assert row is not None
    return int(row[0])


def test_the_tables_have_the_columns_of_the_encounter_schema(database: Connection) -> None:
    for table, before in (("diabetes_train", 1), ("diabetes_test", 1)):
        names = database.execute(
            "SELECT column_name FROM information_schema.columns WHERE table_schema = 'clean_data' AND table_name = %s"
            " ORDER BY ordinal_position",
            (table,),
        ).fetchall()
        assert [name for (name,) in names][before : before + 50] == [column.key for column in COLUMNS]


def test_every_row_has_exactly_one_place_and_every_batch_its_event(
    database: Connection, source: Path, tmp_path: Path
) -> None:
    ended = run(database, tmp_path, source)
    assert (ended["status"], ended["dataset_version"], ended["rows_read"]) == ("done", 1, 4_000)
    placed = sum(count(database, f"clean_data.diabetes_{t}") for t in ("train", "validation", "test", "excluded"))
    assert placed == count(database, "raw_data.diabetes") == 4_000
    assert count(database, "clean_data.diabetes_excluded") == ended["rows_excluded"] > 0
    shared = database.execute(
        "SELECT count(*) FROM clean_data.diabetes_train JOIN clean_data.diabetes_test USING (patient_nbr)"
    ).fetchone()
    assert shared == (0,)
    batches = database.execute("SELECT batch_id, rows, sha256 FROM clean_data.batch_info ORDER BY 1").fetchall()
    assert [rows for _, rows, _ in batches][:-1] == [1_000] * (len(batches) - 1)
    events = batches_announced(database)
    assert [(event.batch, event.rows, event.batch_sha256) for event in events] == batches
    assert not any(event.synthetic for event in events)


@pytest.mark.parametrize("order", ["encounter", "shuffled"])
def test_a_batchs_digest_is_that_of_its_rows_as_postgresql_prints_them(
    order: str, database: Connection, source: Path, tmp_path: Path
) -> None:
    """Whoever doubts a batch can print and digest it with psql; cells with commas and quotes are no exception."""
    lines = source.read_text().splitlines()
    at = [column.key for column in COLUMNS].index("medical_specialty")
    for number, specialty in enumerate(('"a,b"', '"say ""no"""', "plain"), start=1):
        for line in range(number, 400, 3):
            cells = lines[line].split(",")
            lines[line] = ",".join([*cells[:at], specialty, *cells[at + 1 :]])
    source.write_text("\n".join(lines) + "\n")
    run(database, tmp_path, source, order=order)
    kept = database.execute("SELECT DISTINCT medical_specialty FROM clean_data.diabetes_train").fetchall()
    assert {("a,b",), ('say "no"',), ("plain",)} <= set(kept)
    described = database.execute(
        "SELECT batch_id, rows, positives, sha256, first_encounter_id, last_encounter_id FROM clean_data.batch_info"
        " ORDER BY batch_id"
    ).fetchall()
    assert len(described) > 2
    for batch, *figures in described:
        assert read_batch(database, 1, batch) == Batch(batch, *figures)


def test_rows_stand_in_encounter_order_across_batches(database: Connection, source: Path, tmp_path: Path) -> None:
    run(database, tmp_path, source)
    spans = database.execute(
        "SELECT min(encounter_id), max(encounter_id) FROM clean_data.diabetes_train GROUP BY batch_id ORDER BY batch_id"
    ).fetchall()
    assert all(before[1] < after[0] for before, after in pairwise(spans))


def test_the_same_bytes_again_change_nothing_and_say_so(database: Connection, source: Path, tmp_path: Path) -> None:
    run(database, tmp_path, source)
    batches = batches_announced(database)
    again = run(database, tmp_path, source)
    assert (again["status"], again["dataset_version"]) == ("unchanged", 1)
    assert batches_announced(database) == batches
    assert count(database, "raw_data.diabetes") == 4_000


_EMPTY = (
    "TRUNCATE raw_data.ingestions, raw_data.outbox, raw_data.diabetes, raw_data.quarantine, clean_data.datasets,"
    " clean_data.batch_info, clean_data.diabetes_train, clean_data.diabetes_validation, clean_data.diabetes_test,"
    " clean_data.diabetes_excluded"
)


@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    asked=st.lists(
        st.tuples(
            st.sampled_from([300, 500, 700]),
            st.sampled_from(["csv", "crlf", "gzip"]),
            st.sampled_from(["encounter", "shuffled"]),
        ),
        min_size=1, max_size=6,
    )
)  # fmt: skip
def test_whatever_is_asked_however_often_each_content_is_one_version_with_each_row_once(
    asked: list[tuple[int, str, str]], database: Connection, source: Path, tmp_path: Path
) -> None:
    database.execute(_EMPTY.encode())
    lines = source.read_bytes().splitlines(keepends=True)
    ended = []
    for rows, form, order in asked:
        data = b"".join(lines[: rows + 1])
        path = tmp_path / f"{rows}.{form}"
        path.write_bytes({"csv": data, "crlf": data.replace(b"\n", b"\r\n"), "gzip": gzip.compress(data)}[form])
        ended.append(run(database, tmp_path, path, order=order))
    contents = list(dict.fromkeys((rows, order) for rows, _, order in asked))
    versions = [contents.index((rows, order)) + 1 for rows, _, order in asked]
    assert [end["dataset_version"] for end in ended] == versions
    assert [end["status"] for end in ended] == [
        "done" if version not in versions[:at] else "unchanged" for at, version in enumerate(versions)
    ]
    for version, (rows, _) in enumerate(contents, start=1):
        placed = database.execute(
            " UNION ALL ".join(
                f"SELECT encounter_id, patient_nbr, '{table}' FROM clean_data.diabetes_{table}"  # noqa: S608
                f" WHERE dataset_version = {version}"
                for table in ("train", "validation", "test", "excluded")
            ).encode()
        ).fetchall()
        assert len(placed) == len({encounter for encounter, _, _ in placed}) == rows
        assert all(split_of(patient) == table for _, patient, table in placed if table != "excluded")
    assert len(batches_announced(database)) == count(database, "clean_data.batch_info")


def test_a_shuffle_mixes_the_encounters_over_the_batches_and_is_the_same_every_time(
    database: Connection, source: Path, tmp_path: Path
) -> None:
    mixed = []
    for _ in range(2):
        database.execute(_EMPTY.encode())
        run(database, tmp_path, source, order="shuffled")
        mixed.append(database.execute("SELECT encounter_id, batch_id FROM clean_data.diabetes_train").fetchall())
        assert database.execute("SELECT DISTINCT batch_order FROM clean_data.datasets").fetchall() == [("shuffled",)]
    assert sorted(mixed[0]) == sorted(mixed[1])
    sizes = [
        rows for (rows,) in database.execute("SELECT rows FROM clean_data.batch_info ORDER BY batch_id").fetchall()
    ]
    assert sizes[:-1] == [1_000] * (len(sizes) - 1)
    assert 0 < sizes[-1] <= 1_000
    middle = statistics.median(encounter for encounter, _ in mixed[0])
    early = sum(encounter < middle for encounter, batch in mixed[0] if batch == 1)
    assert 400 < early < 600


def test_a_version_knows_where_it_comes_from(database: Connection, source: Path, tmp_path: Path) -> None:
    first = run(database, tmp_path, source)
    source.write_text("".join(source.read_text().splitlines(keepends=True)[:-5]))
    run(database, tmp_path, source)
    rows = database.execute(
        "SELECT version, previous_version, replay_of, request_id, batch_order, batch_rows, parts"
        " FROM clean_data.datasets ORDER BY version"
    ).fetchall()
    assert [row[:3] for row in rows] == [(1, None, None), (2, 1, None)]
    assert rows[0][3:6] == (first["request_id"], "encounter", 1_000)
    [part] = rows[1][6]
    assert (part["name"], part["rows"], part["first_line"]) == ("source.csv", 3_995, 0)


def test_what_cleaning_changed_is_counted_by_rule(database: Connection, source: Path, tmp_path: Path) -> None:
    lines = source.read_text().splitlines()
    lines[5] = lines[5].replace("[", "").replace(")", "")
    source.write_text("\n".join(lines) + "\n")
    ended = run(database, tmp_path, source)
    assert ended["changes"]["age: spelling made canonical"] == 1
    assert ended["changes"]["weight: missing marker read as missing"] > 3_000
    [end] = ends_announced(database)
    assert end.changes == ended["changes"]
    assert database.execute("SELECT changes FROM clean_data.datasets").fetchone() == (ended["changes"],)


def test_a_folder_of_parts_is_one_version(database: Connection, source: Path, tmp_path: Path) -> None:
    lines = source.read_text().splitlines(keepends=True)
    folder = tmp_path / "months"
    folder.mkdir()
    (folder / "1.csv").write_text("".join(lines[:1001]))
    bad = lines[1500].replace("Female", "Robot").replace("Male", "Robot")
    (folder / "2.csv").write_text("".join([lines[0], *lines[1001:1500], bad, *lines[1501:]]))
    ended = run(database, tmp_path, folder)
    assert (ended["status"], ended["rows_read"], ended["rows_quarantined"]) == ("done", 4_000, 1)
    assert count(database, "raw_data.diabetes") == 4_000
    distinct = database.execute("SELECT count(DISTINCT line) FROM raw_data.diabetes").fetchone()
    assert distinct == (4_000,)
    place = database.execute("SELECT part, part_line FROM raw_data.quarantine").fetchone()
    assert place == ("2.csv", 501)


def test_changed_bytes_are_a_new_version_with_the_same_splits(
    database: Connection, source: Path, tmp_path: Path
) -> None:
    run(database, tmp_path, source)
    lines = source.read_text().splitlines(keepends=True)
    source.write_text("".join(lines[:-100]))
    assert run(database, tmp_path, source)["dataset_version"] == 2
    moved = database.execute(
        "SELECT count(*) FROM clean_data.diabetes_train a JOIN clean_data.diabetes_test b USING (patient_nbr)"
    ).fetchone()
    assert moved == (0,)


def test_bad_rows_are_kept_in_quarantine_with_their_reasons(database: Connection, source: Path, tmp_path: Path) -> None:
    lines = source.read_text().splitlines()
    lines[10] = lines[10].replace("Female", "Robot").replace("Male", "Robot")
    lines[20] += ",one too many"
    source.write_text("\n".join(lines) + "\n")
    assert run(database, tmp_path, source)["rows_quarantined"] == 2
    kept = database.execute("SELECT line, reasons FROM raw_data.quarantine ORDER BY line").fetchall()
    assert [line for line, _ in kept] == [11, 21]
    assert kept[0][1][0]["field"] == "gender"
    assert kept[0][1][0]["value"] == "Robot"


def test_a_doubled_encounter_is_set_apart(database: Connection, source: Path, tmp_path: Path) -> None:
    lines = source.read_text().splitlines()
    survivors = [line for line in lines[1:] if line.split(",")[7] == "1"]
    other = (
        survivors[1].replace("Female", "Male") if "Female" in survivors[1] else survivors[1].replace("Male", "Female")
    )
    source.write_text("\n".join([*lines, survivors[0], other]) + "\n")
    run(database, tmp_path, source)
    doubled = database.execute(
        "SELECT encounter_id, reason FROM clean_data.diabetes_excluded WHERE reason LIKE '%encounter' ORDER BY reason"
    ).fetchall()
    conflicting, same = (int(line.split(",")[0]) for line in (survivors[1], survivors[0]))
    assert doubled == [(conflicting, "conflicting_encounter"), (same, "duplicate_encounter")]
    kept = database.execute(
        "SELECT gender FROM (SELECT encounter_id, gender FROM clean_data.diabetes_train UNION ALL"
        " SELECT encounter_id, gender FROM clean_data.diabetes_validation UNION ALL"
        " SELECT encounter_id, gender FROM clean_data.diabetes_test) AS placed WHERE encounter_id = %s",
        (conflicting,),
    ).fetchall()
    assert kept == [(survivors[1].split(",")[3],)]


def test_too_many_bad_rows_fail_the_whole_and_leave_nothing(database: Connection, source: Path, tmp_path: Path) -> None:
    lines = source.read_text().splitlines()
    lines[1:400] = [line.replace("No", "Nope") for line in lines[1:400]]
    source.write_text("\n".join(lines) + "\n")
    ended = run(database, tmp_path, source)
    assert (ended["status"], ended["error_code"]) == ("failed", "too_many_bad_rows")
    for table in ("raw_data.diabetes", "raw_data.quarantine", "clean_data.datasets"):
        assert count(database, table) == 0
    assert batches_announced(database) == []


@pytest.mark.parametrize("form", ["sample", "file"])
def test_synthetic_rows_are_marked_everywhere_even_when_they_come_back_as_a_file(
    form: str, database: Connection, tmp_path: Path
) -> None:
    write_sample(tmp_path / "saved.csv", rows=2_000)
    source = "sample:2000" if form == "sample" else tmp_path / "saved.csv"
    assert run(database, tmp_path, source)["synthetic"] is True
    assert database.execute("SELECT synthetic FROM clean_data.datasets").fetchall() == [(True,)]
    assert database.execute("SELECT bool_and(synthetic) FROM clean_data.batch_info").fetchall() == [(True,)]
    assert {event.synthetic for event in (*batches_announced(database), *ends_announced(database))} == {True}


_KILLED = """
import os, signal, sys
from pathlib import Path
import psycopg
from readmit_ingestor import ingestion, store
from readmit_ingestor.runner import Runner
from readmit_ingestor.sources import Places
conninfo, cache, stage = sys.argv[1:]
owner = ingestion if hasattr(ingestion, stage) else store
whole = getattr(owner, stage)
def killed(*args, **kwargs):
    whole(*args, **kwargs)
    os.kill(os.getpid(), signal.SIGKILL)
setattr(owner, stage, killed)
with psycopg.connect(conninfo, autocommit=True) as notes:
    Runner(conninfo, Places(Path(cache), ""), 1_000, 0.05).run_one(notes, store.claim(notes))
"""


@pytest.mark.parametrize(
    "stage",
    [
        "_make_staging",
        "_copy",
        "_set_doubles_apart",
        "_distribute",
        "refuse_leakage",
        "_note_version",
        "note_batches",
        "announce_batch",
        "_announce",
        "finish",
    ],
)
def test_killed_at_any_stage_it_leaves_nothing_and_a_rerun_completes_once(
    stage: str, database: Connection, source: Path, tmp_path: Path
) -> None:
    ask(database, source)
    killed = subprocess.run(
        [sys.executable, "-c", _KILLED, conninfo(database), str(tmp_path / "cache"), stage],
        check=False, capture_output=True, env={**os.environ},
    )  # fmt: skip
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    assert count(database, "raw_data.diabetes") == 0
    assert count(database, "raw_data.outbox") == 0
    claimed = store.claim(database)
    assert claimed is not None
    runner(database, tmp_path).run_one(database, claimed)
    assert database.execute("SELECT status, dataset_version FROM raw_data.ingestions").fetchall() == [("done", 1)]
    assert count(database, "raw_data.diabetes") == 4_000
    assert len(batches_announced(database)) == count(database, "clean_data.batch_info")
    assert [end.outcome for end in ends_announced(database)] == ["done"]
    assert store.claim(database) is None


def test_killed_while_it_says_that_a_source_failed_it_says_so_once_after_a_rerun(
    database: Connection, tmp_path: Path
) -> None:
    ask(database, tmp_path / "nowhere.csv")
    killed = subprocess.run(
        [sys.executable, "-c", _KILLED, conninfo(database), str(tmp_path / "cache"), "_announce"],
        check=False, capture_output=True, env={**os.environ},
    )  # fmt: skip
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    assert ends_announced(database) == []
    claimed = store.claim(database)
    assert claimed is not None
    runner(database, tmp_path).run_one(database, claimed)
    assert [(end.outcome, end.error_code) for end in ends_announced(database)] == [("failed", "source_not_found")]


def test_the_end_of_a_request_is_announced_with_its_figures_in_the_trace_of_the_request(
    database: Connection, source: Path, tmp_path: Path
) -> None:
    cause = new_envelope(IngestionRequested.EVENT_TYPE, source="test", subject="any")
    ended = run(database, tmp_path, source, cause)
    [end] = ends_announced(database)
    assert end == IngestionFinished(
        request_id=ended["request_id"], source=str(source), outcome="done", dataset_version=1, synthetic=False,
        rows_read=4_000, rows_quarantined=0, rows_excluded=ended["rows_excluded"],
        batches=count(database, "clean_data.batch_info"), changes=ended["changes"], finished_at=ended["finished_at"],
    )  # fmt: skip
    rows = database.execute("SELECT topic, key, headers FROM raw_data.outbox ORDER BY id").fetchall()
    assert rows[-1][:2] == ("ingestion.finished", str(ended["request_id"]))
    assert {headers["traceparent"].split("-")[1] for _, _, headers in rows} == {cause.traceparent.split("-")[1]}


def test_the_end_of_a_request_that_changed_nothing_names_the_version_that_is_there(
    database: Connection, source: Path, tmp_path: Path
) -> None:
    run(database, tmp_path, source)
    again = run(database, tmp_path, source)
    assert [(end.outcome, end.dataset_version) for end in ends_announced(database)] == [("done", 1), ("unchanged", 1)]
    end = ends_announced(database)[1]
    assert (end.request_id, end.rows_read, end.batches) == (again["request_id"], 4_000, 0)


def test_the_end_of_a_request_that_failed_says_why(database: Connection, tmp_path: Path) -> None:
    ended = run(database, tmp_path, tmp_path / "nowhere.csv")
    [end] = ends_announced(database)
    assert (end.outcome, end.dataset_version, end.error_code) == ("failed", None, "source_not_found")
    assert (end.error_message, end.finished_at) == (ended["error_message"], ended["finished_at"])
    assert "nowhere.csv" in (end.error_message or "")


def test_a_runner_that_comes_late_leaves_nothing_and_says_nothing(
    database: Connection, source: Path, tmp_path: Path
) -> None:
    """Cut off from the database for a while, it ends a request that another runner has ended meanwhile."""
    for late in (source, tmp_path / "nowhere.csv"):
        request_id = ask(database, late)
        claimed = store.claim(database)
        assert claimed is not None
        assert store.finish(database, request_id, "failed", error_code="gave_up", error_message="x")
        runner(database, tmp_path).run_one(database, claimed)
    assert [end.error_code for end in ends_announced(database)] == ["gave_up", "gave_up"]
    assert count(database, "raw_data.diabetes") == count(database, "clean_data.datasets") == 0
    assert batches_announced(database) == []


def test_a_source_that_keeps_killing_the_process_is_given_up(
    database: Connection, source: Path, tmp_path: Path
) -> None:
    ask(database, source)
    for _ in range(3):
        store.claim(database)
    claimed = store.claim(database)
    assert claimed is not None
    runner(database, tmp_path).run_one(database, claimed)
    assert database.execute("SELECT status, error_code FROM raw_data.ingestions").fetchall() == [("failed", "gave_up")]
    assert [(end.outcome, end.error_code) for end in ends_announced(database)] == [("failed", "gave_up")]


def test_a_row_that_the_database_refuses_stops_the_process_and_stands_in_no_message(
    database: Connection, source: Path, tmp_path: Path
) -> None:
    """It cannot happen, unless the tables and the schema disagree: then a person has to look, and the log is no place
    for a patient."""
    database.execute("ALTER TABLE clean_data.diabetes_train ADD CONSTRAINT never CHECK (gender = 'nobody')")
    with pytest.raises(RuntimeError) as refused:
        run(database, tmp_path, source)
    assert str(refused.value) == "PostgreSQL refused a row: 23514 diabetes_train, never"
    assert refused.value.__cause__ is None
    assert refused.value.__suppress_context__
    assert count(database, "raw_data.diabetes") == 0


def test_a_sample_in_a_text_stream_and_in_a_file_are_the_same(tmp_path: Path) -> None:
    stream = io.StringIO()
    write_sample(stream, rows=10)
    write_sample(tmp_path / "s.csv", rows=10)
    assert (tmp_path / "s.csv").read_text() == stream.getvalue()
