"""The REST of the way back in: say what happened, see what came back, make a batch of it."""

from __future__ import annotations

import asyncio
from dataclasses import asdict
from typing import Any
from uuid import UUID

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse
from pydantic import AwareDatetime, BaseModel, ConfigDict

from readmit_contracts.prediction import FieldError, Problem
from readmit_ingestor import feedback, outcomes, store
from readmit_ingestor.metrics import OUTCOMES_RECORDED
from readmit_ingestor.outcomes_reading import MAX_BYTES, MAX_ERRORS, MAX_ROWS, BadOutcomes, read_csv, read_json

_READERS = {"application/json": read_json, "text/csv": read_csv}


class OutcomeGiven(BaseModel):
    """One outcome, as JSON; in CSV the same columns, with true, false, 1, 0, yes or no."""

    model_config = ConfigDict(extra="forbid")

    prediction_id: UUID
    readmitted_within_30_days: bool
    intervened: bool | None = None
    observed_at: AwareDatetime | None = None
    correction: bool = False


class Recorded(BaseModel):
    """What became of the outcomes. `unknown_predictions`: kept, and no prediction with such an id has come in yet."""

    recorded: int
    unchanged: int
    corrected: int
    unknown_predictions: int


class Waiting(BaseModel):
    """Labelled predictions that no batch holds yet, by the split of their patient."""

    train: int
    validation: int
    test: int


class SetAside(BaseModel):
    """Outcomes that no batch will hold, and why."""

    reason: str
    outcomes: int
    why: str


class OutcomesSummary(BaseModel):
    """What came back. A batch is made by itself when `waiting.train` reaches `batch_rows`."""

    recorded: int
    labelled: int
    unknown_predictions: int
    intervened: int
    corrected: int
    used: int
    waiting: Waiting
    batch_rows: int
    dataset_version: int | None
    set_aside: list[SetAside]


class FeedbackBatch(BaseModel):
    """A batch of feedback that is committed and announced."""

    dataset_version: int
    batch: int
    rows: int
    positives: int
    intervened: int
    validation_rows: int
    test_rows: int


_BODY: dict[str, Any] = {
    "requestBody": {
        "required": True,
        "content": {
            "application/json": {
                "schema": {
                    "anyOf": [
                        OutcomeGiven.model_json_schema(),
                        {"type": "array", "items": OutcomeGiven.model_json_schema(), "maxItems": MAX_ROWS},
                    ]
                }
            },
            "text/csv": {
                "schema": {"type": "string"},
                "example": "prediction_id,readmitted_within_30_days,intervened\n"
                "c0ffee00-1b2c-4d3e-8f4a-5b6c7d8e9f00,no,yes\n",
            },
        },
    }
}


def outcomes_router(pool: store.Pool, conninfo: str, batch_rows: int) -> APIRouter:
    """Everything under /outcomes and /feedback. `batch_rows`: rows of train patients in a batch of feedback."""
    router = APIRouter(tags=["outcomes"])

    @router.post(
        "/outcomes",
        response_model=Recorded,
        openapi_extra=_BODY,
        responses={status: {"model": Problem} for status in (409, 413, 415, 422)},
    )
    async def record(request: Request) -> Any:
        read = _READERS.get(request.headers.get("content-type", "").partition(";")[0].strip().lower())
        if read is None:
            return _problem(415, "Unsupported Media Type", f"send one of {', '.join(_READERS)}")
        body = await _body(request)
        if body is None:
            return _problem(413, "Content Too Large", f"more than {MAX_BYTES} bytes; send the outcomes in parts")
        try:
            given, repeated = await asyncio.to_thread(read, body)
            done = await outcomes.record(pool, given)
        except BadOutcomes as bad:
            return _problem(422, "Unprocessable Content", bad.reason, bad.errors)
        except outcomes.Conflict as conflict:
            return _conflict(conflict)
        recorded = Recorded(**(asdict(done) | {"unchanged": done.unchanged + repeated}))
        for kind, count in recorded.model_dump(exclude={"unknown_predictions"}).items():
            OUTCOMES_RECORDED.labels(kind).inc(count)
        return recorded

    @router.get("/outcomes/summary")
    async def summarise() -> OutcomesSummary:
        return OutcomesSummary.model_validate(await outcomes.summary(pool) | {"batch_rows": batch_rows})

    @router.post("/feedback/batches", response_model=FeedbackBatch, responses={409: {"model": Problem}})
    async def make() -> Any:
        try:
            return asdict(await asyncio.to_thread(feedback.make_batch, conninfo, batch_rows))
        except feedback.NothingMade as nothing:
            return _problem(409, "Conflict", nothing.reason)

    return router


async def _body(request: Request) -> bytes | None:
    """The body as it streams in; None as soon as it is too large."""
    body = bytearray()
    async for block in request.stream():
        body += block
        if len(body) > MAX_BYTES:
            return None
    return bytes(body)


def _conflict(conflict: outcomes.Conflict) -> JSONResponse:
    errors = [
        FieldError(
            field="prediction_id", value=str(prediction_id), problem="has another outcome on record",
            allowed="the same outcome, or one with correction = true",
        )
        for prediction_id in conflict.different
    ] + [
        FieldError(
            field="prediction_id", value=str(prediction_id),
            problem="has its outcome in a dataset already, where nothing changes", allowed="the same outcome",
        )
        for prediction_id in conflict.used
    ]  # fmt: skip
    shown = f"; {MAX_ERRORS} are shown" if len(errors) > MAX_ERRORS else ""
    detail = f"{len(errors)} predictions have another outcome already{shown}; nothing was recorded"
    return _problem(409, "Conflict", detail, errors[:MAX_ERRORS])


def _problem(status: int, title: str, detail: str, errors: list[FieldError] | None = None) -> JSONResponse:
    problem = Problem(type="about:blank", title=title, status=status, detail=detail, errors=errors or [])
    return JSONResponse(problem.model_dump(mode="json"), status, media_type="application/problem+json")
