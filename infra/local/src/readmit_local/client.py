"""Asking the running services over REST, and asking for ingestion and training over Kafka."""

from __future__ import annotations

import asyncio
import os
from datetime import UTC, datetime
from typing import Any, Literal
from uuid import uuid4

import httpx
from pydantic import AliasChoices, BaseModel, ConfigDict, Field

from readmit_chassis.envelope import new_envelope
from readmit_chassis.kafka import make_broker, publish
from readmit_chassis.settings import KafkaSettings
from readmit_contracts.events import Event, IngestionRequested, ModelVersion, TrainedModel, TrainingRequested
from readmit_contracts.topics import INGESTION_REQUESTED, TRAINING_REQUESTED, Topic

#: What the platform's own clients of inference show, where it asks for a key. Locust and the notebook read it too.
API_KEY_VARIABLE = "READMIT_INFERENCE_API_KEY"


def key_headers() -> dict[str, str]:
    """What a request to inference carries, where a key is set."""
    key = os.environ.get(API_KEY_VARIABLE)
    return {} if key is None else {"x-api-key": key}


class _Seen(BaseModel):
    """What we read of an answer; the rest of it is not our business."""

    model_config = ConfigDict(frozen=True, extra="ignore")


class IngestionError(_Seen):
    """Why a source was not ingested."""

    code: str
    message: str


class Ingestion(_Seen):
    """One request to ingest a source, and how far it is."""

    request_id: str
    source: str
    status: Literal["requested", "running", "done", "unchanged", "failed"]
    stage: str | None = None
    bytes_done: int | None = None
    bytes_total: int | None = None
    rows_read: int | None = None
    rows_total: int | None = None
    rows_quarantined: int | None = None
    rows_excluded: int | None = None
    quarantined_by: dict[str, int] = Field(default_factory=dict)
    changes: dict[str, int] = Field(default_factory=dict)
    batches_written: int | None = None
    dataset_version: int | None = None
    synthetic: bool | None = None
    error: IngestionError | None = None

    @property
    def ended(self) -> bool:
        """Whether nothing more will happen to it."""
        return self.status in {"done", "unchanged", "failed"}

    @property
    def why_failed(self) -> str:
        """One line that names the source."""
        message = self.error.message if self.error else "failed without a reason; see `readmit logs ingestor`"
        return message if self.source in message else f"source {self.source}: {message}"


class Dataset(_Seen):
    """One ingested version of the data."""

    version: int = Field(validation_alias=AliasChoices("version", "dataset_version"))
    source: str
    synthetic: bool
    batches_total: int


class Job(_Seen):
    """One fit: a family on batches 1..batch."""

    batch: int
    family: str
    status: Literal["requested", "queued", "running", "done", "failed"]
    fit_seconds: float | None = None
    auroc: float | None = None
    model_version: str | None = None
    error: str | None = None


class Training(_Seen):
    """One request for training, and how it ended. `models`: every fit of the dataset version, once it has."""

    status: Literal["running", "done", "unchanged", "failed"]
    dataset_version: int | None = None
    models: tuple[TrainedModel, ...] = ()
    error: str | None = None


class Decision(_Seen):
    """What the promoter said about one candidate."""

    candidate: ModelVersion
    dataset_version: int
    batch: int
    outcome: Literal[
        "rejected", "promoted", "on_trial", "trial_failed", "waiting_for_approval", "refused", "superseded"
    ]
    reason: str
    auroc: float | None = None
    epoch: int | None = None


class Pod(_Seen):
    """What one inference process serves."""

    pod_id: str
    outcome: Literal["serving", "refused"]
    epoch: int
    model: ModelVersion
    load_ms: float
    reason: str | None = None


