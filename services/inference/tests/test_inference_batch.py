"""Many encounters in one request: each answered as `/predict` would, whatever stands beside it."""

from __future__ import annotations

import asyncio
import csv
import io
import json
from collections.abc import AsyncIterator, Iterator, Sequence
from pathlib import Path
from typing import Any

import orjson
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from prometheus_client import REGISTRY

from readmit_chassis.s3 import MemoryStore
from readmit_contracts.encounter import COLUMNS, Group, example_encounter
from readmit_contracts.history import HISTORY, example_history
from readmit_contracts.prediction import BatchPrediction, Problem
from readmit_features.synthetic import sample_columns
from readmit_inference.batch.bodies import Body, CsvBody, JsonBody, NdjsonBody, Row, _lines
from readmit_inference.batch.spool import Spool
from readmit_inference.errors import InvalidBatch, InvalidJson, NotAnObject
from readmit_inference.settings import Settings
from readmit_inference.testing import Service, promote, running, tiny_bundle, until

JSON, NDJSON, CSV = "application/json", "application/x-ndjson", "text/csv"
NAMES = [column.name for column in COLUMNS if column.group is not Group.OUTCOME]


def _encounters(count: int) -> list[dict[str, Any]]:
    cells = sample_columns(count)
    return [{name: cells[name][at] for name in NAMES} for at in range(count)]


