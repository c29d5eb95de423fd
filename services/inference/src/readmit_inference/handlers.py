"""HTTP in and out. Bytes are decoded here, `domain.py` decides."""

from __future__ import annotations

import asyncio
import re
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NoReturn

import orjson
import structlog
from fastapi import APIRouter, FastAPI, Request, Response
from starlette.types import Receive, Scope, Send

from readmit_chassis.connections import Answer, Headers
from readmit_contracts.encounter import example_encounter
from readmit_contracts.history import HISTORY, example_history, request_schema
from readmit_contracts.prediction import Explanation, Prediction
from readmit_inference import metrics
from readmit_inference.champion import Champion
from readmit_inference.domain import Serving
from readmit_inference.errors import (
    BodyTooLarge,
    InvalidJson,
    NoCard,
    NoModel,
    NotAnObject,
    NotExplainable,
    Overloaded,
    PredictionRefused,
    WrongContentType,
)
from readmit_inference.explanation import explain
from readmit_inference.overload import Overload
from readmit_inference.prediction_log import PredictionLog
from readmit_inference.problems import as_answer, failure_response, openapi_responses, refusal_response
from readmit_inference.slow_bodies import SlowBodies
from readmit_inference.trial import Trial, answer

_JSON_TYPE = re.compile(rb"[^/;\s]+/([^/;\s]+\+)?json\s*(;|$)", re.IGNORECASE)

#: RFC 7763.
CARD_TYPE = "text/markdown"
#: Explanations under way, each some milliseconds of one thread; what comes beyond them is turned away.
_EXPLANATIONS_AT_ONCE = 16

_ANSWERED = metrics.REQUESTS.labels("answered")
_REFUSED = metrics.REQUESTS.labels("refused")
_FAILED = metrics.REQUESTS.labels("failed")
_OUR_FAULT = {code: metrics.REQUESTS.labels(code) for code in (NoModel.code, Overloaded.code)}
_VERDICTS = {verdict: metrics.PREDICTIONS.labels(str(verdict).lower()) for verdict in (True, False)}

_OPENAPI_BODY: dict[str, Any] = {
    "requestBody": {
        "required": True,
        "content": {
            "application/json": {
                "schema": request_schema(),
                "examples": {
                    "encounter": {"summary": "An encounter", "value": example_encounter()},
                    "with_history": {
                        "summary": "An encounter of a patient who was here before",
                        "value": example_encounter() | {HISTORY: example_history()},
                    },
                },
            }
        },
    }
}


class PredictEndpoint:
    """`POST /predict`: one request in, one answer out, and nothing of the framework in between.

    An ASGI app; what has come whole is answered without ASGI (`at_once`), alike.

    Answers are kept in `log`, if there is one.
    """

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

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        started = time.perf_counter()
        try:
            self._overload.check()
            body = await self._slow_bodies.read(read_body(scope, receive, self._max_body_bytes))
        except PredictionRefused as refused:
            said = _refused(refused, started)
        else:
            said = self._answer(body, started)
        await send({"type": "http.response.start", "status": said.status, "headers": said.headers})
        await send({"type": "http.response.body", "body": said.body})

    def at_once(self, headers: Headers, body: bytes) -> Answer:
        """The same for a request that is there as a whole."""
        started = time.perf_counter()
        try:
            self._overload.check()
            check_head(headers, self._max_body_bytes)
            check_size(len(body), self._max_body_bytes)
        except PredictionRefused as refused:
            return _refused(refused, started)
        return self._answer(body, started)

    def _answer(self, body: bytes, started: float) -> Answer:
        try:
            encounter = decode(body)
            answered = answer(self._champion.serving, self._champion.trial, encounter)
            content = answered.to_json()
        except PredictionRefused as refused:
            return _refused(refused, started)
        except Exception:  # noqa: BLE001  a bug: whatever it is, the client gets an answer and the log the traceback
            _FAILED.inc()
            metrics.ERRORS.labels("internal").inc()
            structlog.get_logger().exception("request_failed")
            return as_answer(failure_response())
        _ANSWERED.inc()
        _VERDICTS[answered.readmitted_within_30_days].inc()
        latency_s = time.perf_counter() - started
        metrics.LATENCY.observe(latency_s)
        if self._log is not None:
            self._log.add(answered, latency_s)
        headers = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(content))]
        return Answer(200, headers, content)