class Services:
    """The services of one stack, by their addresses. An answer that does not come is None."""

    def __init__(self, urls: dict[str, Any]) -> None:
        self._urls = urls
        # Never through a proxy: everything is on this machine.
        self._http = httpx.AsyncClient(trust_env=False, timeout=10)

    async def close(self) -> None:
        """Close connections."""
        await self._http.aclose()

    async def ingestion(self, request_id: str) -> Ingestion | None:
        """One request; None until the ingestor has heard of it."""
        answer = await self._get("ingestor", f"/ingestions/{request_id}")
        return None if answer is None else Ingestion.model_validate(answer)

    async def ingestions(self) -> list[Ingestion]:
        """The latest requests, newest first."""
        answer = await self._get("ingestor", "/ingestions")
        return [Ingestion.model_validate(each) for each in (answer or {}).get("ingestions", [])]

    async def datasets(self) -> list[Dataset]:
        """All versions of the data, oldest first."""
        answer = await self._get("ingestor", "/datasets")
        datasets = [Dataset.model_validate(each) for each in (answer or {}).get("datasets", [])]
        return sorted(datasets, key=lambda dataset: dataset.version)

    async def jobs(self, dataset_version: int) -> list[Job] | None:
        """The fits on one dataset."""
        answer = await self._get("trainer", f"/jobs?dataset_version={dataset_version}")
        return None if answer is None else [Job.model_validate(each) for each in answer["jobs"]]

    async def training(self, request_id: str) -> Training | None:
        """One request for training; None until the trainer has heard of it."""
        answer = await self._get("trainer", f"/trainings/{request_id}")
        return None if answer is None else Training.model_validate(answer)

    async def decisions(self) -> list[Decision] | None:
        """The latest decisions, newest first."""
        answer = await self._get("promoter", "/decisions?limit=500")
        return None if answer is None else [Decision.model_validate(each) for each in answer["decisions"]]

    async def pods(self) -> list[Pod] | None:
        """The last word of each pod."""
        answer = await self._get("promoter", "/pods")
        return None if answer is None else [Pod.model_validate(each) for each in answer["pods"]]

    async def champion(self) -> dict[str, Any] | None:
        """The model in service, as the promoter describes it."""
        answer = await self._get("promoter", "/champion")
        champion: dict[str, Any] | None = (answer or {}).get("champion")
        return champion

    async def predict(self, url: str, body: bytes) -> httpx.Response | None:
        """POST /predict to one pod."""
        try:
            headers = {"content-type": "application/json"} | key_headers()
            return await self._http.post(f"{url}/predict", content=body, headers=headers)
        except httpx.HTTPError:
            return None

    async def _get(self, service: str, path: str) -> dict[str, Any] | None:
        try:
            answer = await self._http.get(self._urls[service] + path)
            answer.raise_for_status()
            body: dict[str, Any] = answer.json()
        except (httpx.HTTPError, ValueError):
            return None  # being restarted, or not that far; we ask again
        return body


async def request_ingestion(
    bootstrap_servers: str, source: str, *, shuffled: bool = False, timeout_s: float = 30.0
) -> str:
    """Publish `ingestion.requested`; returns the id of the request. Raises `TimeoutError` when Kafka stays away."""
    event = IngestionRequested(
        request_id=uuid4(), source=source, requested_by="readmit", requested_at=datetime.now(UTC),
        batch_order="shuffled" if shuffled else None,
    )  # fmt: skip
    return await _ask(bootstrap_servers, INGESTION_REQUESTED, event, str(event.request_id), timeout_s)


async def request_training(
    bootstrap_servers: str, reason: str, *, dataset_version: int | None, force: bool, timeout_s: float = 30.0
) -> str:
    """Publish `training.requested`; returns the id of the request. Raises `TimeoutError` when Kafka stays away."""
    event = TrainingRequested(
        request_id=uuid4(), reason=reason, requested_by="readmit", requested_at=datetime.now(UTC),
        dataset_version=dataset_version, force=force,
    )  # fmt: skip
    return await _ask(bootstrap_servers, TRAINING_REQUESTED, event, str(event.request_id), timeout_s)


async def _ask(bootstrap_servers: str, topic: Topic, event: Event, request_id: str, timeout_s: float) -> str:
    # One message, so ordering by producer id gains nothing, and any broker takes it.
    broker = make_broker(KafkaSettings(bootstrap_servers=bootstrap_servers, idempotent_producer=False), "readmit")
    async with asyncio.timeout(timeout_s):
        try:
            await broker.start()
            envelope = new_envelope(event.EVENT_TYPE, source="readmit", subject=request_id)
            await publish(broker, topic=topic.name, key=request_id, event=event, envelope=envelope)
        finally:
            await broker.stop()
    return request_id
