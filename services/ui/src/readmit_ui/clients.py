"""REST to the services. What can go wrong comes back as a value: a page shows it, nothing is raised."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Any, Literal

import httpx
import structlog
from pydantic import ValidationError

from readmit_contracts.prediction import Explanation, Prediction, Problem
from readmit_ui import metrics

log = structlog.get_logger()

#: Why inference may be unavailable though it has a model.
_OVERLOADED = "urn:readmit:problem:overloaded"

Kind = Literal["refused", "unauthorized", "rate_limited", "no_model", "overloaded", "unreachable", "failed"]


@dataclass(frozen=True, slots=True)
class Trouble:
    """Why there is no answer; `problem` when the service said so itself."""

    kind: Kind
    problem: Problem | None = None


@dataclass(frozen=True, slots=True)
class Services:
    """The services by name, each with its base URL, and the one client that reaches them.

    `inference_api_key` is shown to inference alone, where it asks for one; `promoter_api_key` to the promoter.
    """

    http: httpx.AsyncClient
    urls: Mapping[str, str]
    inference_api_key: str | None = field(default=None, repr=False)
    promoter_api_key: str | None = field(default=None, repr=False)

    async def predict(self, encounter: Mapping[str, object]) -> Prediction | Trouble:
        """Ask inference about one encounter."""
        answer = await self._predict(encounter)
        metrics.PREDICTIONS.labels("answered" if isinstance(answer, Prediction) else answer.kind).inc()
        return answer

    async def explain(self, encounter: Mapping[str, object]) -> Explanation | None:
        """Why inference gives the encounter its risk; None when it does not say."""
        try:
            response = await self._ask_inference("/explain", encounter)
            return Explanation.model_validate_json(response.raise_for_status().content)
        except (httpx.HTTPError, ValidationError) as error:
            log.info("not_explained", error=type(error).__name__)  # an extra: the page goes without
            return None

    async def get(self, service: str, path: str) -> Any:
        """The JSON of a read-only endpoint; None when the service is away or answers nonsense."""
        try:
            response = await self.http.get(self.urls[service] + path, headers=self._key_for(service))
            response.raise_for_status()
            document = response.json()
        except (httpx.HTTPError, ValueError) as error:
            metrics.REQUESTS.labels(service, "away").inc()
            log.warning("service_away", away=service, path=path, error=type(error).__name__)
            return None
        metrics.REQUESTS.labels(service, "ok").inc()
        return document

    async def command(self, path: str, reason: str) -> str | None:
        """Tell the promoter to do something; None when it is done, else what it said, empty when nothing came."""
        try:
            response = await self.http.post(
                self.urls["promoter"] + path, json={"reason": reason}, headers=self._key_for("promoter")
            )
        except httpx.HTTPError as error:
            log.warning("promoter_unreachable", error=type(error).__name__)
            return ""
        if response.is_success:
            return None
        try:
            detail = response.json()["detail"]
        except (ValueError, KeyError, TypeError):
            return ""
        return detail if isinstance(detail, str) else ""

    def _key_for(self, service: str) -> dict[str, str]:
        key = {"inference": self.inference_api_key, "promoter": self.promoter_api_key}.get(service)
        return {} if key is None else {"X-API-Key": key}

    async def _predict(self, encounter: Mapping[str, object]) -> Prediction | Trouble:
        try:
            response = await self._ask_inference("/predict", encounter)
        except httpx.HTTPError as error:
            log.warning("inference_unreachable", error=type(error).__name__)
            return Trouble("unreachable")
        try:
            if response.status_code == HTTPStatus.OK:
                return Prediction.model_validate_json(response.content)
            problem = Problem.model_validate_json(response.content)
        except ValidationError:
            log.exception("inference_answer_unreadable", status=response.status_code)
            return Trouble("failed")
        kind = _kind(response.status_code, problem)
        if kind == "unauthorized":
            log.error("inference_wants_another_key", status=response.status_code)
        return Trouble(kind, problem)

    async def _ask_inference(self, path: str, encounter: Mapping[str, object]) -> httpx.Response:
        key = self._key_for("inference")
        return await self.http.post(self.urls["inference"] + path, json=encounter, headers=key)


def _kind(status: int, problem: Problem) -> Kind:
    match status:
        case HTTPStatus.SERVICE_UNAVAILABLE:
            return "overloaded" if problem.type == _OVERLOADED else "no_model"
        case HTTPStatus.UNAUTHORIZED | HTTPStatus.FORBIDDEN:
            return "unauthorized"
        case HTTPStatus.TOO_MANY_REQUESTS:
            return "rate_limited"
        case _:
            return "refused" if 400 <= status < 500 else "failed"
