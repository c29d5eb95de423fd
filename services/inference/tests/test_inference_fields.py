"""What `POST /predict` takes: every field rule that the original promised, through HTTP."""

from __future__ import annotations

from typing import Any

import pytest

from readmit_contracts.encounter import COLUMNS, DRUG_KEYS, example_encounter
from readmit_contracts.prediction import Prediction
from readmit_inference.testing import Service

EXAMPLE = example_encounter()


async def risk_of(service: Service, encounter: dict[str, Any]) -> float:
    response = await service.predict(encounter)
    assert response.status_code == 200, response.text
    return Prediction.model_validate_json(response.content).risk


async def test_an_answer_names_its_risk_verdict_threshold_and_model(service: Service) -> None:
    response = await service.predict(EXAMPLE)
    answer = Prediction.model_validate_json(response.content)
    assert response.status_code == 200
    assert response.headers["content-type"] == "application/json"
    assert answer.model_dump(mode="json") == response.json()  # as the contract writes it, nothing more or less
    assert answer.threshold == 0.125
    assert answer.readmitted_within_30_days == (answer.risk >= answer.threshold)
    assert answer.warnings == []
    assert (answer.model.name, answer.model.version) == ("diabetes_readmission_lightgbm", "1")
    assert (answer.model.epoch, answer.model.synthetic) == (1, False)


async def test_each_answer_has_its_own_prediction_id(service: Service) -> None:
    ids = {(await service.predict(EXAMPLE)).json()["prediction_id"] for _ in range(5)}
    assert len(ids) == 5


@pytest.mark.parametrize(
    ("changed", "means"),
    [
        ({"age": "50-60"}, {"age": "[50-60)"}),
        ({"age": " [50-60) "}, {"age": "[50-60)"}),
        ({"max_glu_serum": "> 200"}, {"max_glu_serum": ">200"}),
        ({"max_glu_serum": ">300"}, {"max_glu_serum": ">300"}),
        ({"A1Cresult": "norm"}, {"A1Cresult": "Norm"}),
        ({"insulin": "steady"}, {"insulin": "Steady"}),
        ({"time_in_hospital": "7"}, {"time_in_hospital": 7}),
        ({"time_in_hospital": " 7.0 "}, {"time_in_hospital": 7}),
        ({"time_in_hospital": 7.0}, {"time_in_hospital": 7}),
        ({"admission_type_id": "3"}, {"admission_type_id": 3}),
        ({"diag_1": "v27"}, {"diag_1": "V27"}),
        ({"insulin": None}, {"insulin": "No"}),
    ],
)
async def test_two_ways_to_write_a_value_mean_the_same(
    service: Service, changed: dict[str, Any], means: dict[str, Any]
) -> None:
    assert await risk_of(service, EXAMPLE | changed) == await risk_of(service, EXAMPLE | means)


@pytest.mark.parametrize(
    ("name", "spelling"),
    [
        ("glyburide-metformin", "glyburide_metformin"),
        ("metformin-pioglitazone", "METFORMIN_PIOGLITAZONE"),
        ("A1Cresult", "a1cresult"),
        ("diabetesMed", "diabetesmed"),
        ("insulin", "Insulin"),
    ],
)
async def test_field_names_are_normalised(service: Service, name: str, spelling: str) -> None:
    renamed = {spelling if key == name else key: value for key, value in EXAMPLE.items()}
    response = await service.predict(renamed)
    assert response.status_code == 200
    assert response.json()["warnings"] == []
    assert response.json()["risk"] == await risk_of(service, EXAMPLE)


async def test_a_value_beyond_the_study_is_capped_with_a_warning(service: Service) -> None:
    response = await service.predict(EXAMPLE | {"number_emergency": 200})
    (warning,) = response.json()["warnings"]
    assert warning["field"] == "number_emergency"
    assert warning["value"] == 200
    assert response.json()["risk"] == await risk_of(service, EXAMPLE | {"number_emergency": 76})


@pytest.mark.parametrize(
    ("field", "value"), [("medical_specialty", "SpaceMedicine"), ("diag_1", "999"), ("payer_code", "NEW")]
)
async def test_open_vocabularies_take_new_values(service: Service, field: str, value: str) -> None:
    assert (await service.predict(EXAMPLE | {field: value})).status_code == 200


async def test_a_value_that_the_model_never_saw_is_taken_with_a_warning(service: Service) -> None:
    response = await service.predict(EXAMPLE | {"medical_specialty": "SpaceMedicine"})
    (warning,) = response.json()["warnings"]
    assert (warning["field"], warning["value"]) == ("medical_specialty", "SpaceMedicine")


async def test_fields_that_the_model_does_not_use_are_allowed(service: Service) -> None:
    response = await service.predict(EXAMPLE | {"favourite_colour": {"deep": ["green"]}})
    assert response.status_code == 200
    (warning,) = response.json()["warnings"]
    assert warning["field"] == "favourite_colour"


async def test_only_required_fields_are_required(service: Service) -> None:
    required = {column.name: EXAMPLE[column.name] for column in COLUMNS if column.required}
    assert (await service.predict(required)).status_code == 200


@pytest.mark.parametrize("name", [column.name for column in COLUMNS if column.required])
async def test_a_required_field_that_is_absent_is_named(service: Service, name: str) -> None:
    response = await service.predict({key: value for key, value in EXAMPLE.items() if key != name})
    assert response.status_code == 422
    assert [error["field"] for error in response.json()["errors"]] == [name]


@pytest.mark.parametrize(
    ("field", "value", "allowed"),
    [
        ("time_in_hospital", "three", "whole number"),
        ("time_in_hospital", True, "whole number"),
        ("time_in_hospital", 2.5, "whole number"),
        ("time_in_hospital", -1, "365"),
        ("time_in_hospital", 10**30, "365"),
        ("num_medications", [1], "whole number"),
        ("admission_type_id", 99, "codes 1-8"),
        ("age", "old", "[50-60)"),
        ("age", 55, "[50-60)"),
        ("gender", {}, "Female"),
        ("max_glu_serum", ">250", ">200"),
        ("change", "perhaps", "Ch"),
        ("diag_1", "flu", "ICD-9"),
        *((drug, "Sometimes", "No, Steady, Up, Down") for drug in DRUG_KEYS),
    ],
)
async def test_an_impossible_value_is_refused_with_what_is_allowed(
    service: Service, field: str, value: Any, allowed: str
) -> None:
    response = await service.predict(
        {k: v for k, v in EXAMPLE.items() if k.replace("-", "_") != field} | {field: value}
    )
    assert response.status_code == 422
    (error,) = response.json()["errors"]
    assert error["field"] == field
    assert allowed in error["allowed"]
    assert error["problem"]


async def test_all_wrong_fields_are_reported_at_once(service: Service) -> None:
    response = await service.predict(EXAMPLE | {"age": "old", "insulin": "x" * 1000, "gender": "?"})
    problem = response.json()
    assert response.headers["content-type"] == "application/problem+json"
    assert {error["field"] for error in problem["errors"]} == {"age", "insulin", "gender"}
    assert all(len(str(error["value"])) < 100 for error in problem["errors"])
