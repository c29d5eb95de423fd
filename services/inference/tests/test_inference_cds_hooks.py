"""CDS Hooks 2.0: discovery, the call at discharge, the card, and what comes instead of it."""

from __future__ import annotations

import copy
import json
from typing import Annotated, Any, Literal
from uuid import UUID

import httpx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import AnyUrl, BaseModel, ConfigDict, Field

from readmit_chassis.s3 import MemoryStore
from readmit_contracts.encounter import example_encounter
from readmit_contracts.prediction import Problem
from readmit_inference.clinical.cds_hooks import PREFETCH
from readmit_inference.clinical.codes import OURS
from readmit_inference.clinical.example import example_bundle, example_call
from readmit_inference.settings import Settings
from readmit_inference.testing import Service, promote, running, tiny_bundle

from .spoilt_json import json_values, spoilt

PATH = "/cds-services/readmission-risk"
Text = Annotated[str, Field(min_length=1)]


class Strict(BaseModel):
    """The tables of https://cds-hooks.hl7.org/2.0/: nothing that they don't list, and nothing null or empty."""

    model_config = ConfigDict(extra="forbid", strict=True)


class Coding(Strict):
    code: Text
    system: Text
    display: Text | None = None


class Source(Strict):
    label: Text
    url: AnyUrl | None = None
    icon: AnyUrl | None = None
    topic: Coding | None = None


class Card(Strict):
    """Section "Card Attributes"; suggestions, links and override reasons are left out, since we send none."""

    uuid: Text
    summary: Annotated[str, Field(min_length=1, max_length=139)]
    detail: Text
    indicator: Literal["info", "warning", "critical"]
    source: Source


class Answer(Strict):
    """Section "HTTP Response"."""

    cards: list[Card]


class DiscoveredService(Strict):
    """Section "Discovery", "Response"."""

    hook: Text
    title: Text
    description: Text
    id: Text
    prefetch: dict[str, Text]
    usageRequirements: Text  # noqa: N815  the specification's name


class Discovery(Strict):
    services: list[DiscoveredService]


async def call(service: Service, body: object, **headers: str) -> httpx.Response:
    return await service.client.post(
        PATH, content=json.dumps(body), headers={"content-type": "application/json"} | headers
    )


def card(response: httpx.Response) -> Card:
    assert (response.status_code, response.headers["content-type"]) == (200, "application/json")
    assert "null" not in response.text
    (one,) = Answer.model_validate_json(response.content).cards
    UUID(one.uuid)
    return one


def problem(response: httpx.Response, status: int) -> Problem:
    assert (response.status_code, response.headers["content-type"]) == (status, "application/problem+json")
    return Problem.model_validate_json(response.content)


def changed(**prefetch: Any) -> dict[str, Any]:
    """The example call, with other prefetch data."""
    body = copy.deepcopy(example_call())
    body["prefetch"].update(prefetch)
    return body


async def test_discovery_names_one_service_and_what_it_needs(service: Service) -> None:
    response = await service.client.get("/cds-services")
    (one,) = Discovery.model_validate_json(response.content).services
    assert (one.hook, one.id) == ("encounter-discharge", "readmission-risk")
    assert set(one.prefetch) == set(example_call()["prefetch"])
    tokens = {part.partition("}}")[0] for query in one.prefetch.values() for part in query.split("{{")[1:]}
    assert tokens == {"context.patientId", "context.encounterId"}
    assert "Not for clinical use" in one.description


async def test_the_card_says_the_risk_of_predict_and_of_fhir(service: Service) -> None:
    plain = (await service.predict(example_encounter())).json()
    fhir = (await service.client.post("/fhir/RiskAssessment/$predict", json=example_bundle())).json()
    one = card(await call(service, example_call()))
    assert f"{plain['risk'] * 100:.1f} %" in one.summary
    assert fhir["prediction"][0]["probabilityDecimal"] == plain["risk"] * 100
    assert "Not for clinical use" in one.summary
    assert "must not replace clinical judgement" in one.detail
    assert one.indicator == ("warning" if plain["readmitted_within_30_days"] else "info")


async def test_the_indicator_follows_the_threshold_and_is_never_critical(service: Service, store: MemoryStore) -> None:
    seen = set()
    for epoch in range(2, 12):
        await service.settle(promote(store, tiny_bundle(epoch), epoch=epoch))
        seen.add(card(await call(service, example_call())).indicator)
    assert seen == {"info", "warning"}


async def test_the_card_is_spanish_where_the_client_prefers_it(service: Service) -> None:
    response = await call(service, example_call(), **{"accept-language": "es"})
    one = card(response)
    assert "No apto para uso clínico" in one.summary
    assert "," in one.summary.partition("%")[0]
    assert response.headers["content-language"] == "es"


@pytest.mark.parametrize(
    ("accepted", "language"),
    [
        ("", "en"), ("fr", "en"), ("es", "es"), ("ES-mx,en;q=0.9", "es"), ("en,es;q=0.9", "en"), ("es;q=0", "en"),
        ("de,es;q=0.3", "es"), ("es;q=high", "en"), ("*", "en"), (";;,,=", "en"), ("es;q=nan", "en"),
    ],
)  # fmt: skip
async def test_the_language_is_the_preferred_one_of_two(service: Service, accepted: str, language: str) -> None:
    response = await call(service, example_call(), **{"accept-language": accepted})
    assert response.headers["content-language"] == language
    assert response.headers["vary"] == "accept-language"


