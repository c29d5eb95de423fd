"""Many encounters in one request: each answered as `/predict` would, whatever stands beside it."""

from __future__ import annotations

import asyncio
import csv
import io
import json
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any

import orjson
import pytest
from prometheus_client import REGISTRY

from readmit_chassis.s3 import MemoryStore
from readmit_contracts.encounter import example_encounter
from readmit_contracts.history import HISTORY, example_history
from readmit_contracts.prediction import BatchPrediction, Problem
from readmit_features.synthetic import sample_columns
from readmit_inference.batch.spool import Spool
from readmit_inference.settings import Settings
from readmit_inference.testing import Service, promote, running, tiny_bundle, until

from .batch_forms import NAMES, USUAL, as_csv, as_ndjson

JSON, NDJSON, CSV = "application/json", "application/x-ndjson", "text/csv"


def _encounters(count: int) -> list[dict[str, Any]]:
    cells = sample_columns(count)
    return [{name: cells[name][at] for name in NAMES} for at in range(count)]


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
    for sent_as, body in ((JSON, orjson.dumps(rows)), (NDJSON, as_ndjson(rows))):
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


#: Cells that JSON can hold and most columns cannot, or that one parser may take for another.
_ODD_CELLS = [
    "null", "true", "1", "1.0", "1e2", "-0", "2.5", "1e400", "9223372036854775808", "18446744073709551616",
    "123456789012345678901234567890", '""', '"1"', '" No "', r'"\u0000"', r'"\ud800"', r'"\u00e9"', "[]", '{"a": 1}',
    f'"{"x" * 300}"', str(2**63), str(2**64), "-" + "9" * 310, "9" * 4_000, "9" * 5_000,
]  # fmt: skip


@pytest.mark.parametrize(
    "name", ["encounter_id", "patient_nbr", "age", "time_in_hospital", "diag_1", "insulin", HISTORY]
)
async def test_an_odd_cell_is_answered_as_alone_though_its_names_are_known(service: Service, name: str) -> None:
    others = {key: value for key, value in USUAL.items() if key != name}
    start = json.dumps(others)[:-1]
    lines = [json.dumps(USUAL), *(f'{start}, "{name}": {cell}}}' for cell in _ODD_CELLS), json.dumps(USUAL)]
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
    await _answered_as_alone(service, [json.dumps(USUAL), *lines, *more, json.dumps(example_encounter())])


async def test_a_history_without_cells_is_refused_whatever_came_before(service: Service) -> None:
    empty = json.dumps(example_encounter() | {HISTORY: {}})
    await _answered_as_alone(service, [empty, json.dumps(example_encounter()), empty, json.dumps(USUAL), empty])


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
    body = as_csv([row | {"readmitted": "NO"} for row in rows], [*NAMES, "readmitted"])
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
    body = as_csv(_encounters(3))
    for accept, form in (("*/*", CSV), (f"{NDJSON};q=0.9", NDJSON), ("text/html, application/json", JSON)):
        response = await _post(any_service, body, "text/csv; charset=utf-8", accept=accept)
        assert response.headers["content-type"] == form
    assert json.loads(response.content)["error"] is None


async def test_an_empty_batch_is_an_empty_answer(any_service: Service) -> None:
    assert (await _post(any_service, b"[ ]", JSON)).json()["predictions"] == []
    assert (await _post(any_service, b"\n", NDJSON)).content == b""
    assert len((await _post(any_service, as_csv([]), CSV)).text.splitlines()) == 1


@pytest.mark.parametrize(
    ("sent_as", "body", "code", "word"),
    [
        (JSON, b"", "invalid_batch", "array"),
        (JSON, b"{}", "invalid_batch", "array"),
        (JSON, b"[1]", "invalid_batch", "encounter in braces"),
        (JSON, b"[,]", "invalid_batch", "encounter in braces"),
        (CSV, b"", "invalid_batch", "names of the columns"),
        (CSV, b"age,gender\n[50-60),Male\n", "invalid_batch", "missing: "),
        (CSV, as_csv([]).replace(b"race", b"age"), "invalid_batch", "more than once: age"),
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
    row = as_csv([example_encounter()]).splitlines()
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
            content=as_ndjson(_encounters(300)),
            headers={"content-type": NDJSON},
        )
        ids = {json.loads(line)["prediction_id"] for line in response.text.splitlines()}
        assert len(ids) == 300
        assert before == 0
        assert REGISTRY.get_sample_value("prediction_log_buffered_events") == 300
        unlogged = await _post(service, as_ndjson(_encounters(3)), NDJSON)
        assert "prediction_id" not in unlogged.text


async def test_a_logged_batch_is_answered_with_kafka_away(settings: Settings, store: MemoryStore) -> None:
    async with running(settings.model_copy(update={"log_capacity": 20}), store) as service:
        await service.settle(promote(store, tiny_bundle(1), epoch=1))
        headers = {"content-type": NDJSON}
        async with asyncio.timeout(60):  # 80 rows that waited 5 s each would take 400
            response = await service.client.post(
                "/predict/batch?log=true", content=as_ndjson(_encounters(100)), headers=headers
            )
        assert len(response.text.splitlines()) == 100


async def test_a_batch_is_answered_by_one_model_though_another_is_promoted(
    settings: Settings, store: MemoryStore
) -> None:
    async with running(settings, store) as service:
        await service.settle(promote(store, tiny_bundle(1), epoch=1))
        rows = _encounters(600)
        half = as_ndjson(rows[:300])

        async def body() -> AsyncIterator[bytes]:
            yield half
            await service.settle(promote(store, tiny_bundle(2), epoch=2))
            yield as_ndjson(rows[300:])

        response = await service.client.post("/predict/batch", content=body(), headers={"content-type": NDJSON})
        assert response.headers["readmit-model-epoch"] == "1"
        newer = await _post(service, as_ndjson(rows), NDJSON)
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
        assert (await _post(service, as_ndjson(_encounters(20)), NDJSON)).status_code == 413

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
