"""`POST /fhir/RiskAssessment/$predict`: the same risk as `/predict`, as a valid RiskAssessment or OperationOutcome."""

from __future__ import annotations

import copy
import json
from dataclasses import replace
from datetime import date, timedelta
from typing import Any

import httpx
import pytest
from fhir.resources.R4B.capabilitystatement import CapabilityStatement
from fhir.resources.R4B.operationoutcome import OperationOutcome
from fhir.resources.R4B.riskassessment import RiskAssessment
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from prometheus_client import REGISTRY

from readmit_chassis.s3 import MemoryStore
from readmit_contracts.encounter import example_encounter
from readmit_inference.clinical.codes import OURS
from readmit_inference.clinical.example import example_bundle
from readmit_inference.settings import Settings
from readmit_inference.testing import Service, promote, running, tiny_bundle

from .spoilt_json import json_values, spoilt

PATH = "/fhir/RiskAssessment/$predict"
FHIR = {"content-type": "application/fhir+json"}
#: R4's value sets of required binding, which fhir.resources does not hold a code against.
STATUSES = {
    "registered", "preliminary", "final", "amended", "corrected", "cancelled", "entered-in-error", "unknown",
}  # fmt: skip
ISSUE_TYPES = {
    "invalid", "structure", "required", "value", "invariant", "security", "login", "unknown", "expired", "forbidden",
    "suppressed", "processing", "not-supported", "duplicate", "multiple-matches", "not-found", "deleted", "too-long",
    "code-invalid", "extension", "too-costly", "business-rule", "conflict", "transient", "lock-error", "no-store",
    "exception", "timeout", "incomplete", "throttled", "informational",
}  # fmt: skip


async def ask(service: Service, body: object, **headers: str) -> httpx.Response:
    return await service.client.post(PATH, content=json.dumps(body), headers=FHIR | headers)


def assessment(response: httpx.Response) -> dict[str, Any]:
    """A valid answer, checked against the library and by the rules that it leaves out."""
    assert (response.status_code, response.headers["content-type"]) == (200, "application/fhir+json")
    RiskAssessment.model_validate_json(response.content)
    said: dict[str, Any] = response.json()
    assert said["status"] in STATUSES
    (prediction,) = said["prediction"]
    assert 0 <= prediction["probabilityDecimal"] <= 100  # ras-2
    assert {one["id"] for one in said["contained"]} == {said["performer"]["reference"].removeprefix("#")}
    return said


def outcome(response: httpx.Response, status: int) -> list[dict[str, Any]]:
    """The issues of a valid refusal."""
    assert (response.status_code, response.headers["content-type"]) == (status, "application/fhir+json")
    OperationOutcome.model_validate_json(response.content)
    issues: list[dict[str, Any]] = response.json()["issue"]
    assert {issue["code"] for issue in issues} <= ISSUE_TYPES
    assert {issue["severity"] for issue in issues} == {"error"}
    return issues


def changed(**stay: Any) -> dict[str, Any]:
    """The example, with other elements in its Encounter."""
    bundle = copy.deepcopy(example_bundle())
    bundle["entry"][1]["resource"].update(stay)
    return bundle


@pytest.mark.parametrize("family", ["lightgbm", "logistic_regression"])
async def test_the_risk_is_that_of_predict_as_a_percentage(service: Service, store: MemoryStore, family: str) -> None:
    await service.settle(promote(store, tiny_bundle(3, family=family), epoch=2))
    plain = (await service.predict(example_encounter())).json()
    said = assessment(await ask(service, example_bundle()))
    (prediction,) = said["prediction"]
    assert prediction["probabilityDecimal"] == plain["risk"] * 100
    assert said["subject"]["reference"] == "Patient/example-patient"
    assert said["encounter"]["reference"] == "Encounter/example-encounter"
    assert prediction["whenPeriod"] == {"start": "2024-05-20", "end": "2024-06-19"}
    (device,) = said["contained"]
    assert device["identifier"] == [{"system": f"{OURS}bundle-sha256", "value": plain["model"]["sha256"]}]
    assert device["version"][0]["value"] == plain["model"]["version"]
    assert said["method"]["coding"][0]["code"] == family
    assert "MedicationRequest/insulin" in {one["reference"] for one in said["basis"]}