async def test_a_synthetic_model_and_reservations_stand_on_the_card(settings: Settings, store: MemoryStore) -> None:
    async with running(settings, store) as service:
        await service.settle(promote(store, tiny_bundle(1, synthetic=True), epoch=1))
        body = example_call()
        del body["prefetch"]["encounter"]["priority"]
        one = card(await call(service, body))
    assert "SYNTHETIC MODEL" in one.detail
    assert "- `prefetch.encounter.priority` is missing" in one.detail


async def test_what_was_searched_and_not_found_is_none(service: Service) -> None:
    body = changed(procedures=None, laboratory={"resourceType": "Bundle", "type": "searchset"})
    stay = body["prefetch"]["encounter"]
    counted = {f"{OURS}num_procedures", f"{OURS}num_lab_procedures"}
    stay["extension"] = [one for one in stay["extension"] if one["url"] not in counted]
    plain = example_encounter() | {"num_procedures": 0, "num_lab_procedures": 0, "A1Cresult": "None"}
    risk = (await service.predict(plain)).json()["risk"]
    assert f"{risk * 100:.1f} %" in card(await call(service, body)).summary


_FAILED = {"resourceType": "OperationOutcome", "issue": [{"severity": "error", "code": "timeout"}]}


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("patient", None),
        ("encounter", None),
        ("conditions", _FAILED),
        ("medications", {"resourceType": "Bundle", "type": "searchset", "entry": [{"resource": _FAILED}]}),
        ("laboratory", {"resourceType": "Bundle", "type": "searchset", "link": [{"relation": "next", "url": "x"}]}),
    ],
)
async def test_needed_data_that_did_not_come_is_a_412_that_names_it(service: Service, key: str, value: Any) -> None:
    said = problem(await call(service, changed(**{key: value})), 412)
    assert said.type == "urn:readmit:problem:missing_prefetch"
    assert f"{key} " in said.detail
    assert PREFETCH[key] in said.detail


async def test_every_key_is_needed_but_the_payers(service: Service) -> None:
    for key in PREFETCH:
        body = example_call()
        del body["prefetch"][key]
        response = await call(service, body)
        assert response.status_code == (200 if key == "coverage" else 412)
    body = example_call()
    del body["prefetch"]
    said = problem(await call(service, body), 412).detail
    assert all(f"{key} did not come" in said for key in PREFETCH if key != "coverage")


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"hook": "patient-view"}, "hook"),
        ({"hookInstance": "1"}, "hookInstance"),
        ({"context": {"userId": "Practitioner/1", "encounterId": "e"}}, "context.patientId"),
        ({"context": []}, "context"),
        ({"prefetch": []}, "prefetch"),
    ],
)
async def test_what_is_no_call_of_this_hook_is_a_422(service: Service, change: dict[str, Any], field: str) -> None:
    assert field in {error.field for error in problem(await call(service, example_call() | change), 422).errors}


@pytest.mark.parametrize(
    ("key", "value", "field"),
    [
        ("patient", {"resourceType": "Patient", "id": "somebody-else"}, "prefetch.patient.id"),
        ("encounter", {"resourceType": "Encounter", "id": "another"}, "prefetch.ofType(Encounter)"),
        ("procedures", {"resourceType": "Procedure", "id": "p"}, "prefetch.procedures"),
        ("procedures", "none", "prefetch.procedures"),
    ],
)
async def test_data_that_is_not_what_was_asked_for_is_a_422(service: Service, key: str, value: Any, field: str) -> None:
    body = changed(**{key: value})
    if key == "encounter":
        body["prefetch"]["encounters"] = None
    assert field in {error.field for error in problem(await call(service, body), 422).errors}


async def test_other_services_are_not_here(service: Service) -> None:
    problem(await service.client.post("/cds-services/another", json=example_call()), 404)


async def test_the_documented_examples_work_and_every_status_is_documented(service: Service) -> None:
    document = (await service.client.get("/openapi.json")).json()
    for path, media_type, refusals in (
        (PATH, "application/json", "application/problem+json"),
        ("/fhir/RiskAssessment/$predict", "application/fhir+json", "application/fhir+json"),
    ):
        operation = document["paths"][path]["post"]
        for example in operation["requestBody"]["content"][media_type]["examples"].values():
            response = await service.client.post(path, json=example["value"])
            assert response.status_code == 200
            assert media_type in operation["responses"]["200"]["content"]
        statuses = {"200", "400", "408", "413", "415", "422", "503"} | ({"412"} if path == PATH else set())
        assert set(operation["responses"]) - {"401", "403", "429"} == statuses  # those are of all endpoints
        assert all(refusals in operation["responses"][status]["content"] for status in statuses - {"200"})


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(body=spoilt(example_call()) | json_values())
async def test_any_json_gets_a_card_or_a_problem(service: Service, body: Any) -> None:
    response = await call(service, body)
    if response.status_code == 200:
        card(response)
    else:
        problem(response, response.status_code)
        assert response.status_code in {400, 412, 422}


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(body=st.binary(max_size=200))
async def test_any_bytes_get_a_problem(service: Service, body: bytes) -> None:
    response = await service.client.post(PATH, content=body, headers={"content-type": "application/json"})
    assert problem(response, response.status_code).status in {400, 422}
