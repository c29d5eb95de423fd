"""Explanations and the model card."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from readmit_chassis.s3 import MemoryStore
from readmit_contracts.encounter import example_encounter
from readmit_contracts.history import HISTORY, example_history
from readmit_contracts.prediction import Explanation, Problem
from readmit_inference.settings import Settings
from readmit_inference.testing import Service, promote, running, tiny_bundle


@pytest.fixture(params=["lightgbm", "logistic_regression"])
async def any_service(request: pytest.FixtureRequest, settings: Settings, store: MemoryStore) -> AsyncIterator[Service]:
    async with running(settings, store) as service:
        await service.settle(promote(store, tiny_bundle(3, family=request.param), epoch=1))
        yield service


async def test_what_the_fields_add_gives_the_risk_that_predict_gives(any_service: Service) -> None:
    encounter = example_encounter() | {HISTORY: example_history(), "medical_specialty": "Alchemy"}
    told = Explanation.model_validate_json((await any_service.client.post("/explain", json=encounter)).content)
    answer = (await any_service.predict(encounter)).json()
    assert told.base + sum(one.contribution for one in told.contributions) == pytest.approx(told.margin, abs=1e-9)
    model = any_service.champion.serving
    assert model is not None
    assert model.model.manifest.calibration.risk(told.margin) == told.risk == answer["risk"]
    assert told.model.model_dump() == answer["model"]
    assert [warning.model_dump() for warning in told.warnings] == answer["warnings"]
    assert told.used_history is answer["used_history"] is True
    sizes = [abs(one.contribution) for one in told.contributions]
    assert sizes == sorted(sizes, reverse=True)
    by_field = {one.field: one for one in told.contributions}
    assert by_field["medical_specialty"].value == "Alchemy"
    assert by_field["history.previous_encounters"].value == 1
    assert len(by_field) == len(told.contributions)
    assert "patient_nbr" not in by_field


async def test_a_field_that_the_model_reads_differently_is_explained_differently(any_service: Service) -> None:
    told = []
    for stay in (1, 14):
        response = await any_service.client.post("/explain", json=example_encounter() | {"time_in_hospital": stay})
        told.append(Explanation.model_validate_json(response.content))
    short, long = ({one.field: one.contribution for one in each.contributions}["time_in_hospital"] for each in told)
    assert short != long
    assert (long > short) == (told[1].margin > told[0].margin)


async def test_what_predict_refuses_is_not_explained(any_service: Service) -> None:
    response = await any_service.client.post("/explain", json=example_encounter() | {"age": "old"})
    assert response.status_code == 422
    assert Problem.model_validate_json(response.content).errors[0].field == "age"
    assert (await any_service.client.post("/explain", content=b"[]")).status_code == 422


async def test_models_of_before_have_no_explanation_and_no_card(settings: Settings, store: MemoryStore) -> None:
    async with running(settings, store) as service:
        assert (await service.client.get("/model/card")).status_code == 503
        await service.settle(promote(store, tiny_bundle(3, is_old=True), epoch=1))
        assert (await service.predict(example_encounter())).status_code == 200
        response = await service.client.post("/explain", json=example_encounter())
        assert response.status_code == 501
        assert "trained anew" in Problem.model_validate_json(response.content).detail
        assert (await service.client.get("/model/card")).status_code == 404


async def test_the_card_is_that_of_the_model_in_service(service: Service, store: MemoryStore) -> None:
    await service.settle(promote(store, tiny_bundle(8), epoch=9))
    card = await service.client.get("/model/card")
    assert card.headers["content-type"].startswith("text/markdown")
    assert "Seed 8" in card.text


async def test_explanations_that_come_too_many_at_once_are_turned_away(service: Service) -> None:
    answers = await asyncio.gather(*(service.client.post("/explain", json=example_encounter()) for _ in range(60)))
    codes = [answer.status_code for answer in answers]
    assert set(codes) == {200, 503}
    assert codes.count(200) >= 16
