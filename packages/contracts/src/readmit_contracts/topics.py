"""The topic table: what each topic carries, who writes it, who reads it, how long it keeps.

`infra/kafka/topics.yaml` is generated from here (`python -m readmit_contracts`); brokers never create topics by
themselves.
"""

from __future__ import annotations

from dataclasses import dataclass

from readmit_contracts import events
from readmit_contracts.events import Event

_DAY_MS = 24 * 3600 * 1000


@dataclass(frozen=True, slots=True)
class Topic:
    """One topic. `retention_ms` None means compacted: the newest event per key is kept for ever."""

    name: str
    event: type[Event]
    key: str
    partitions: int
    retention_ms: int | None
    producers: tuple[str, ...]
    consumers: tuple[str, ...]

    @property
    def dead_letter(self) -> str:
        """Name of the topic that keeps what no consumer could understand."""
        return f"{self.name}.dlt"

    def config(self) -> dict[str, str]:
        """Broker-side settings of the topic."""
        if self.retention_ms is None:
            return {"cleanup.policy": "compact"}
        return {"cleanup.policy": "delete", "retention.ms": str(self.retention_ms)}


INGESTION_REQUESTED = Topic(
    "ingestion.requested", events.IngestionRequested, "request id", 1, 30 * _DAY_MS,
    producers=("readmit", "any"), consumers=("ingestor",),
)  # fmt: skip
BATCH_READY = Topic(
    "batch.ready", events.BatchReady, "dataset version", 3, 365 * _DAY_MS,
    producers=("ingestor",), consumers=("trainer",),
)  # fmt: skip
MODEL_REGISTERED = Topic(
    "model.registered", events.ModelRegistered, "model stream", 1, 365 * _DAY_MS,
    producers=("trainer",), consumers=("promoter",),
)  # fmt: skip
MODEL_PROMOTED = Topic(
    "model.promoted", events.ModelPromoted, "model stream", 1, None,
    producers=("promoter",), consumers=("inference", "ui"),
)  # fmt: skip
MODEL_LOADED = Topic(
    "model.loaded", events.ModelLoaded, "pod id", 1, None,
    producers=("inference",), consumers=("promoter",),
)  # fmt: skip

TOPICS: tuple[Topic, ...] = (INGESTION_REQUESTED, BATCH_READY, MODEL_REGISTERED, MODEL_PROMOTED, MODEL_LOADED)

DEAD_LETTER_RETENTION_MS = 90 * _DAY_MS
