"""A dependency that is away, as an HTTP answer."""

from __future__ import annotations

from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse

_RETRY_AFTER_S = 5


def answer_outages(app: FastAPI, *away: type[Exception], detail: str) -> None:
    """Answer 503 with Retry-After, as problem details (RFC 9457), where a route raises one of these."""

    async def unavailable(_: Request, __: Exception) -> JSONResponse:
        problem = {"type": "about:blank", "title": "Service Unavailable", "status": 503, "detail": detail, "errors": []}
        return JSONResponse(problem, 503, {"Retry-After": str(_RETRY_AFTER_S)}, "application/problem+json")

    for kind in away:
        app.add_exception_handler(kind, unavailable)