def _csv(rows: Sequence[dict[str, Any]], names: Sequence[str] = NAMES) -> bytes:
    text = io.StringIO()
    writer = csv.DictWriter(text, names, lineterminator="\r\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue().encode()


def _ndjson(rows: Sequence[Any]) -> bytes:
    return b"".join(orjson.dumps(row) + b"\n" for row in rows)


async def _post(service: Service, body: bytes, sent_as: str, **headers: str) -> Any:
    return await service.client.post("/predict/batch", content=body, headers={"content-type": sent_as, **headers})


@pytest.fixture(params=["lightgbm", "logistic_regression"])
async def any_service(request: pytest.FixtureRequest, settings: Settings, store: MemoryStore) -> AsyncIterator[Service]:
    async with running(settings, store) as service:
        await service.settle(promote(store, tiny_bundle(3, family=request.param), epoch=1))
        yield service


async def test_every_form_is_answered_as_one_by_one(any_service: Service) -> None:
    rows = _encounters(700)
    rows[5] |= {HISTORY: example_history()}
    rows[6] |= {HISTORY: {"previous_encounters": 0}}
    rows[7] |= {"number_inpatient": 10_000, "insulin": "Plenty"}
    rows[8] |= {"medical_specialty": "Alchemy", "shoe_size": 43}
    rows[9] = {"age": "[50-60)"}
    rows[10] |= {"time_in_hospital": 3.0, "num_medications": True}
    singly = [await any_service.predict(row) for row in rows]
    for sent_as, body in ((JSON, orjson.dumps(rows)), (NDJSON, _ndjson(rows))):
        response = await _post(any_service, body, sent_as, accept=JSON)
        assert response.status_code == 200
        answer = BatchPrediction.model_validate_json(response.content)
        assert answer.error is None
        assert [one.row for one in answer.predictions] == list(range(1, 701))
        for one, alone in zip(answer.predictions, singly, strict=True):
            if alone.status_code == 422:
                told = Problem.model_validate_json(alone.content)
                assert one.error is not None
                assert (one.error.code, one.error.detail) == ("invalid_encounter", told.detail)
                assert one.error.errors == told.errors
                assert one.risk is None
            else:
                expected = alone.json()
                assert one.error is None
                assert one.risk == pytest.approx(expected["risk"], abs=1e-12)
                assert one.readmitted_within_30_days == expected["readmitted_within_30_days"]
                assert one.used_history == expected["used_history"]
                assert [warning.model_dump() for warning in one.warnings] == expected["warnings"]
    refused = [one.row for one in answer.predictions if one.error is not None]
    assert refused == [8, 10, 11]
    assert answer.model.model_dump() == singly[0].json()["model"]


_USUAL = {**example_encounter(), HISTORY: example_history()}
#: Cells that JSON can hold and most columns cannot, or that one parser may take for another.
_ODD_CELLS = [
    "null", "true", "1", "1.0", "1e2", "-0", "2.5", "1e400", "9223372036854775808", "18446744073709551616",
    "123456789012345678901234567890", '""', '"1"', '" No "', r'"\u0000"', r'"\ud800"', r'"\u00e9"', "[]", '{"a": 1}',
    f'"{"x" * 300}"',
]  # fmt: skip


@pytest.mark.parametrize(
    "name", ["encounter_id", "patient_nbr", "age", "time_in_hospital", "diag_1", "insulin", HISTORY]
)
async def test_an_odd_cell_is_answered_as_alone_though_its_names_are_known(service: Service, name: str) -> None:
    others = {key: value for key, value in _USUAL.items() if key != name}
    start = json.dumps(others)[:-1]
    lines = [json.dumps(_USUAL), *(f'{start}, "{name}": {cell}}}' for cell in _ODD_CELLS), json.dumps(_USUAL)]
    await _answered_as_alone(service, lines)


@pytest.mark.parametrize("name", sorted(example_history()))
async def test_an_odd_cell_of_a_history_is_answered_as_alone(service: Service, name: str) -> None:
    others = json.dumps({key: value for key, value in example_history().items() if key != name})[:-1]
    start = json.dumps(example_encounter())[:-1]
    lines = [f'{start}, "{HISTORY}": {others}, "{name}": {cell}}}}}' for cell in _ODD_CELLS]
    more = [
        f'{start}, "{HISTORY}": {{}}}}',
        f'{start}, "{HISTORY}": {{"{name}": 1, "{name}": 0}}}}',
        f'{start}, "{HISTORY}.{name}": 1}}',
        f'{start}, "shoe_size": 43}}',
        f'{start}, "insulin": "Up", "insulin": "Down"}}',
        f'{start}, "insulin": 1.5, "INSULIN": "Down"}}',
        f"{start}}} x",
        "\ufeff" + start + "}",
    ]
    await _answered_as_alone(service, [json.dumps(_USUAL), *lines, *more, json.dumps(example_encounter())])


async def _answered_as_alone(service: Service, lines: Sequence[str]) -> None:
    response = await _post(service, "\n".join(lines).encode(), NDJSON)
    answers = [json.loads(line) for line in response.text.splitlines()]
    for line, one in zip(lines, answers, strict=True):
        alone = await service.client.post("/predict", content=line.encode(), headers={"content-type": JSON})
        said = alone.json()
        if alone.status_code == 200:
            assert {key: one[key] for key in ("risk", "used_history", "warnings")} == {
                "risk": pytest.approx(said["risk"], abs=1e-12),
                "used_history": said["used_history"],
                "warnings": said["warnings"],
            }, line
        else:
            assert one["error"]["code"] == said["type"].rpartition(":")[2], line
            assert one["error"]["errors"] == said.get("errors", []), line


async def test_a_file_of_the_data_set_is_answered_as_a_file(any_service: Service) -> None:
    rows = _encounters(600)
    rows[300]["gender"] = "Klingon, or other"
    expected = [(await any_service.predict(row)).json().get("risk") for row in rows]
    # As the study wrote it: with the outcome, which is no news to anybody who asks for it.
    body = _csv([row | {"readmitted": "NO"} for row in rows], [*NAMES, "readmitted"])
    response = await _post(any_service, body, CSV)
    assert response.headers["content-type"] == CSV
    assert response.headers["readmit-ignored-columns"] == "readmitted"
    assert response.headers["readmit-model-epoch"] == "1"
    answered = list(csv.DictReader(io.StringIO(response.text, newline="")))
    assert [int(line["row"]) for line in answered] == list(range(1, 601))
    assert [float(line["risk"]) if line["risk"] else None for line in answered] == pytest.approx(expected, abs=1e-12)
    assert "gender: is not one of the allowed values (allowed: " in answered[300]["remarks"]
    assert all(line["prediction_id"] == "" for line in answered)


async def test_the_answer_has_the_form_that_is_accepted(any_service: Service) -> None:
    body = _csv(_encounters(3))
    for accept, form in (("*/*", CSV), (f"{NDJSON};q=0.9", NDJSON), ("text/html, application/json", JSON)):
        response = await _post(any_service, body, "text/csv; charset=utf-8", accept=accept)
        assert response.headers["content-type"] == form
    assert json.loads(response.content)["error"] is None


async def test_an_empty_batch_is_an_empty_answer(any_service: Service) -> None:
    assert (await _post(any_service, b"[ ]", JSON)).json()["predictions"] == []
    assert (await _post(any_service, b"\n", NDJSON)).content == b""
    assert len((await _post(any_service, _csv([]), CSV)).text.splitlines()) == 1


@pytest.mark.parametrize(
    ("sent_as", "body", "code", "word"),
    [
        (JSON, b"", "invalid_batch", "array"),
        (JSON, b"{}", "invalid_batch", "array"),
        (JSON, b"[1]", "invalid_batch", "encounter in braces"),
        (JSON, b"[,]", "invalid_batch", "encounter in braces"),
        (CSV, b"", "invalid_batch", "names of the columns"),
        (CSV, b"age,gender\n[50-60),Male\n", "invalid_batch", "missing: "),
        (CSV, _csv([]).replace(b"race", b"age"), "invalid_batch", "more than once: age"),
        ("application/xml", b"<a/>", "wrong_content_type", NDJSON),
        (NDJSON, b"x" * 70_000, "invalid_batch", "65536 bytes"),
        (CSV, b'"' + b"x" * 70_000, "invalid_batch", "65536 bytes"),
        (JSON, b"[" + b'{"a":' * 40, "invalid_batch", "encounter"),
    ],
)
async def test_what_cannot_be_read_from_the_start_is_a_problem(
    service: Service, sent_as: str, body: bytes, code: str, word: str
) -> None:
    response = await _post(service, body, sent_as)
    problem = Problem.model_validate_json(response.content)
    assert (problem.type, 400 <= response.status_code < 500) == (f"urn:readmit:problem:{code}", True)
    assert word in problem.detail


async def test_what_cannot_be_read_to_its_end_says_so_at_the_end(service: Service) -> None:
    rows = _encounters(300)
    cut = orjson.dumps(rows)[:-2]
    answer = (await _post(service, cut, JSON)).json()
    assert (len(answer["predictions"]), answer["error"]["code"]) == (299, "invalid_batch")
    lines = (await _post(service, cut, JSON, accept=NDJSON)).text.splitlines()
    assert (len(lines), "row" in json.loads(lines[-1])) == (300, False)
    table = (await _post(service, cut, JSON, accept=CSV)).text.splitlines()
    assert table[-1].startswith(",,,,,")
    assert REGISTRY.get_sample_value("prediction_batches_total", {"outcome": "cut_off"})


async def test_rows_that_cannot_be_read_do_not_stop_the_next_ones(service: Service) -> None:
    good = orjson.dumps(example_encounter())
    body = b"\n".join([good, b"{broken", b"[]", good, b'{"a": NaN}', b"\xff\xfe", good])
    lines = [json.loads(line) for line in (await _post(service, body, NDJSON)).text.splitlines()]
    assert [line.get("error", {}).get("code") for line in lines] == [
        None, "invalid_json", "not_an_object", None, "invalid_json", "invalid_json", None,
    ]  # fmt: skip
    row = _csv([example_encounter()]).splitlines()
    file = b"\r\n".join([row[0], row[1], b"1,2", row[1].replace(b"Caucasian", b"\xff\xfe"), b"", row[1]])
    table = list(csv.DictReader(io.StringIO((await _post(service, file, CSV)).text, newline="")))
    assert [bool(line["risk"]) for line in table] == [True, False, False, True]
    assert table[1]["remarks"].startswith("The row has 2 cells")


async def test_logged_answers_have_ids(settings: Settings, store: MemoryStore) -> None:
    async with running(settings.model_copy(update={"log_capacity": 1_000}), store) as service:
        await service.settle(promote(store, tiny_bundle(1), epoch=1))
        before = REGISTRY.get_sample_value("prediction_log_buffered_events")
        response = await service.client.post(
            "/predict/batch",
            params={"log": "true"},
            content=_ndjson(_encounters(300)),
            headers={"content-type": NDJSON},
        )
        ids = {json.loads(line)["prediction_id"] for line in response.text.splitlines()}
        assert len(ids) == 300
        assert before == 0
        assert REGISTRY.get_sample_value("prediction_log_buffered_events") == 300
        unlogged = await _post(service, _ndjson(_encounters(3)), NDJSON)
        assert "prediction_id" not in unlogged.text


async def test_a_logged_batch_is_answered_with_kafka_away(settings: Settings, store: MemoryStore) -> None:
    async with running(settings.model_copy(update={"log_capacity": 20}), store) as service:
        await service.settle(promote(store, tiny_bundle(1), epoch=1))
        headers = {"content-type": NDJSON}
        async with asyncio.timeout(60):  # 80 rows that waited 5 s each would take 400
            response = await service.client.post(
                "/predict/batch?log=true", content=_ndjson(_encounters(100)), headers=headers
            )
        assert len(response.text.splitlines()) == 100


async def test_a_batch_is_answered_by_one_model_though_another_is_promoted(
    settings: Settings, store: MemoryStore
) -> None:
    async with running(settings, store) as service:
        await service.settle(promote(store, tiny_bundle(1), epoch=1))
        rows = _encounters(600)
        half = _ndjson(rows[:300])

        async def body() -> AsyncIterator[bytes]:
            yield half
            await service.settle(promote(store, tiny_bundle(2), epoch=2))
            yield _ndjson(rows[300:])

        response = await service.client.post("/predict/batch", content=body(), headers={"content-type": NDJSON})
        assert response.headers["readmit-model-epoch"] == "1"
        newer = await _post(service, _ndjson(rows), NDJSON)
        assert newer.headers["readmit-model-epoch"] == "2"
        risks = [[json.loads(line)["risk"] for line in one.text.splitlines()] for one in (response, newer)]
        assert all(old != new for old, new in zip(*risks, strict=True))


async def test_no_model_no_batch_and_only_so_many_at_once(settings: Settings, store: MemoryStore) -> None:
    async with running(settings, store) as service:
        assert (await _post(service, b"[]", JSON)).status_code == 503
        await service.settle(promote(store, tiny_bundle(1), epoch=1))
        gate = asyncio.Event()

        async def body() -> AsyncIterator[bytes]:
            await gate.wait()
            yield b"[]"

        def post() -> Any:
            return service.client.post("/predict/batch", content=body(), headers={"content-type": JSON})

        waiting = [asyncio.create_task(post()) for _ in range(4)]
        await asyncio.sleep(0.05)
        response = await _post(service, b"[]", JSON)
        assert (response.status_code, response.headers["retry-after"]) == (503, "1")
        gate.set()
        assert [one.status_code for one in await asyncio.gather(*waiting)] == [200] * 4
        assert (await _post(service, b"[]", JSON)).status_code == 200


async def test_limits_of_size_and_of_patience(settings: Settings, store: MemoryStore) -> None:
    tight = settings.model_copy(update={"max_batch_bytes": 20_000, "body_timeout_s": 0.2})
    async with running(tight, store) as service:
        await service.settle(promote(store, tiny_bundle(1), epoch=1))
        assert (await _post(service, _ndjson(_encounters(20)), NDJSON)).status_code == 413

        async def stalls() -> AsyncIterator[bytes]:
            yield b"["
            await asyncio.sleep(1)

        late = await service.client.post("/predict/batch", content=stalls(), headers={"content-type": JSON})
        assert late.status_code == 408


async def test_the_same_under_its_version(service: Service) -> None:
    rows = _encounters(2)
    for path, body in (("/predict/batch", orjson.dumps(rows)), ("/predict", orjson.dumps(rows[0]))):
        headers = {"content-type": JSON}
        plain, versioned = [await service.client.post(p, content=body, headers=headers) for p in (path, f"/v1{path}")]
        assert plain.status_code == versioned.status_code == 200
    assert (await service.client.get("/v1/health")).json() == (await service.client.get("/health")).json()
    assert (await service.client.get("/v2/health")).status_code == 404


def _cut(data: bytes, places: Sequence[int]) -> Iterator[bytes]:
    marks = sorted({place % (len(data) + 1) for place in places})
    yield from (data[start:end] for start, end in zip([0, *marks], [*marks, len(data)], strict=True))


def _read(body: Body, pieces: Iterator[bytes]) -> list[Any]:
    read: list[Any] = []
    for piece in pieces:
        read.extend(body.feed(piece))
    read.extend(body.end())
    return [row.as_encounter() if isinstance(row, Row) else row.code for row in read]


_TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=6)
_VALUE = st.none() | st.integers(-9, 9) | st.booleans() | _TEXT | st.lists(_TEXT, max_size=2)
_OBJECT = st.dictionaries(_TEXT, _VALUE | st.dictionaries(_TEXT, _VALUE, max_size=2), max_size=4)
_PLACES = st.lists(st.integers(0, 10_000), max_size=8)


