"""HTTP in and out of the clinical edge: the same steps as `/predict`, in other words."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping
from datetime import UTC, date, datetime
from typing import Any

import orjson
import structlog
from fastapi import APIRouter, Request, Response

from readmit_contracts.prediction import FieldWarning, Problem
from readmit_features.cleaning import clean_encounter
from readmit_inference import metrics, problems
from readmit_inference.champion import Champion
from readmit_inference.clinical import cds_hooks, openapi, risk_assessment
from readmit_inference.clinical.cds_hooks import MissingPrefetch
from readmit_inference.clinical.mapping import Mapped
from readmit_inference.clinical.texts import Texts, preferred
from readmit_inference.domain import Answered
from readmit_inference.errors import InvalidEncounter, NoModel, Overloaded, PredictionRefused
from readmit_inference.handlers import decode, read_body
from readmit_inference.overload import Overload
from readmit_inference.prediction_log import PredictionLog
from readmit_inference.slow_bodies import SlowBodies
from readmit_inference.trial import answer

#: From here on a body is read in a thread (64 KiB take some 5 ms): other requests have their turn meanwhile.
_LARGE_BYTES = 64 * 1024
_OUR_FAULT = frozenset({NoModel.code, Overloaded.code})

#: What reads a body, what writes an answer, and what writes a refusal (None: a bug).
Read = Callable[[Mapping[str, object], date], Mapped]
Write = Callable[[Mapped, Answered, list[FieldWarning], Texts], dict[str, Any]]
Refuse = Callable[[PredictionRefused | None], Response]


class ClinicalEndpoint:
    """Reads a request, predicts exactly as `/predict` does, and answers; refusals, metrics and log are the same."""

    def __init__(
        self,
        champion: Champion,
        max_body_bytes: int,
        log: PredictionLog | None,
        overload: Overload,
        slow_bodies: SlowBodies,
    ) -> None:
        self._champion = champion
        self._max_body_bytes = max_body_bytes
        self._log = log
        self._overload = overload
        self._slow_bodies = slow_bodies

    async def answer(self, request: Request, read: Read, write: Write, refuse: Refuse, media_type: str) -> Response:
        """The response to one request; never raises."""
        started = time.perf_counter()
        try:
            self._overload.check()
            body = await self._slow_bodies.read(read_body(request.scope, request.receive, self._max_body_bytes))
            mapped = await asyncio.to_thread(_read, read, body) if len(body) > _LARGE_BYTES else _read(read, body)
            answered = self._predict(mapped)
            warnings = [*mapped.warnings, *map(mapped.warning_there, answered.warnings)]
            texts = preferred(request.headers.get("accept-language"))
            content = orjson.dumps(write(mapped, answered, warnings, texts))
        except PredictionRefused as refused:
            metrics.REQUESTS.labels(refused.code if refused.code in _OUR_FAULT else "refused").inc()
            metrics.ERRORS.labels(refused.code).inc()
            metrics.LATENCY.observe(time.perf_counter() - started)
            return refuse(refused)
        except Exception:  # noqa: BLE001  a bug: whatever it is, the client gets an answer and the log the traceback
            metrics.REQUESTS.labels("failed").inc()
            metrics.ERRORS.labels("internal").inc()
            structlog.get_logger().exception("request_failed")
            return refuse(None)
        metrics.REQUESTS.labels("answered").inc()
        metrics.PREDICTIONS.labels(str(answered.readmitted_within_30_days).lower()).inc()
        latency_s = time.perf_counter() - started
        metrics.LATENCY.observe(latency_s)
        if self._log is not None:
            self._log.add(answered, latency_s)
        headers = {"content-language": texts.language, "vary": "accept-language"}
        return Response(content, media_type=media_type, headers=headers)

    def _predict(self, mapped: Mapped) -> Answered:
        """As `/predict`; errors name elements by their FHIRPath. Raises what `predict` raises."""
        if mapped.errors:
            # What is missing may be missing for one of these errors: said once they are mended.
            cleaned = clean_encounter(mapped.encounter).errors
            raise InvalidEncounter(
                [*mapped.errors, *(mapped.error_there(e) for e in cleaned if e.problem != "is required")]
            )
        try:
            return answer(self._champion.serving, self._champion.trial, mapped.encounter)
        except InvalidEncounter as refused:
            raise InvalidEncounter([mapped.error_there(error) for error in refused.errors]) from refused


def clinical_router(endpoint: ClinicalEndpoint) -> APIRouter:
    """FHIR under `/fhir`, CDS Hooks under `/cds-services`."""
    router = APIRouter(tags=["clinical"])

    @router.post(
        risk_assessment.OPERATION,
        summary="Risk as a FHIR RiskAssessment",
        response_class=_FhirResponse,
        responses=openapi.fhir_responses(),
        openapi_extra=openapi.fhir_request(),
    )
    async def predict_risk_assessment(request: Request) -> Response:
        """FHIR R4 operation: a Bundle of one hospital stay in, a RiskAssessment out. Not for clinical use.

        `probabilityDecimal` is a percentage, as R4 has it. The same prediction as `/predict`. Which elements are read
        stands in docs/clinical.md; what FHIR has no element for is an extension `urn:readmit:fhir:<field>` of the
        Encounter. Texts are Spanish where Accept-Language prefers it.
        """
        return await endpoint.answer(
            request, risk_assessment.read_bundle, risk_assessment.risk_assessment, _fhir_refusal,
            risk_assessment.MEDIA_TYPE,
        )  # fmt: skip

    @router.get(
        "/fhir/metadata",
        summary="FHIR CapabilityStatement",
        response_class=_FhirResponse,
        responses=openapi.metadata_responses(),
    )
    async def metadata(request: Request) -> Response:
        """FHIR R4 CapabilityStatement: the one operation that is here."""
        base_url = str(request.base_url).rstrip("/") + "/fhir"
        content = orjson.dumps(risk_assessment.capability_statement(base_url))
        return Response(content, media_type=risk_assessment.MEDIA_TYPE)

    @router.get("/cds-services", summary="CDS Hooks discovery", responses=openapi.discovery_responses())
    async def discover() -> dict[str, Any]:
        """CDS Hooks discovery: the service for the hook `encounter-discharge`, and the data that it needs."""
        return cds_hooks.discovery()

    @router.post(
        f"/cds-services/{cds_hooks.SERVICE_ID}",
        summary="CDS Hooks card at discharge",
        responses=openapi.cds_responses(),
        openapi_extra=openapi.cds_request(),
    )
    async def call(request: Request) -> Response:
        """CDS Hooks call at discharge: one card with the risk, as information. Not for clinical use.

        Needed prefetch data that did not come is a 412: the service fetches nothing itself.
        """
        return await endpoint.answer(request, cds_hooks.read_call, _cards, _problem, "application/json")

    return router


def _read(read: Read, body: bytes) -> Mapped:
    return read(decode(body), datetime.now(UTC).date())


class _FhirResponse(Response):
    media_type = risk_assessment.MEDIA_TYPE


def _cards(_: Mapped, answered: Answered, warnings: list[FieldWarning], texts: Texts) -> dict[str, Any]:
    return {"cards": [cds_hooks.card(answered, warnings, texts)]}


def _problem(refused: PredictionRefused | None) -> Response:
    """A refusal as problem details."""
    if refused is None:
        return problems.failure_response()
    if not isinstance(refused, MissingPrefetch):
        return problems.refusal_response(refused)
    problem = Problem(
        type=f"urn:readmit:problem:{refused.code}", title="Prefetch data is missing", status=412, detail=refused.detail
    )
    return Response(problem.model_dump_json(), status_code=412, media_type=problems.MEDIA_TYPE)


def _fhir_refusal(refused: PredictionRefused | None) -> Response:
    """The same status and headers as the problem, with an OperationOutcome as body."""
    plain = _problem(refused)
    outcome = risk_assessment.failure_outcome() if refused is None else risk_assessment.operation_outcome(refused)
    headers = {k: v for k, v in plain.headers.items() if k not in {"content-type", "content-length"}}
    return _FhirResponse(orjson.dumps(outcome), status_code=plain.status_code, headers=headers)
