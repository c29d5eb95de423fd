"""What Kafka and HTTP ask of the trainer, decoded."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import asdict
from datetime import datetime
from typing import Annotated, Literal
from uuid import UUID

import psycopg
import structlog
from fastapi import APIRouter, Query
from pydantic import BaseModel

from readmit_chassis.envelope import Envelope
from readmit_chassis.failures import Transient
from readmit_contracts.events import BatchReady
from readmit_trainer.domain import FamilyName
from readmit_trainer.store import JobStore

log = structlog.get_logger()


def on_batch_ready(
    store: JobStore, families: tuple[FamilyName, ...], code_version: str, wake: Callable[[], None]
) -> Callable[[BatchReady, Envelope], Awaitable[None]]:
    """Turn the event into jobs and return at once: minutes of fitting must not hold a message."""

    async def handle(event: BatchReady, envelope: Envelope) -> None:
        try:
            added = await store.add_jobs(event, envelope, families, code_version)
        except psycopg.OperationalError as error:
            raise Transient(f"database not reachable: {error}") from error
        log.info("jobs_added", dataset_version=event.dataset_version, batch=event.batch, jobs=added)
        wake()

    return handle


class JobView(BaseModel):
    """One training job."""

    job_id: UUID
    dataset_version: int
    batch: int
    family: str
    status: Literal["queued", "running", "done", "failed"]
    attempts: int
    fit_seconds: float | None
    auroc: float | None
    model_version: str | None
    error: str | None
    started_at: datetime | None
    finished_at: datetime | None


class JobsView(BaseModel):
    """Jobs in working order."""

    jobs: list[JobView]


def jobs_router(store: JobStore) -> APIRouter:
    """`GET /jobs`."""
    router = APIRouter(tags=["jobs"])

    @router.get("/jobs")
    async def list_jobs(dataset_version: Annotated[int | None, Query(ge=1, le=2**31 - 1)] = None) -> JobsView:
        return JobsView(jobs=[JobView(**asdict(job)) for job in await store.jobs(dataset_version)])

    return router
