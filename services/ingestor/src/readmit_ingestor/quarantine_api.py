"""The quarantine's REST: list, correct, drop and replay rows that did not fit the encounter schema."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import Annotated, Any
from uuid import uuid4

from fastapi import APIRouter, HTTPException, Query, Response
from fastapi.responses import JSONResponse
from pydantic import BaseModel, ConfigDict, Field

from readmit_chassis.envelope import new_envelope
from readmit_contracts.events import IngestionRequested
from readmit_contracts.prediction import FieldError, Problem
from readmit_ingestor import quarantine, store
from readmit_ingestor.api import Accepted

#: The largest version number that PostgreSQL's integer holds.
_Version = Annotated[int, Field(ge=1, le=2**31 - 1)]
_RowId = Annotated[int, Field(ge=1, le=2**63 - 1)]


class QuarantinedRow(BaseModel):
    """One row: where it stood, as it came, and every reason. `row` is a list where its width was wrong."""

    id: int
    dataset_version: int
    file: str
    line: int
    row: dict[str, str] | list[str]
    reasons: list[FieldError]
    status: quarantine.Status
    corrected: dict[str, str] | None
    note: str | None
    replayed_in: int | None
    changed_at: datetime | None


class QuarantinedRows(BaseModel):
    """A page; `next` is what `after` has to be for the one that follows."""

    rows: list[QuarantinedRow]
    next: int | None


class Reason(BaseModel):
    """How many rows of a version were refused for this, and what became of them."""

    dataset_version: int
    status: quarantine.Status
    field: str
    problem: str
    rows: int


class Summary(BaseModel):
    """Most frequent reasons first, at most 200."""

    reasons: list[Reason]


class Correction(BaseModel):
    """Cells to put in, by the column's name; null stands for a missing value."""

    model_config = ConfigDict(extra="forbid")

    values: Annotated[dict[str, str | int | float | None], Field(min_length=1, max_length=50)]


class ReplayRequest(BaseModel):
    """Which version; without one, the newest that has corrected rows."""

    model_config = ConfigDict(extra="forbid")

    dataset_version: _Version | None = None
    requested_by: Annotated[str, Field(min_length=1, max_length=200, pattern=r"^[^\x00]*$")] = "rest"


def quarantine_router(pool: store.Pool) -> APIRouter:
    """Everything under /quarantine."""
    router = APIRouter(tags=["quarantine"], prefix="/quarantine")

    @router.get("")
    async def list_rows(
        dataset_version: Annotated[int | None, Query(ge=1, le=2**31 - 1)] = None,
        status: quarantine.Status | None = None,
        field: Annotated[str | None, Query(max_length=64, pattern=r"^[^\x00]*$", description="a column's name")] = None,
        after: Annotated[int, Query(ge=0, le=2**63 - 1, description="`next` of the page before")] = 0,
        limit: Annotated[int, Query(ge=1, le=1000)] = 100,
    ) -> QuarantinedRows:
        found = await quarantine.rows(
            pool, dataset_version=dataset_version, status=status, field=field, after=after, limit=limit + 1
        )
        page = found[:limit]
        return QuarantinedRows.model_validate({"rows": page, "next": page[-1]["id"] if len(found) > limit else None})

    @router.get("/summary")
    async def summarise() -> Summary:
        return Summary.model_validate({"reasons": await quarantine.summary(pool)})

    @router.post("/replay", status_code=202)
    async def replay(request: ReplayRequest, response: Response) -> Accepted:
        version = await quarantine.waiting(pool, request.dataset_version)
        if version is None:
            which = "any dataset" if request.dataset_version is None else f"dataset {request.dataset_version}"
            raise HTTPException(
                409, f"no row of {which} is corrected and not yet replayed; PATCH /quarantine/{{id}} first"
            )
        event = IngestionRequested(
            request_id=uuid4(), source=f"quarantine:{version}", requested_by=request.requested_by,
            requested_at=datetime.now(UTC),
        )  # fmt: skip
        envelope = new_envelope(event.EVENT_TYPE, source="ingestor", subject=str(event.request_id))
        await store.request(pool, event, envelope)
        response.headers["Location"] = f"/ingestions/{event.request_id}"
        return Accepted(request_id=event.request_id)

    @router.get("/{row_id}", responses={404: {"description": "no such row"}})
    async def show_row(row_id: _RowId) -> QuarantinedRow:
        async with _told(row_id):
            return QuarantinedRow.model_validate(await quarantine.row(pool, row_id))

    @router.patch("/{row_id}", response_model=QuarantinedRow, responses={422: {"model": Problem}})
    async def correct(row_id: _RowId, correction: Correction) -> Any:
        async with _told(row_id):
            try:
                corrected = await quarantine.correct(pool, row_id, correction.values)
            except quarantine.StillBad as bad:
                problem = Problem(
                    type="about:blank", title="Unprocessable Content", status=422,
                    detail=f"row {row_id} would still not fit the encounter schema; nothing was changed",
                    errors=bad.errors,
                )  # fmt: skip
                return JSONResponse(problem.model_dump(mode="json"), 422, media_type="application/problem+json")
        await quarantine.show_counts(pool)
        return corrected

    @router.delete("/{row_id}")
    async def drop(
        row_id: _RowId,
        reason: Annotated[
            str, Query(min_length=1, max_length=500, pattern=r"^[^\x00]*$", description="for the record")
        ],
    ) -> QuarantinedRow:
        async with _told(row_id):
            dropped = await quarantine.drop(pool, row_id, reason)
        await quarantine.show_counts(pool)
        return QuarantinedRow.model_validate(dropped)

    return router


@asynccontextmanager
async def _told(row_id: int) -> AsyncIterator[None]:
    """What a row does not allow, as HTTP."""
    try:
        yield
    except quarantine.NoSuchRow as error:
        raise HTTPException(404, f"no quarantined row has the id {row_id}; GET /quarantine lists them") from error
    except quarantine.AlreadyReplayed as error:
        raise HTTPException(409, f"row {row_id} is replayed: it stands in another dataset version already") from error