@settings(max_examples=200, deadline=None)
@given(rows=st.lists(_OBJECT, max_size=5), places=_PLACES, indent=st.sampled_from([None, 1]))
@example(rows=[{"a": '}{"\\', "b": {"c": "}"}}], places=[3, 5, 9], indent=None)
def test_json_is_read_the_same_however_it_is_cut(rows: list[Any], places: list[int], indent: int | None) -> None:
    array = json.dumps(rows, indent=indent, ensure_ascii=False).encode()
    assert _read(JsonBody(65_536), _cut(array, places)) == rows
    assert _read(NdjsonBody(65_536), _cut(_ndjson(rows), places)) == rows


_KNOWN_NAMES = st.sampled_from([*NAMES[:3], "insulin", "INSULIN", "shoe_size", "history.previous_encounters"])
_KNOWN = st.dictionaries(_KNOWN_NAMES, _VALUE, max_size=4)
_KNOWN_HISTORY = st.dictionaries(st.sampled_from(sorted(example_history())), _VALUE, max_size=3)


@settings(max_examples=300, deadline=None)
@given(rows=st.lists(_KNOWN | st.builds(lambda own, below: own | {HISTORY: below}, _KNOWN, _KNOWN_HISTORY), max_size=5))
def test_known_names_change_nothing_in_what_is_read(rows: list[dict[str, Any]]) -> None:
    body = NdjsonBody(65_536)
    usual, *read = list(body.feed(_ndjson([_USUAL, *rows, _USUAL, _USUAL])))
    assert isinstance(usual, Row)
    for row, sent in zip(read, [*rows, _USUAL, _USUAL], strict=True):
        assert isinstance(row, Row)
        assert row.as_encounter() == sent
        if "history.previous_encounters" in sent:
            assert row.layout.names == ()  # read alone, as what it is
            continue
        below = sent.get(HISTORY)
        flat = {name: value for name, value in sent.items() if name != HISTORY or not isinstance(below, dict)}
        flat |= {f"{HISTORY}.{name}": value for name, value in (below or {}).items()}
        cells = dict(zip(row.layout.names, row.cells, strict=True))
        assert row.layout.is_plain <= (row.layout.unknown == [])
        # As text, since to Python true is 1.
        assert {name: repr(cells[name]) for name in flat} == {name: repr(value) for name, value in flat.items()}
    assert not usual.layout.is_plain
    assert read[-1].layout.is_plain