@pytest.mark.parametrize(("risk", "level"), [(0.1, "low"), (0.125, "moderate"), (0.5, "moderate"), (0.6, "high")])
async def test_the_level_follows_the_definitions_of_the_codes(service: Service, risk: float, level: str) -> None:
    """`high` is "more likely to occur than not" in HL7's own words, so the threshold alone does not make it."""

    class Certain:
        def __getattr__(self, name: str) -> Any:
            return getattr(model, name)

        def score_values(self, _: object) -> float:
            return risk

    serving = service.champion.serving
    assert serving is not None
    model = serving.model
    service.champion.serving = replace(serving, model=Certain())  # type: ignore[arg-type]  scores what the test says
    (prediction,) = assessment(await ask(service, example_bundle()))["prediction"]
    assert prediction["qualitativeRisk"]["coding"][0]["code"] == level


async def test_warnings_are_those_of_predict_and_name_the_element(service: Service) -> None:
    unseen = example_encounter() | {"medical_specialty": "Podiatry"}
    (warning,) = (await service.predict(unseen)).json()["warnings"]
    said = assessment(await ask(service, changed(serviceType={"text": "Podiatry"})))
    notes = [note["text"] for note in said["note"]]
    path = "Bundle.entry[1].resource.serviceType"
    assert f"{path}: (medical_specialty) {warning['message']}" in notes
    assert "Not for clinical use" in notes[0]


async def test_an_earlier_stay_is_used_as_history(service: Service, store: MemoryStore) -> None:
    await service.settle(promote(store, tiny_bundle(2), epoch=2))
    before = copy.deepcopy(example_bundle()["entry"][1])
    del before["resource"]["extension"]
    before["resource"] |= {"id": "before", "period": {"start": "2024-04-28", "end": "2024-05-02"}, "diagnosis": []}
    bundle = example_bundle()
    bundle["entry"].append(before)
    history = {
        "previous_encounters": 1, "is_readmission": "Yes", "readmissions": 1, "previous_time_in_hospital": 4,
        "previous_discharge_disposition_id": 1,
    }  # fmt: skip
    plain = (await service.predict(example_encounter() | {"history": history})).json()
    said = assessment(await ask(service, bundle))
    assert said["prediction"][0]["probabilityDecimal"] == plain["risk"] * 100
    assert {"url": f"{OURS}used-history", "valueBoolean": True} in said["extension"]
    assert "Encounter/before" in {one["reference"] for one in said["basis"]}


async def test_a_bundle_may_come_in_parameters_and_errors_name_it_there(service: Service) -> None:
    def wrapped(bundle: dict[str, Any]) -> dict[str, Any]:
        return {"resourceType": "Parameters", "parameter": [{"name": "stay", "resource": bundle}]}

    assessment(await ask(service, wrapped(example_bundle())))
    (issue,) = outcome(await ask(service, wrapped(changed(period={"start": "yesterday"}))), 422)
    assert issue["expression"] == ["Parameters.parameter[0].resource.entry[1].resource.period.start"]


async def test_every_wrong_element_is_an_issue_with_its_fhirpath(service: Service) -> None:
    bundle = changed(period={"start": "2024-05-32"}, status=7, serviceType="Cardiology")
    bundle["entry"][0]["resource"]["gender"] = "F"
    issues = outcome(await ask(service, bundle), 422)
    assert {issue["expression"][0] for issue in issues} == {
        "Bundle.entry[1].resource.period.start",
        "Bundle.entry[1].resource.status",
        "Bundle.entry[1].resource.serviceType",
        "Bundle.entry[0].resource.gender",
    }
    assert all("Allowed: " in issue["diagnostics"] for issue in issues)


async def test_what_is_missing_is_said_to_be_required(service: Service) -> None:
    bundle = example_bundle()
    del bundle["entry"][0]["resource"]["birthDate"]
    (issue,) = outcome(await ask(service, bundle), 422)
    assert (issue["code"], issue["expression"]) == ("required", ["Bundle.entry.resource.ofType(Patient).birthDate"])


async def test_texts_are_spanish_where_the_client_prefers_it(service: Service) -> None:
    response = await ask(service, example_bundle(), **{"accept-language": "es-CO, en;q=0.8"})
    said = assessment(response)
    assert (said["language"], response.headers["content-language"]) == ("es", "es")
    assert "No apto para uso clínico" in said["note"][0]["text"]


