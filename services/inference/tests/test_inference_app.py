"""The endpoints around `/predict`, and what they say before and after a model is there."""

from __future__ import annotations

import json

import pytest
from prometheus_client import REGISTRY
from prometheus_client.parser import text_string_to_metric_families

from readmit_chassis.s3 import MemoryStore
from readmit_contracts.encounter import COLUMNS, example_encounter
from readmit_contracts.history import HISTORY_KEYS
from readmit_contracts.prediction import Problem
from readmit_inference.settings import Settings
from readmit_inference.testing import Service, promote, running, tiny_bundle


async def test_without_a_model_the_pod_lives_but_is_not_ready(settings: Settings, store: MemoryStore) -> None:
    async with running(settings, store) as service:
        response = await service.predict(example_encounter())
        assert response.status_code == 503
        assert int(response.headers["retry-after"]) > 0
        assert Problem.model_validate_json(response.content).type == "urn:readmit:problem:no_model"
        assert (await service.client.get("/health")).json() == {"status": "no_model", "model": None, "pod_id": "pod-1"}
        assert (await service.client.get("/model")).status_code == 503
        assert (await service.client.get("/livez")).status_code == 200
        assert (await service.client.get("/readyz")).status_code == 503


async def test_health_names_the_model_in_service(service: Service) -> None:
    health = (await service.client.get("/health")).json()
    assert health["status"] == "ok"
    model = health["model"]
    assert set(model) == {"name", "version", "family", "sha256", "epoch", "synthetic", "role"}
    assert (model["family"], model["epoch"]) == ("lightgbm", 1)
    assert (await service.client.get("/readyz")).status_code == 200


async def test_model_tells_what_it_was_made_from(service: Service) -> None:
    model = (await service.client.get("/model")).json()
    assert model["lineage"]["dataset_version"] == 1
    assert model["validation"]["auroc"] == 0.6
    assert model["features"] > 20
    assert "golden" not in model


async def test_a_synthetic_model_says_so_in_every_answer(settings: Settings, store: MemoryStore) -> None:
    async with running(settings, store) as service:
        await service.settle(promote(store, tiny_bundle(1, synthetic=True), epoch=1))
        assert (await service.predict(example_encounter())).json()["model"]["synthetic"] is True
        assert (await service.client.get("/health")).json()["model"]["synthetic"] is True


async def test_openapi_shows_the_encounter_its_example_and_every_problem(service: Service) -> None:
    document = (await service.client.get("/openapi.json")).json()
    operation = document["paths"]["/predict"]["post"]
    body = operation["requestBody"]["content"]["application/json"]
    assert len(body["schema"]["properties"]) == len(COLUMNS)
    assert set(body["schema"]["properties"]["history"]["properties"]) == set(HISTORY_KEYS)
    for example in body["examples"].values():
        assert (await service.predict(example["value"])).status_code == 200
    assert set(operation["responses"]) == {"200", "400", "401", "403", "408", "413", "415", "422", "429", "503"}
    assert operation["responses"]["200"]["content"]["application/json"]["schema"]["$ref"].endswith("/Prediction")
    for status in sorted(set(operation["responses"]) - {"200"}):
        assert list(operation["responses"][status]["content"]) == ["application/problem+json"]
    assert {"Problem", "FieldError", "Prediction"} <= set(document["components"]["schemas"])


async def test_a_history_moves_the_risk_and_the_answer_says_that_it_was_used(
    service: Service, store: MemoryStore
) -> None:
    await service.settle(promote(store, tiny_bundle(2), epoch=2))
    alone = (await service.predict(example_encounter())).json()
    first = (await service.predict({**example_encounter(), "history": {"previous_encounters": 0}})).json()
    often = (await service.predict({**example_encounter(), "history": {"previous_encounters": 9}})).json()
    assert [answer["used_history"] for answer in (alone, first, often)] == [False, True, True]
    assert often["risk"] != alone["risk"]
    wrong = await service.predict({**example_encounter(), "history": {"previous_encounters": -9}})
    assert wrong.status_code == 422
    assert wrong.json()["errors"][0]["field"] == "history.previous_encounters"


def sample(name: str, **labels: str) -> float:
    return REGISTRY.get_sample_value(name, labels) or 0.0


async def test_metrics_count_outcomes_errors_and_time(service: Service) -> None:
    answered, refused = (sample("prediction_requests_total", outcome=o) for o in ("answered", "refused"))
    invalid = sample("prediction_errors_total", code="invalid_encounter")
    timed = sample("prediction_latency_seconds_count")
    await service.predict(example_encounter())
    await service.predict({})
    assert sample("prediction_requests_total", outcome="answered") == answered + 1
    assert sample("prediction_requests_total", outcome="refused") == refused + 1
    assert sample("prediction_errors_total", code="invalid_encounter") == invalid + 1
    assert sample("prediction_latency_seconds_count") == timed + 2
    assert sample("model_epoch") == 1


async def test_metrics_are_in_the_text_format_of_prometheus(service: Service) -> None:
    response = await service.client.get("/metrics")
    assert response.headers["content-type"].startswith("text/plain; version=")
    families = {family.name: family for family in text_string_to_metric_families(response.text)}
    (info,) = [s for s in families["model_info"].samples if s.value == 1]
    assert info.labels["name"] == "diabetes_readmission_lightgbm"


async def test_no_value_of_a_patient_reaches_logs_or_metrics(
    service: Service, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    marked = example_encounter() | {"medical_specialty": "MarkerSpecialty", "diag_2": "MarkerDiagnosis"}
    await service.predict(marked)
    await service.client.post("/predict", content=json.dumps(marked)[:-1] + ", Marker")
    seen = "".join(capsys.readouterr()) + caplog.text + (await service.client.get("/metrics")).text
    assert "Marker" not in seen
