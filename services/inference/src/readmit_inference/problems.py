"""Errors as problem details (RFC 9457). The only place where a refusal gets an HTTP status."""

from __future__ import annotations

import math
from collections.abc import Mapping
from http import HTTPStatus
from typing import Any

from fastapi import FastAPI, Request, Response
from pydantic.json_schema import models_json_schema
from starlette.exceptions import HTTPException

from readmit_chassis.connections import Answer
from readmit_contracts.prediction import FieldError, Problem
from readmit_inference import errors
from readmit_inference.errors import Forbidden, InvalidEncounter, PredictionRefused, RateLimited

MEDIA_TYPE = "application/problem+json"

#: HTTP status and title of every refusal.
STATUSES: Mapping[type[PredictionRefused], tuple[HTTPStatus, str]] = {
    errors.Unauthorized: (HTTPStatus.UNAUTHORIZED, "The request carries no valid key or token"),
    errors.Forbidden: (HTTPStatus.FORBIDDEN, "The key or token does not reach that far"),
    errors.RateLimited: (HTTPStatus.TOO_MANY_REQUESTS, "The client asks too often"),
    errors.InvalidJson: (HTTPStatus.BAD_REQUEST, "The body is not JSON"),
    errors.InvalidBatch: (HTTPStatus.BAD_REQUEST, "The batch can't be read"),
    errors.BodyTooSlow: (HTTPStatus.REQUEST_TIMEOUT, "The body did not come"),
    errors.BodyTooLarge: (HTTPStatus.REQUEST_ENTITY_TOO_LARGE, "The body is too large"),
    errors.WrongContentType: (HTTPStatus.UNSUPPORTED_MEDIA_TYPE, "The content type is another one"),
    errors.NotAnObject: (HTTPStatus.UNPROCESSABLE_ENTITY, "The body is not one encounter"),
    errors.InvalidEncounter: (HTTPStatus.UNPROCESSABLE_ENTITY, "The encounter can't be understood"),
    errors.NoModel: (HTTPStatus.SERVICE_UNAVAILABLE, "No model is in service yet"),
    errors.NoCard: (HTTPStatus.NOT_FOUND, "The model has no card"),
    errors.NotExplainable: (HTTPStatus.NOT_IMPLEMENTED, "The model can't be explained"),
    errors.Overloaded: (HTTPStatus.SERVICE_UNAVAILABLE, "The service is overloaded"),
    errors.IssuerUnavailable: (HTTPStatus.SERVICE_UNAVAILABLE, "Tokens can't be checked yet"),
}
_REALM = 'Bearer realm="readmit"'
#: What only the endpoints that name it answer.
_SPECIAL = frozenset({errors.InvalidBatch, errors.NoCard, errors.NotExplainable})
_HEADERS: Mapping[type[PredictionRefused], Mapping[str, str]] = {
    errors.BodyTooSlow: {"Connection": "close"},  # what may still come is no new request
    errors.NoModel: {"Retry-After": "5"},
    errors.Overloaded: {"Retry-After": "1"},
    errors.IssuerUnavailable: {"Retry-After": "5"},
    errors.Unauthorized: {"WWW-Authenticate": _REALM},
}


def refusal_response(refused: PredictionRefused) -> Response:
    """The problem that tells a client why there is no prediction."""
    status, title = STATUSES[type(refused)]
    refused_fields = refused.errors if isinstance(refused, InvalidEncounter) else []
    return _response(status, refused.code, title, refused.detail, refused_fields, _headers(refused))


def _headers(refused: PredictionRefused) -> Mapping[str, str] | None:
    match refused:
        case RateLimited():
            return {"Retry-After": str(math.ceil(refused.wait_s))}
        case Forbidden():
            return {"WWW-Authenticate": f'{_REALM}, error="insufficient_scope", scope="{refused.scope}"'}
        case _:
            return _HEADERS.get(type(refused))


def failure_response() -> Response:
    """What a client is told of a bug: nothing but that it is ours."""
    status = HTTPStatus.INTERNAL_SERVER_ERROR
    return _response(status, "internal_server_error", status.phrase, status.description, [], None)


def as_answer(response: Response) -> Answer:
    """The response as bytes."""
    return Answer(response.status_code, response.raw_headers, bytes(response.body))


def install(app: FastAPI) -> None:
    """Give every error of the app's own routing (404, 405) and every unexpected one the problem form."""

    async def on_http_error(_: Request, error: Exception) -> Response:
        status = HTTPStatus(error.status_code if isinstance(error, HTTPException) else 500)
        headers = error.headers if isinstance(error, HTTPException) else None
        code = status.phrase.lower().replace(" ", "_")
        return _response(status, code, status.phrase, status.description or status.phrase, [], headers)

    app.add_exception_handler(HTTPException, on_http_error)
    app.add_exception_handler(Exception, on_http_error)
    without_problem = app.openapi

    def openapi() -> dict[str, Any]:
        # FastAPI would also list a response's model under application/json, which no problem is ever sent as.
        document = without_problem()
        _, schemas = models_json_schema([(Problem, "serialization")], ref_template="#/components/schemas/{model}")
        document["components"]["schemas"].update(schemas["$defs"])
        return document

    app.openapi = openapi  # type: ignore[method-assign]  # as FastAPI documents it


def openapi_responses(*also: type[PredictionRefused]) -> dict[int | str, dict[str, Any]]:
    """What OpenAPI says about them; several refusals may share a status. `also`: those of one endpoint."""
    titles: dict[int | str, list[str]] = {}
    for kind, (status, title) in STATUSES.items():
        if kind in _SPECIAL and kind not in also:
            continue
        titles.setdefault(int(status), []).append(title)
    schema = {"schema": {"$ref": "#/components/schemas/Problem"}}
    return {
        status: {"description": "; ".join(several), "content": {MEDIA_TYPE: schema}}
        for status, several in titles.items()
    }


def _response(
    status: HTTPStatus,
    code: str,
    title: str,
    detail: str,
    refused_fields: list[FieldError],
    headers: Mapping[str, str] | None,
) -> Response:
    problem = Problem(
        type=f"urn:readmit:problem:{code}", title=title, status=status, detail=detail, errors=refused_fields
    )
    return Response(problem.model_dump_json(), status_code=status, headers=headers, media_type=MEDIA_TYPE)