def _refused(refused: PredictionRefused, started: float) -> Answer:
    _OUR_FAULT.get(refused.code, _REFUSED).inc()
    metrics.ERRORS.labels(refused.code).inc()
    metrics.LATENCY.observe(time.perf_counter() - started)
    return as_answer(refusal_response(refused))


def describe_predict(app: FastAPI) -> None:
    """`POST /predict` in the OpenAPI document, and 405 for other methods; `PredictEndpoint` answers it."""

    @app.post("/predict", response_model=Prediction, responses=openapi_responses(), openapi_extra=_OPENAPI_BODY,
              summary="Risk of one encounter", tags=["prediction"])  # fmt: skip
    async def post_predict() -> NoReturn:
        """Risk of readmission within 30 days of discharge for one encounter. Not for clinical use.

        Names may be written with hyphens or underscores and in any case, numbers as text, ages as `[50-60)` or `50-60`.
        Fields that the model does not use are allowed. What is known of the patient's earlier encounters goes into
        `history`; without it, the risk is that of a patient of unknown history.

        While a new model is tried, it may answer for a share of the patients, the same ones each time: `model` says
        which model it was. Without a patient's number the encounter's decides, and without either, chance.
        """
        raise AssertionError("the endpoint stands before the app")


def explain_router(champion: Champion, max_body_bytes: int, overload: Overload, slow_bodies: SlowBodies) -> APIRouter:
    """`POST /explain`: in a thread of its own, since it takes milliseconds."""
    router = APIRouter(tags=["prediction"])
    executor = ThreadPoolExecutor(1, thread_name_prefix="explain")
    waiting = 0

    @router.post("/explain", response_model=Explanation, responses=openapi_responses(NotExplainable),
                 openapi_extra=_OPENAPI_BODY, summary="Why one encounter has its risk")  # fmt: skip
    async def post_explain(request: Request) -> Response:
        """What each field adds to the risk of one encounter, which is sent as to `/predict`. Not for clinical use.

        Exact Shapley values in log-odds, summed by field: with `base` they give `margin`, and its calibrated form is
        the risk. They say what the model did, not what would help the patient. Nothing is kept in the prediction log.
        While a new model is tried, the one that answers `/predict` for this patient explains.
        """
        nonlocal waiting
        try:
            overload.check()
            if waiting >= _EXPLANATIONS_AT_ONCE:
                raise Overloaded(f"{waiting} explanations are under way, try again in a second.")
            body = await slow_bodies.read(read_body(request.scope, request.receive, max_body_bytes))
            encounter = decode(body)
            waiting += 1
            try:
                loop = asyncio.get_running_loop()
                explanation = await loop.run_in_executor(executor, explain, champion.serving, champion.trial, encounter)
            finally:
                waiting -= 1
        except PredictionRefused as refused:
            metrics.EXPLANATIONS.labels("refused").inc()
            metrics.ERRORS.labels(refused.code).inc()
            return refusal_response(refused)
        metrics.EXPLANATIONS.labels("answered").inc()
        return Response(explanation.model_dump_json(), media_type="application/json")

    return router


