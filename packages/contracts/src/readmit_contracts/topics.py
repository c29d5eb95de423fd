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
INGESTION_FINISHED = Topic(
    "ingestion.finished", events.IngestionFinished, "request id", 1, 30 * _DAY_MS,
    producers=("ingestor",), consumers=("any",),
)  # fmt: skip
BATCH_READY = Topic(
    "batch.ready", events.BatchReady, "dataset version", 3, 365 * _DAY_MS,
    producers=("ingestor",), consumers=("trainer", "monitor"),
)  # fmt: skip
TRAINING_REQUESTED = Topic(
    "training.requested", events.TrainingRequested, "request id", 1, 30 * _DAY_MS,
    producers=("promoter", "any"), consumers=("trainer",),
)  # fmt: skip
TRAINING_FINISHED = Topic(
    "training.finished", events.TrainingFinished, "request id", 1, 30 * _DAY_MS,
    producers=("trainer",), consumers=("any",),
)  # fmt: skip
TRAINING_PROGRESSED = Topic(
    "training.progressed", events.TrainingProgressed, "dataset version", 1, _DAY_MS,
    producers=("trainer",), consumers=("any",),
)  # fmt: skip
TRAINING_FAILED = Topic(
    "training.failed", events.TrainingFailed, "dataset version", 1, 365 * _DAY_MS,
    producers=("trainer",), consumers=("any",),
)  # fmt: skip
MODEL_REGISTERED = Topic(
    "model.registered", events.ModelRegistered, "model stream", 1, 365 * _DAY_MS,
    producers=("trainer",), consumers=("promoter",),
)  # fmt: skip
MODEL_PROMOTED = Topic(
    "model.promoted", events.ModelPromoted, "model stream", 1, None,
    producers=("promoter",), consumers=("inference", "monitor", "ui"),
)  # fmt: skip
MODEL_REJECTED = Topic(
    "model.rejected", events.ModelRejected, "model stream", 1, 365 * _DAY_MS,
    producers=("promoter",), consumers=("any",),
)  # fmt: skip
ROLLOUT_CHANGED = Topic(
    "rollout.changed", events.RolloutChanged, "model stream", 1, None,
    producers=("promoter",), consumers=("inference",),
)  # fmt: skip
MODEL_LOADED = Topic(
    "model.loaded", events.ModelLoaded, "pod id", 1, None,
    producers=("inference",), consumers=("promoter",),
)  # fmt: skip

PREDICTION_MADE = Topic(
    "prediction.made", events.PredictionsMade, "none", 3, 30 * _DAY_MS,
    producers=("inference",), consumers=("ingestor", "monitor", "promoter"),
)  # fmt: skip
OUTCOME_RECORDED = Topic(
    "outcome.recorded", events.OutcomeRecorded, "prediction id", 3, 365 * _DAY_MS,
    producers=("ingestor",), consumers=("monitor", "any"),
)  # fmt: skip
DRIFT_DETECTED = Topic(
    "drift.detected", events.DriftDetected, "model stream", 1, 365 * _DAY_MS,
    producers=("monitor",), consumers=("promoter",),
)  # fmt: skip
PERFORMANCE_DEGRADED = Topic(
    "performance.degraded", events.PerformanceDegraded, "model stream", 1, 365 * _DAY_MS,
    producers=("monitor",), consumers=("promoter",),
)  # fmt: skip

TOPICS: tuple[Topic, ...] = (
    INGESTION_REQUESTED,
    INGESTION_FINISHED,
    BATCH_READY,
    TRAINING_REQUESTED,
    TRAINING_FINISHED,
    TRAINING_PROGRESSED,
    TRAINING_FAILED,
    MODEL_REGISTERED,
    MODEL_PROMOTED,
    MODEL_REJECTED,
    ROLLOUT_CHANGED,
    MODEL_LOADED,
    PREDICTION_MADE,
    OUTCOME_RECORDED,
    DRIFT_DETECTED,
    PERFORMANCE_DEGRADED,
)

DEAD_LETTER_RETENTION_MS = 90 * _DAY_MS
