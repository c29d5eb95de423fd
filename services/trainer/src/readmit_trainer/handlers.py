"""What Kafka and HTTP ask of the trainer, decoded."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import asdict
from datetime import UTC, datetime
from typing import Annotated, Literal
from uuid import UUID, uuid4

import psycopg
import structlog
from fastapi import APIRouter, HTTPException, Query
from pydantic import BaseModel, ConfigDict, Field

from readmit_chassis.envelope import Envelope, new_envelope
from readmit_chassis.failures import BadMessage, Transient
from readmit_contracts.encounter import schema_sha256
from readmit_contracts.events import BatchReady, TrainedModel, TrainingRequested
from readmit_trainer.domain import FamilyName
from readmit_trainer.store import Announced, JobStore
from readmit_trainer.trainings import TrainingStore

log = structlog.get_logger()

#: What both Kafka and HTTP do with a request for training.
AskForTraining = Callable[[TrainingRequested, Envelope], Awaitable[None]]

_INT4 = 2**31 - 1
#: PostgreSQL keeps no NUL.
_TEXT = r"^[^\x00]*$"


def on_batch_ready(
    store: JobStore, families: tuple[FamilyName, ...], code_version: str, wake: Callable[[], None]
) -> Callable[[BatchReady, Envelope], Awaitable[None]]:
    """Turn the event into jobs and return at once: minutes of fitting must not hold a message."""

    async def handle(event: BatchReady, envelope: Envelope) -> None:
        try:
            refuse_unless_trainable(event, await store.announced(event))
            added = await store.add_jobs(event, envelope, families, code_version)
        except psycopg.OperationalError as error:
            raise Transient(f"database not reachable: {error}") from error
        log.info("jobs_added", dataset_version=event.dataset_version, batch=event.batch, jobs=added)
        wake()

    return handle


def refuse_unless_trainable(event: BatchReady, found: Announced | None) -> None:
    """BadMessage when no attempt could ever train on the batch: it keeps what is wrong and the next step."""
    batch = f"batch {event.batch} of dataset {event.dataset_version}"
    if found is None:
        raise BadMessage(f"{batch} is not in clean_data: ingest the source again")
    if found.sha256 != event.batch_sha256:
        raise BadMessage(
            f"{batch} has the digest {found.sha256}, {event.batch_sha256} was announced: ingest the source again"
        )
    if event.schema_sha256 != schema_sha256():
        raise BadMessage(
            f"{batch} was cleaned by the encounter schema {event.schema_sha256}, this trainer reads {schema_sha256()}:"
            " bring ingestor and trainer to one release, then ingest the source again"
        )
    if found.positives in {0, found.rows}:
        raise BadMessage(
            f"batches 1..{event.batch} of dataset {event.dataset_version} hold {found.rows} rows, {found.positives} of"
            " them readmitted: nothing can be learned from one class alone"
        )


def on_training_requested(
    store: TrainingStore, families: tuple[FamilyName, ...], code_version: str, wake: Callable[[], None]
) -> AskForTraining:
    """Note the request, queue what it takes and return at once; `training.finished` tells of its end."""

    async def handle(event: TrainingRequested, envelope: Envelope) -> None:
        try:
            await store.request(event, envelope, families, code_version)
        except psycopg.OperationalError as error:
            raise Transient(f"database not reachable: {error}") from error
        except psycopg.DataError as error:
            raise BadMessage(f"the request cannot be stored: {error}") from error
        log.info("training_requested", request_id=str(event.request_id), force=event.force)
        wake()

    return handle


class JobView(BaseModel):
    """One training job. `request_id`: the request that forced it, if one did."""

    job_id: UUID
    request_id: UUID | None
    dataset_version: int
    batch: int
    family: str
    status: Literal["queued", "running", "done", "failed", "superseded"]
    stage: str | None
    stage_done: int
    stage_total: int
    attempts: int
    fit_seconds: float | None
    auroc: float | None
    model_version: str | None
    error: str | None
    error_code: str | None
    started_at: datetime | None
    finished_at: datetime | None


class JobsView(BaseModel):
    """Jobs in working order."""

    jobs: list[JobView]


def jobs_router(store: JobStore) -> APIRouter:
    """`GET /jobs`."""
    router = APIRouter(tags=["jobs"])

    @router.get("/jobs")
    async def list_jobs(dataset_version: Annotated[int | None, Query(ge=1, le=_INT4)] = None) -> JobsView:
        return JobsView(jobs=[JobView(**asdict(job)) for job in await store.jobs(dataset_version)])

    return router


class Request(BaseModel):
    """Body of `POST /trainings`."""

    model_config = ConfigDict(extra="forbid")

    reason: Annotated[str, Field(min_length=1, max_length=500, pattern=_TEXT, description="why, for the record")]
    requested_by: Annotated[str, Field(min_length=1, max_length=200, pattern=_TEXT)] = "rest"
    dataset_version: Annotated[int | None, Field(ge=1, le=_INT4, description="without it, the newest")] = None
    force: Annotated[bool, Field(description="train the last batch again, though nothing is missing")] = False


class Accepted(BaseModel):
    """The request is noted and will be worked on."""

    request_id: UUID


class TrainingView(BaseModel):
    """One request and how far it is. `models` are there once it has ended, as in `training.finished`."""

    request_id: UUID
    reason: str
    requested_by: str
    requested_at: datetime
    force: bool
    status: Literal["running", "done", "unchanged", "failed"]
    dataset_version: int | None
    fits_total: int
    fits_ended: int
    models: list[TrainedModel]
    error: str | None
    finished_at: datetime | None


class TrainingsView(BaseModel):
    """The latest requests, newest first."""

    trainings: list[TrainingView]


def trainings_router(store: TrainingStore, ask: AskForTraining) -> APIRouter:
    """`/trainings`. `ask` is what `training.requested` does."""
    router = APIRouter(tags=["trainings"])

    @router.post("/trainings", status_code=202)
    async def ask_for_training(request: Request) -> Accepted:
        event = TrainingRequested(request_id=uuid4(), requested_at=datetime.now(UTC), **request.model_dump())
        await ask(event, new_envelope(event.EVENT_TYPE, source="trainer", subject=str(event.request_id)))
        return Accepted(request_id=event.request_id)

    @router.get("/trainings")
    async def list_trainings() -> TrainingsView:
        return TrainingsView(trainings=[TrainingView.model_validate(asdict(each)) for each in await store.trainings()])

    @router.get("/trainings/{request_id}")
    async def show_training(request_id: UUID) -> TrainingView:
        found = await store.training(request_id)
        if found is None:
            raise HTTPException(404, f"no training has the id {request_id}; GET /trainings lists the latest")
        return TrainingView.model_validate(asdict(found))

    return router