def state_router(champion: Champion, pod_id: str) -> APIRouter:
    """`GET /health` and `GET /model`."""
    router = APIRouter(tags=["state"])

    @router.get("/health", summary="State of this pod")
    async def health() -> dict[str, Any]:
        """Whether this pod can answer, and with which model. Always 200: `/readyz` is for routing."""
        serving = champion.serving
        return {
            "status": "no_model" if serving is None else "ok",
            "model": None if serving is None else described(serving),
            "pod_id": pod_id,
        }

    @router.get("/model", responses={503: openapi_responses()[503]}, response_model=None, summary="Model in service")
    async def model() -> dict[str, Any] | Response:
        """What the model in service was made from, and how well it did on validation.

        `challenger` is the model that is tried beside it, if there is one: in which stage, and for what share of the
        patients it answers.
        """
        serving = champion.serving
        if serving is None:
            return refusal_response(NoModel("No model has been promoted yet, or it is still loading."))
        manifest = serving.model.manifest
        return described(serving) | {
            "promoted": serving.cause.model_dump(mode="json", include={"action", "decided_at", "reason"}),
            "features": len(manifest.feature_spec.names),
            **manifest.model_dump(
                mode="json",
                include={
                    "threshold",
                    "calibration",
                    "validation",
                    "without_history",
                    "lineage",
                    "feature_spec_sha256",
                },
            ),
            "challenger": None if champion.trial is None else _on_trial(champion.trial),
        }

    @router.get("/model/card", summary="Model card", response_class=Response, responses={
        200: {"content": {CARD_TYPE: {"schema": {"type": "string"}}}},
        **{status: openapi_responses(NoCard)[status] for status in (404, 503)},
    })  # fmt: skip
    async def card() -> Response:
        """The model card, as Markdown: what it was trained on, how good it is and for whom, and its limits."""
        serving = champion.serving
        if serving is None:
            return refusal_response(NoModel("No model has been promoted yet, or it is still loading."))
        text = serving.model.manifest.card
        if text is None:
            return refusal_response(NoCard("The model was trained before bundles held cards: MLflow has its card."))
        return Response(text, media_type=CARD_TYPE)

    return router


def described(serving: Serving) -> dict[str, Any]:
    """How a model is named in `/health` and `/model`."""
    return serving.named.model_dump() | {"family": serving.model.manifest.family}


def _on_trial(trial: Trial) -> dict[str, Any]:
    changed = trial.changed
    return described(trial.challenger) | {
        "threshold": trial.challenger.model.threshold,
        "rollout": changed.model_dump(mode="json", include={"rollout_id", "revision", "stage", "share", "changed_at"}),
    }


async def read_body(scope: Scope, receive: Receive, max_bytes: int) -> bytes:
    """The body, given up as soon as it is known to be too large, declared or not.

    Raises `WrongContentType`, `BodyTooLarge`, `InvalidJson` (cut off). What a client still sends after that is dropped
    by the server, neither kept nor parsed.
    """
    check_head(scope["headers"], max_bytes)
    chunks: list[bytes] = []
    size = 0
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise InvalidJson("The connection ended before the body did.")
        chunk = message.get("body", b"")
        size += len(chunk)
        check_size(size, max_bytes)
        if not message.get("more_body", False):
            return b"".join((*chunks, chunk)) if chunks else chunk
        chunks.append(chunk)


def check_head(headers: Headers, max_bytes: int) -> None:
    """Raises `WrongContentType`, `BodyTooLarge` (declared so)."""
    for name, value in headers:
        if name == b"content-type":
            if value and value != b"application/json" and not _JSON_TYPE.match(value):
                raise WrongContentType("Send the encounter as application/json.")
        elif name == b"content-length" and value.isdigit():
            check_size(int(value), max_bytes)


def check_size(size: int, max_bytes: int) -> None:
    """Raises `BodyTooLarge`."""
    if size > max_bytes:
        raise BodyTooLarge(f"One encounter is at most {max_bytes} bytes.")


def decode(body: bytes) -> dict[str, Any]:
    """One JSON object. Strict: UTF-8, no NaN or Infinity, bounded nesting. Raises `InvalidJson`, `NotAnObject`."""
    try:
        encounter = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        # The position only: the parser's own words may quote what was sent.
        where = f"line {error.lineno}, column {error.colno}" if body else "it is empty"
        raise InvalidJson(f"The body can't be parsed as JSON ({where}): send one encounter as an object.") from error
    if not isinstance(encounter, dict):
        raise NotAnObject("Send one encounter as a JSON object: field names and values in braces.")
    return encounter