@pytest.mark.parametrize(
    ("body", "status", "code"),
    [
        (b"", 400, "structure"),
        (b'{"resourceType": "Bundle", ', 400, "structure"),
        (b"[]", 422, "structure"),
        (b"{}", 422, "value"),
        (b'{"resourceType": "Patient"}', 422, "value"),
        (b'{"resourceType": "Parameters"}', 422, "value"),
        (b'{"resourceType": "Parameters", "parameter": [{"resource": {"resourceType": "Patient"}}]}', 422, "value"),
        (b" " * (1024 * 1024 + 1), 413, "too-long"),
    ],
)
async def test_what_is_no_bundle_is_refused(service: Service, body: bytes, status: int, code: str) -> None:
    response = await service.client.post(PATH, content=body, headers=FHIR)
    assert {issue["code"] for issue in outcome(response, status)} == {code}


async def test_another_media_type_is_refused(service: Service) -> None:
    response = await service.client.post(PATH, content=b"<Bundle/>", headers={"content-type": "application/fhir+xml"})
    outcome(response, 415)


async def test_a_megabyte_is_read_where_predict_takes_64_kib(service: Service) -> None:
    body = json.dumps(example_bundle()).ljust(1024 * 1024)
    assessment(await service.client.post(PATH, content=body, headers=FHIR))
    response = await service.client.post("/predict", content=json.dumps(example_encounter()).ljust(1024 * 1024))
    assert response.status_code == 413


async def test_without_a_model_and_when_overrun_the_client_is_told_to_come_back(
    settings: Settings, store: MemoryStore
) -> None:
    async with running(settings, store) as service:
        response = await ask(service, example_bundle())
        assert outcome(response, 503)[0]["code"] == "transient"
        assert response.headers["retry-after"] == "5"
    async with running(settings.model_copy(update={"shed_after_s": -1.0}), store) as service:
        await service.settle(promote(store, tiny_bundle(1), epoch=1))
        response = await ask(service, example_bundle())
        assert outcome(response, 503)[0]["code"] == "throttled"
        assert response.headers["retry-after"] == "1"


async def test_a_bug_is_an_outcome_that_says_nothing_of_the_patient(service: Service) -> None:
    class Broken:
        threshold = 0.5

        def score_values(self, _: object) -> float:
            raise ZeroDivisionError

    serving = service.champion.serving
    assert serving is not None
    service.champion.serving = replace(serving, model=Broken())  # type: ignore[arg-type]  that is the point
    (issue,) = outcome(await ask(service, example_bundle()), 500)
    assert issue["code"] == "exception"


async def test_requests_are_counted_with_those_of_predict_and_logged(service: Service) -> None:
    def counted(outcome_: str) -> float:
        return REGISTRY.get_sample_value("prediction_requests_total", {"outcome": outcome_}) or 0.0

    def logged() -> float:
        return REGISTRY.get_sample_value("prediction_log_buffered_events") or 0.0

    answered, refused, buffered = counted("answered"), counted("refused"), logged()
    await ask(service, example_bundle())
    await ask(service, {})
    assert (counted("answered"), counted("refused")) == (answered + 1, refused + 1)
    assert logged() == buffered + 1


async def test_no_value_of_a_patient_reaches_logs_or_metrics(
    service: Service, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    await ask(service, changed(serviceType={"text": "MarkerSpecialty"}))
    await ask(service, changed(period={"start": "MarkerDate"}))
    seen = "".join(capsys.readouterr()) + caplog.text + (await service.client.get("/metrics")).text
    assert "Marker" not in seen


async def test_the_capability_statement_names_the_operation(service: Service) -> None:
    response = await service.client.get("/fhir/metadata")
    assert response.headers["content-type"] == "application/fhir+json"
    said = CapabilityStatement.model_validate_json(response.content)
    assert said.rest[0].resource[0].operation[0].name == "predict"


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(body=spoilt(example_bundle()) | json_values())
async def test_any_json_gets_an_assessment_or_an_outcome(service: Service, body: Any) -> None:
    response = await ask(service, body)
    if response.status_code == 200:
        assessment(response)
    else:
        outcome(response, response.status_code)
        assert response.status_code in {400, 422}


@settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(days=st.integers(0, 14), until=st.dates(date(1900, 1, 1), date(2199, 1, 1)))
async def test_the_period_is_the_thirty_days_after_discharge(service: Service, days: int, until: date) -> None:
    period = {"start": (until - timedelta(days=days)).isoformat(), "end": until.isoformat()}
    bundle = changed(period=period)
    bundle["entry"][0]["resource"]["birthDate"] = "1830"
    bundle["entry"][1]["resource"]["extension"].append({"url": f"{OURS}age", "valueString": "[70-80)"})
    (prediction,) = assessment(await ask(service, bundle))["prediction"]
    assert prediction["whenPeriod"] == {"start": until.isoformat(), "end": (until + timedelta(days=30)).isoformat()}