@settings(max_examples=200, deadline=None)
@given(data=st.binary(max_size=60) | st.text('[]{},":1a \n\\', max_size=40).map(str.encode), places=_PLACES)
def test_no_bytes_break_a_reader(data: bytes, places: list[int]) -> None:
    for body in (JsonBody(65_536), NdjsonBody(65_536), CsvBody(65_536)):
        try:
            read = _read(body, _cut(data, places))
        except InvalidBatch:
            continue
        assert all(
            isinstance(row, dict) or row in {InvalidJson.code, NotAnObject.code, InvalidBatch.code} for row in read
        )


@settings(max_examples=100, deadline=None)
@given(
    cells=st.lists(st.lists(_TEXT, min_size=len(NAMES), max_size=len(NAMES)), min_size=1, max_size=3), places=_PLACES
)
def test_a_file_is_read_the_same_however_it_is_cut(cells: list[list[str]], places: list[int]) -> None:
    rows = [dict(zip(NAMES, row, strict=True)) for row in cells]
    assert _read(CsvBody(65_536), _cut(_csv(rows), places)) == rows


@settings(max_examples=200, deadline=None)
@given(text=st.text('a,\n\r" é\u2028', max_size=30), end=st.sampled_from(["", "\n", "\r\n"]))
def test_lines_without_quotes_are_split_as_the_csv_module_would(text: str, end: str) -> None:
    expected = [cells for cells in csv.reader(io.StringIO(text + end, newline="")) if cells]
    assert [cells for cells in _lines((text + end).encode()) if cells] == expected


async def test_a_spool_gives_back_in_order_what_memory_could_not_hold(tmp_path: Path) -> None:
    spool = Spool(tmp_path / "new", keep_bytes=1_000)
    pieces = [bytes([number % 251]) * 300 for number in range(2_000)]
    taken = bytearray()

    async def take() -> None:
        while (data := await spool.get()) is not None:
            taken.extend(data)
            await asyncio.sleep(0)

    taking = asyncio.create_task(take())
    for number, piece in enumerate(pieces):
        await spool.put(piece)
        if number % 500 == 0:
            await until(lambda: len(taken) > 0)
    spool.end()
    await taking
    assert bytes(taken) == b"".join(pieces)
    assert list((tmp_path / "new").iterdir()) == []
    spool.close()
