"""The ingestor's REST: ask for an ingestion, see how far it is, see what there is."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated, Literal
from uuid import UUID, uuid4

from fastapi import APIRouter, HTTPException, Response
from pydantic import BaseModel, ConfigDict, Field

from readmit_chassis.envelope import new_envelope
from readmit_contracts.events import IngestionRequested
from readmit_ingestor import store

#: PostgreSQL keeps no NUL.
_TEXT = r"^[^\x00]*$"


class Request(BaseModel):
    """Body of `POST /ingestions`."""

    model_config = ConfigDict(extra="forbid")

    source: Annotated[
        str,
        Field(
            min_length=1,
            max_length=2000,
            pattern=_TEXT,
            description="file or folder, http(s) or s3 URL (a checksum may follow: `#sha256=…`), `uci`,"
            " `sample[:ROWS]`",
        ),
    ]
    requested_by: Annotated[str, Field(min_length=1, max_length=200, pattern=_TEXT)] = "rest"
    batch_order: Annotated[
        Literal["encounter", "shuffled"],
        Field(description="order of the training rows: encounter order preserves drift in time"),
    ] = "encounter"


class Accepted(BaseModel):
    """The request is noted and will be run."""

    request_id: UUID


class Fault(BaseModel):
    """Why an ingestion failed."""

    code: str
    message: str


class Ingestion(BaseModel):
    """One request and how far it is."""

    request_id: UUID
    source: str
    requested_by: str
    status: Literal["requested", "running", "done", "unchanged", "failed"]
    stage: str | None
    bytes_done: int | None
    bytes_total: int | None
    rows_read: int
    rows_total: int | None
    rows_quarantined: int
    rows_excluded: int
    quarantined_by: dict[str, int]
    changes: dict[str, int]
    batches_written: int
    batch_order: Literal["encounter", "shuffled"]
    dataset_version: int | None
    synthetic: bool | None
    error: Fault | None
    requested_at: datetime
    finished_at: datetime | None


class Ingestions(BaseModel):
    """The latest requests, newest first."""

    ingestions: list[Ingestion]


class Batch(BaseModel):
    """One training batch."""

    batch_id: int
    rows: int
    positives: int
    positive_share: float
    sha256: str
    schema_sha256: str
    synthetic: bool
    origin: Literal["source", "feedback"]
    intervened: int
    first_encounter_id: int | None
    last_encounter_id: int | None
    created_at: datetime


class Part(BaseModel):
    """One file of a source. `first_line` is what its line numbers were raised by in `raw_data.diabetes`."""

    name: str
    sha256: str
    first_line: int
    rows: int


class Dataset(BaseModel):
    """One version of the data."""

    version: int
    content_sha256: str
    schema_sha256: str
    source: str
    synthetic: bool
    rows_raw: int
    rows_quarantined: int
    rows_excluded: int
    batches_total: int
    batch_order: Literal["encounter", "shuffled"]
    batch_rows: int
    request_id: UUID | None
    previous_version: int | None
    replay_of: int | None
    parts: list[Part]
    changes: dict[str, int]
    created_at: datetime
    batches: list[Batch]


class Datasets(BaseModel):
    """Every version, oldest first."""

    datasets: list[Dataset]


def ingestion_router(pool: store.Pool) -> APIRouter:
    """All routes but the operational ones."""
    router = APIRouter(tags=["ingestion"])

    @router.post("/ingestions", status_code=202)
    async def ask(request: Request, response: Response) -> Accepted:
        event = IngestionRequested(request_id=uuid4(), requested_at=datetime.now(UTC), **request.model_dump())
        envelope = new_envelope(event.EVENT_TYPE, source="ingestor", subject=str(event.request_id))
        await store.request(pool, event, envelope)
        response.headers["Location"] = f"/ingestions/{event.request_id}"
        return Accepted(request_id=event.request_id)

    @router.get("/ingestions")
    async def list_ingestions() -> Ingestions:
        return Ingestions.model_validate({"ingestions": await store.ingestions(pool)})

    @router.get("/ingestions/{request_id}")
    async def show_ingestion(request_id: UUID) -> Ingestion:
        found = await store.ingestion(pool, request_id)
        if found is None:
            raise HTTPException(404, f"no ingestion has the id {request_id}; GET /ingestions lists the latest")
        return Ingestion.model_validate(found)

    @router.get("/datasets")
    async def list_datasets() -> Datasets:
        return Datasets.model_validate({"datasets": await store.datasets(pool)})

    return router
