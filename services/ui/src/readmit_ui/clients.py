"""REST to the services. What can go wrong comes back as a value: a page shows it, nothing is raised."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
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


@dataclass(frozen=True, slots=True)
class Trouble:
    """Why there is no answer; `problem` when the service said so itself."""

    kind: Literal["refused", "no_model", "overloaded", "unreachable", "failed"]
    problem: Problem | None = None


@dataclass(frozen=True, slots=True)
class Services:
    """The services by name, each with its base URL, and the one client that reaches them."""

    http: httpx.AsyncClient
    urls: Mapping[str, str]

    async def predict(self, encounter: Mapping[str, object]) -> Prediction | Trouble:
        """Ask inference about one encounter."""
        answer = await self._predict(encounter)
        metrics.PREDICTIONS.labels("answered" if isinstance(answer, Prediction) else answer.kind).inc()
        return answer

    async def explain(self, encounter: Mapping[str, object]) -> Explanation | None:
        """Why inference gives the encounter its risk; None when it does not say."""
        try:
            response = await self.http.post(f"{self.urls['inference']}/explain", json=encounter)
            return Explanation.model_validate_json(response.raise_for_status().content)
        except (httpx.HTTPError, ValidationError) as error:
            log.info("not_explained", error=type(error).__name__)  # an extra: the page goes without
            return None

    async def get(self, service: str, path: str) -> Any:
        """The JSON of a read-only endpoint; None when the service is away or answers nonsense."""
        try:
            response = await self.http.get(self.urls[service] + path)
            response.raise_for_status()
            document = response.json()
        except (httpx.HTTPError, ValueError) as error:
            metrics.REQUESTS.labels(service, "away").inc()
            log.warning("service_away", away=service, path=path, error=type(error).__name__)
            return None
        metrics.REQUESTS.labels(service, "ok").inc()
        return document

    async def _predict(self, encounter: Mapping[str, object]) -> Prediction | Trouble:
        try:
            response = await self.http.post(f"{self.urls['inference']}/predict", json=encounter)
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
        if response.status_code == HTTPStatus.SERVICE_UNAVAILABLE:
            return Trouble("overloaded" if problem.type == _OVERLOADED else "no_model", problem)
        return Trouble("refused" if response.is_client_error else "failed", problem)
