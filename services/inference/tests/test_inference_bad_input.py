"""What `POST /predict` refuses, and how: problem details, never a 500."""

from __future__ import annotations

import inspect
import json
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from prometheus_client import REGISTRY

from readmit_contracts.encounter import COLUMNS, example_encounter
from readmit_contracts.prediction import Prediction, Problem
from readmit_inference import errors
from readmit_inference.problems import STATUSES
from readmit_inference.testing import Service

JSON = {"content-type": "application/json"}


async def post(service: Service, body: bytes | AsyncIterator[bytes], headers: dict[str, str] = JSON) -> Problem:
    response = await service.client.post("/predict", content=body, headers=headers)
    assert response.headers["content-type"] == "application/problem+json"
    problem = Problem.model_validate_json(response.content)
    assert problem.status == response.status_code
    return problem


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b" ",
        b"{",
        b"{'age': 1}",
        b'{"age": NaN}',
        b'{"age": Infinity}',
        b'{"age": 1e999}',
        b'{"age": "\xff\xfe"}',
        b'{"age": "\\ud800"}',
        b"\xff\xfe{\x00}\x00",
        b"[" * 60_000,
        b'{"a":' * 12_000,
        b"{} {}",
        b"\x00",
    ],
)
async def test_what_is_not_json_is_a_400(service: Service, body: bytes) -> None:
    problem = await post(service, body)
    assert problem.status == 400
    assert "object" in problem.detail


@pytest.mark.parametrize("body", [b"null", b"true", b"0", b'"text"', b"[]", b'[{"age": "[50-60)"}]'])
async def test_json_that_is_not_an_object_is_a_422(service: Service, body: bytes) -> None:
    assert (await post(service, body)).status == 422


async def test_an_empty_object_is_told_every_required_field(service: Service) -> None:
    problem = await post(service, b"{}")
    assert {error.field for error in problem.errors} == {column.name for column in COLUMNS if column.required}


async def test_ten_megabytes_are_refused_by_their_declared_length(service: Service) -> None:
    assert (await post(service, b'{"age":"' + b"x" * 10_000_000 + b'"}')).status == 413


async def test_an_endless_body_without_length_is_given_up_early(service: Service) -> None:
    sent = 0

    async def body() -> AsyncIterator[bytes]:
        nonlocal sent
        while True:
            sent += 1
            yield b" " * 1024

    assert (await post(service, body())).status == 413
    assert sent < 70


async def test_a_body_of_exactly_the_limit_is_read(service: Service) -> None:
    body = json.dumps(example_encounter()).encode()
    response = await service.client.post("/predict", content=body.ljust(64 * 1024), headers=JSON)
    assert response.status_code == 200
    assert (await post(service, body.ljust(64 * 1024 + 1))).status == 413


@pytest.mark.parametrize("media_type", ["text/plain", "application/x-www-form-urlencoded", "application/jsonp", "json"])
async def test_another_media_type_is_a_415(service: Service, media_type: str) -> None:
    assert (await post(service, b"{}", {"content-type": media_type})).status == 415


@pytest.mark.parametrize(
    "headers",
    [{}, JSON, {"content-type": "Application/JSON; charset=utf-8"}, {"content-type": "application/fhir+json"}],
)
async def test_json_media_types_and_none_are_taken(service: Service, headers: dict[str, str]) -> None:
    response = await service.client.post("/predict", content=json.dumps(example_encounter()), headers=headers)
    assert response.status_code == 200


async def test_unknown_paths_and_methods_are_problems_too(service: Service) -> None:
    missing = await service.client.get("/nowhere")
    wrong_method = await service.client.get("/predict")
    assert Problem.model_validate_json(missing.content).status == missing.status_code == 404
    assert Problem.model_validate_json(wrong_method.content).status == wrong_method.status_code == 405
    assert wrong_method.headers["allow"] == "POST"


def test_every_refusal_has_a_status() -> None:
    refusals = {
        value
        for _, value in inspect.getmembers(errors, inspect.isclass)
        if issubclass(value, errors.PredictionRefused) and value is not errors.PredictionRefused
    }
    assert refusals == set(STATUSES)


def json_values() -> st.SearchStrategy[Any]:
    scalars = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text()
    return st.recursive(scalars, lambda v: st.lists(v, max_size=3) | st.dictionaries(st.text(), v, max_size=3))


def encounters() -> st.SearchStrategy[dict[str, Any]]:
    """The example with some fields replaced by anything, and some more fields."""
    names = st.sampled_from([column.name for column in COLUMNS]) | st.text(max_size=20)
    return st.dictionaries(names, json_values(), max_size=8).map(lambda changed: example_encounter() | changed)


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(body=json_values() | encounters())
async def test_any_json_gets_a_prediction_or_a_problem(service: Service, body: Any) -> None:
    response = await service.client.post("/predict", content=json.dumps(body), headers=JSON)
    if response.status_code == 200:
        assert 0 <= Prediction.model_validate_json(response.content).risk <= 1
    else:
        assert response.status_code in {400, 413, 422}
        Problem.model_validate_json(response.content)


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(body=st.binary(max_size=200))
async def test_any_bytes_get_a_problem(service: Service, body: bytes) -> None:
    assert (await post(service, body)).status in {400, 422}


class Broken:
    """A model with a bug."""

    threshold = 0.5

    def score_values(self, _: object) -> float:
        raise ZeroDivisionError


async def test_a_bug_is_a_500_that_says_nothing_of_the_patient_and_is_counted_as_our_failure(service: Service) -> None:
    def failed() -> float:
        return REGISTRY.get_sample_value("prediction_requests_total", {"outcome": "failed"}) or 0.0

    before, serving = failed(), service.champion.serving
    assert serving is not None
    service.champion.serving = replace(serving, model=Broken())  # type: ignore[arg-type]  that is the point
    problem = await post(service, json.dumps(example_encounter() | {"age": "[40-50)"}).encode())
    assert problem.status == 500
    assert "40-50" not in problem.model_dump_json()
    assert failed() == before + 1
