"""What the services answer, and every way in which they don't, as values."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import httpx
import pytest
from prometheus_client import REGISTRY

from readmit_contracts.prediction import Explanation, Prediction, Problem
from readmit_ui.clients import Services, Trouble

ServicesThat = Callable[[Callable[[httpx.Request], httpx.Response]], Services]


def problem(status: int, kind: str = "urn:x") -> httpx.Response:
    body = Problem(type=kind, title="T", status=status, detail="D").model_dump()
    return httpx.Response(status, json=body)


def unreachable(request: httpx.Request) -> httpx.Response:
    raise httpx.ConnectError("refused", request=request)


def too_slow(request: httpx.Request) -> httpx.Response:
    raise httpx.ReadTimeout("slow", request=request)


async def test_an_answer_is_a_prediction(services_that: ServicesThat, prediction: Prediction) -> None:
    services = services_that(lambda _: httpx.Response(200, content=prediction.model_dump_json()))
    assert await services.predict({}) == prediction


@pytest.mark.parametrize(
    ("handler", "kind"),
    [
        (lambda _: problem(422), "refused"),
        (lambda _: problem(413), "refused"),
        (lambda _: problem(401), "unauthorized"),
        (lambda _: problem(403), "unauthorized"),
        (lambda _: problem(429), "rate_limited"),
        (lambda _: problem(503, "urn:readmit:problem:no_model"), "no_model"),
        (lambda _: problem(503, "urn:readmit:problem:overloaded"), "overloaded"),
        (lambda _: problem(500), "failed"),
        (lambda _: httpx.Response(502, text="<html>bad gateway</html>"), "failed"),
        (lambda _: httpx.Response(200, text="not a prediction"), "failed"),
        (unreachable, "unreachable"),
        (too_slow, "unreachable"),
    ],
)
async def test_every_failure_is_a_trouble_of_its_kind(
    services_that: ServicesThat, handler: Callable[[httpx.Request], httpx.Response], kind: str
) -> None:
    before = REGISTRY.get_sample_value("ui_predictions_total", {"outcome": kind}) or 0.0
    answer = await services_that(handler).predict({})
    assert isinstance(answer, Trouble)
    assert answer.kind == kind
    assert REGISTRY.get_sample_value("ui_predictions_total", {"outcome": kind}) == before + 1


@pytest.mark.parametrize(
    "handler", [unreachable, too_slow, lambda _: problem(500), lambda _: httpx.Response(200, text="<html>")]
)
async def test_a_read_of_a_service_that_is_away_is_none(
    services_that: ServicesThat, handler: Callable[[httpx.Request], httpx.Response]
) -> None:
    assert await services_that(handler).get("trainer", "/jobs") is None


async def test_each_service_is_asked_at_its_own_address(services_that: ServicesThat) -> None:
    services = services_that(lambda request: httpx.Response(200, json={"asked": str(request.url)}))
    assert await services.get("promoter", "/pods") == {"asked": "http://promoter/pods"}


async def test_the_key_is_shown_to_inference_and_to_nobody_else(
    services_that: ServicesThat, prediction: Prediction
) -> None:
    seen: dict[str, str | None] = {}

    def answers(request: httpx.Request) -> httpx.Response:
        seen[request.url.host + request.url.path] = request.headers.get("x-api-key")
        return httpx.Response(200, content=prediction.model_dump_json())

    services = replace(services_that(answers), inference_api_key="s3cret")
    assert await services.predict({}) == prediction
    await services.explain({})
    await services.get("promoter", "/pods")
    assert seen == {"inference/predict": "s3cret", "inference/explain": "s3cret", "promoter/pods": None}
    assert "s3cret" not in repr(services)


async def test_an_explanation_is_an_extra_that_may_be_missing(
    services_that: ServicesThat, prediction: Prediction
) -> None:
    explanation = Explanation(
        risk=0.2, readmitted_within_30_days=True, threshold=0.1, used_history=False, base=-2.0, margin=-1.4,
        contributions=[], calibration="platt", model=prediction.model, warnings=[],
    )  # fmt: skip
    services = services_that(lambda _: httpx.Response(200, content=explanation.model_dump_json()))
    assert await services.explain({}) == explanation
    for handler in (unreachable, lambda _: problem(501), lambda _: httpx.Response(200, text="nonsense")):
        assert await services_that(handler).explain({}) is None
