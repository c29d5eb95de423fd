"""Every event that crosses a service boundary: past-tense facts, one model each.

An event's payload carries ids, counts, digests and locations, never a patient's row; `prediction.made` alone carries
coded features, pseudonymised. The wire name (`EVENT_TYPE`) is a declared constant, so that renaming a class breaks
nobody. Consumers tolerate fields that they do not know; a field is only ever added as optional, and anything else is a
new version of the type.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Annotated, ClassVar, Literal, Self
from uuid import UUID

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, model_validator

Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$", description="SHA-256, 64 lower-case hex digits")]
Count = Annotated[int, Field(ge=0)]
Probability = Annotated[float, Field(ge=0.0, le=1.0)]
Role = Literal["champion", "challenger"]
_Split = Literal["train", "validation", "test"]
#: Of a feature, as cleaning makes it.
_Value = str | int | float | bool | None

# Infinity and NaN are no JSON, and no database or gate knows what to do with them.
_CONFIG = ConfigDict(frozen=True, extra="ignore", allow_inf_nan=False)
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_YEAR_10000_US = (datetime.max.replace(tzinfo=UTC) - _EPOCH) // timedelta(microseconds=1) + 1

#: The one stream of models that compete to be champion; key of `model.registered` and `model.promoted`.
MODEL_STREAM = "diabetes_readmission"


class Event(BaseModel):
    """Base of all events: immutable, tolerant of unknown fields."""

    model_config = _CONFIG

    EVENT_TYPE: ClassVar[str]


class ArtifactRef(BaseModel):
    """Where bytes lie and what their digest must be."""

    model_config = _CONFIG

    uri: Annotated[str, Field(pattern=r"^s3://", description="s3://bucket/prefix")]
    sha256: Sha256
    size_bytes: Count


class ModelVersion(BaseModel):
    """A registered model version, as MLflow knows it."""

    model_config = _CONFIG

    name: Annotated[str, Field(min_length=1, description="registered model, e.g. diabetes_readmission_lightgbm")]
    version: Annotated[str, Field(min_length=1, description="MLflow model version")]
    family: Annotated[str, Field(description="lightgbm, decision_tree or logistic_regression")]


class IngestionRequested(Event):
    """Someone asks for a source to be ingested."""

    EVENT_TYPE: ClassVar[str] = "readmit.ingestion.requested.v1"

    request_id: UUID
    source: Annotated[
        str,
        Field(
            min_length=1,
            description="file or folder, http(s) or s3 URL (a checksum may follow: `#sha256=…`), `uci`,"
            " `sample[:ROWS]`, or `quarantine:VERSION`: that version with its corrected rows",
        ),
    ]
    requested_by: Annotated[str, Field(min_length=1)]
    requested_at: AwareDatetime
    batch_order: Annotated[
        Literal["encounter", "shuffled"] | None,
        Field(description="order of the training rows; without it, encounter order, which preserves drift in time"),
    ] = None


class IngestionFinished(Event):
    """A requested ingestion has ended, one way or another; whoever asked need not poll."""

    EVENT_TYPE: ClassVar[str] = "readmit.ingestion.finished.v1"

    request_id: UUID
    source: str
    outcome: Annotated[
        Literal["done", "unchanged", "failed"], Field(description="unchanged: these bytes were there already")
    ]
    dataset_version: Annotated[int, Field(ge=1)] | None = None
    synthetic: bool | None = None
    rows_read: Count = 0
    rows_quarantined: Count = 0
    rows_excluded: Count = 0
    batches: Count = 0
    quarantined_by: Annotated[
        dict[str, int], Field(description="quarantined rows by `field: problem`, most frequent first, at most 20")
    ] = {}
    changes: Annotated[dict[str, int], Field(description="values that cleaning changed, by rule")] = {}
    error_code: str | None = None
    error_message: str | None = None
    finished_at: AwareDatetime


class BatchReady(Event):
    """The rows of one training batch are committed and will never change."""

    EVENT_TYPE: ClassVar[str] = "readmit.batch.ready.v1"

    dataset_version: Annotated[int, Field(ge=1)]
    content_sha256: Annotated[Sha256, Field(description="digest of the source's bytes")]
    schema_sha256: Annotated[Sha256, Field(description="digest of the encounter schema that cleaned the rows")]
    batch: Annotated[int, Field(ge=1, description="1-based")]
    batches_total: Annotated[int, Field(ge=1)]
    rows: Annotated[int, Field(ge=1)]
    positives: Count
    batch_sha256: Annotated[Sha256, Field(description="digest of the batch's cleaned rows, in order")]
    synthetic: bool
    origin: Annotated[
        Literal["source", "feedback"],
        Field(description="feedback: predictions whose outcome came back, appended to the version"),
    ] = "source"
    intervened: Annotated[Count, Field(description="rows in which somebody acted on the prediction")] = 0


class TrainingRequested(Event):
    """Someone (a schedule, a person, drift) asks for models to be trained on the data that is there."""

    EVENT_TYPE: ClassVar[str] = "readmit.training.requested.v1"

    request_id: UUID
    reason: Annotated[str, Field(min_length=1, description="why, for the record")]
    requested_by: Annotated[str, Field(min_length=1)]
    requested_at: AwareDatetime
    dataset_version: Annotated[int | None, Field(ge=1, description="without it, the newest")] = None
    force: Annotated[bool, Field(description="train again what has been trained on this data by this code")] = False


class TrainedModel(BaseModel):
    """One fit of a training request, by its figures."""

    model_config = _CONFIG

    family: str
    batch: Annotated[int, Field(ge=1, description="trained on batches 1..batch")]
    outcome: Literal["done", "failed"]
    model: ModelVersion | None = None
    auroc: Probability | None = None
    fit_seconds: Annotated[float, Field(ge=0)] | None = None
    error: str | None = None


class TrainingFinished(Event):
    """Every fit of a training request has ended."""

    EVENT_TYPE: ClassVar[str] = "readmit.training.finished.v1"

    request_id: UUID
    outcome: Annotated[
        Literal["done", "unchanged", "failed"],
        Field(description="unchanged: all was trained before; failed: a fit was given up, or there was no data"),
    ]
    dataset_version: Annotated[int, Field(ge=1)] | None = None
    models: Annotated[tuple[TrainedModel, ...], Field(description="what this dataset version has, newest fits")]
    error: str | None = None
    finished_at: AwareDatetime


class TrainingProgressed(Event):
    """A fit has reached its next stage. Told for people who watch; nobody's work depends on it."""

    EVENT_TYPE: ClassVar[str] = "readmit.training.progressed.v1"

    dataset_version: Annotated[int, Field(ge=1)]
    batch: Annotated[int, Field(ge=1)]
    family: str
    stage: Annotated[
        str, Field(description="reading, encoding, searching, fitting, validating or registering, in this order")
    ]
    attempt: Annotated[int, Field(ge=1)]
    at: AwareDatetime


class TrainingFailed(Event):
    """A fit was given up: there will be no model of this family on this batch by this code."""

    EVENT_TYPE: ClassVar[str] = "readmit.training.failed.v1"

    dataset_version: Annotated[int, Field(ge=1)]
    batch: Annotated[int, Field(ge=1)]
    family: str
    code: Annotated[str, Field(description="why, for programs: timeout, memory_limit, digest_mismatch, one_class, …")]
    error: Annotated[str, Field(description="why, for people")]
    attempts: Annotated[int, Field(ge=1)]
    code_version: str
    failed_at: AwareDatetime


class ValidationScores(BaseModel):
    """Scores on the validation split, with a 95 % interval (bootstrap clustered by patient)."""

    model_config = _CONFIG

    rows: Count
    positives: Count
    auroc: Probability
    auroc_low: Probability
    auroc_high: Probability
    average_precision: Probability
    brier: Probability
    calibration_error: Probability
    threshold: Annotated[Probability | None, Field(description="risk from which on a readmission is expected")] = None
    precision: Annotated[Probability | None, Field(description="at the threshold; absent when nobody is above")] = None
    recall: Annotated[Probability | None, Field(description="at the threshold")] = None
    alert_rate: Annotated[Probability | None, Field(description="share of encounters at or above the threshold")] = None


class ModelRegistered(Event):
    """A candidate stands in the registry, its bundle and its evidence in S3."""

    EVENT_TYPE: ClassVar[str] = "readmit.model.registered.v1"

    model: ModelVersion
    run_id: Annotated[str, Field(description="MLflow run")]
    dataset_version: Annotated[int, Field(ge=1)]
    batch: Annotated[int, Field(ge=1, description="trained on batches 1..batch")]
    bundle: ArtifactRef
    evidence: Annotated[ArtifactRef, Field(description="validation predictions, the input of every gate")]
    validation: ValidationScores
    feature_spec_sha256: Sha256
    code_version: str
    synthetic: bool
    data_at: Annotated[
        AwareDatetime | None, Field(description="when the newest batch that it was trained on was committed")
    ] = None


class ModelPromoted(Event):
    """Epoch *n*: this version is champion. The newest epoch wins; older ones are ignored."""

    EVENT_TYPE: ClassVar[str] = "readmit.model.promoted.v1"

    epoch: Annotated[int, Field(ge=1)]
    action: Literal["promotion", "rollback"]
    model: ModelVersion
    bundle: ArtifactRef
    synthetic: bool
    previous: ModelVersion | None
    decision_id: UUID
    decided_by: str
    reason: str
    decided_at: AwareDatetime
    validation_auroc: Annotated[
        Probability | None, Field(description="what the decision that accepted it measured; absent in old events")
    ] = None


class RolloutChanged(Event):
    """A challenger is tried beside the champion, or no longer. The newest revision wins; older ones are ignored.

    `shadow`: the champion answers, and what the challenger says of the same encounters is logged. `canary`: the
    challenger answers for a share of the patients. `ended`: nothing but the champion answers.
    """

    EVENT_TYPE: ClassVar[str] = "readmit.rollout.changed.v1"

    revision: Annotated[int, Field(ge=1, description="grows with each change of any rollout")]
    rollout_id: UUID
    stage: Literal["shadow", "canary", "ended"]
    challenger: ModelVersion
    bundle: ArtifactRef
    synthetic: bool
    share: Annotated[Probability, Field(description="of the patients whom the challenger answers; 0 but in a canary")]
    champion_epoch: Annotated[int, Field(ge=1, description="the promotion beside which it is tried")]
    reason: str
    changed_by: str
    changed_at: AwareDatetime


class ModelRejected(Event):
    """A gate said no to a candidate: which one, and its figures."""

    EVENT_TYPE: ClassVar[str] = "readmit.model.rejected.v1"

    decision_id: UUID
    model: ModelVersion
    dataset_version: Annotated[int, Field(ge=1)]
    batch: Annotated[int, Field(ge=1)]
    reason: Annotated[str, Field(description="the gate, e.g. not_better_beyond_noise")]
    detail: str
    auroc: Probability | None = None
    decided_by: str
    decided_at: AwareDatetime


class ModelLoaded(Event):
    """A pod says what it serves, or why it refused what was promoted; again and again, so that it is known to live."""

    EVENT_TYPE: ClassVar[str] = "readmit.model.loaded.v1"

    pod_id: Annotated[str, Field(min_length=1)]
    outcome: Literal["serving", "refused"]
    epoch: Annotated[int, Field(ge=1)]
    model: ModelVersion
    sha256: Sha256
    load_ms: Annotated[float, Field(ge=0)]
    reason: str | None = None
    role: Annotated[Role, Field(description="which of the two models this is about")] = "champion"
    rollout_revision: Annotated[int | None, Field(ge=1, description="of a challenger: what put it there")] = None
    occasion: Annotated[
        Literal["load", "heartbeat", "leaving"],
        Field(description="heartbeat: nothing is new; leaving: the pod drains, and will not be heard of again"),
    ] = "load"
    at: AwareDatetime


class OtherAnswer(BaseModel):
    """What the model that did not answer says of the same encounter."""

    model_config = _CONFIG

    role: Role
    model: ModelVersion
    sha256: Sha256
    risk: Annotated[Probability | None, Field(description="absent where the model failed")]
    readmitted_within_30_days: bool | None
    score_ms: Annotated[float, Field(ge=0, description="time that the model took, without reading and answering")]


class PredictionMade(BaseModel):
    """One answer of a pod, as `PredictionsMade` carries it among others."""

    model_config = _CONFIG

    prediction_id: UUID
    pod_id: str
    model: ModelVersion
    sha256: Sha256
    epoch: int
    synthetic: bool
    risk: Probability
    threshold: Probability
    readmitted_within_30_days: bool
    latency_ms: float
    patient_key: str | None = None
    split: _Split | None = None
    features: dict[str, _Value]
    role: Role = "champion"
    rollout_id: UUID | None = None
    other: OtherAnswer | None = None
    at: AwareDatetime


class Answers(BaseModel):
    """Answers in columns: the first item of each is the first answer's."""

    model_config = _CONFIG

    prediction_id: Annotated[tuple[UUID, ...], Field(min_length=1)]
    at_us: Annotated[
        tuple[Annotated[int, Field(ge=0, lt=_YEAR_10000_US)], ...],
        Field(description="when, in microseconds since 1970 (UTC)"),
    ]
    risk: tuple[Probability, ...]
    readmitted_within_30_days: tuple[bool, ...]
    latency_ms: tuple[Annotated[float, Field(ge=0)], ...]
    patient_key: Annotated[
        tuple[str | None, ...],
        Field(description="keyed hash of the patient's number, stable per deployment; never the number"),
    ]
    split: Annotated[
        tuple[_Split | None, ...],
        Field(description="where the patient's hash puts the patient, for ever; null without a patient's number"),
    ]
    features: Annotated[
        tuple[tuple[_Value, ...], ...],
        Field(description="cleaned values in the order of `feature_names`; the patient's and the encounter's number"
              " are not among them"),
    ]  # fmt: skip
    other: Annotated[
        tuple[OtherAnswer | None, ...] | None, Field(description="the other model's answers, in a rollout")
    ] = None

    @model_validator(mode="after")
    def _are_of_one_length(self) -> Self:
        lengths = {name: len(column) for name, column in self if column is not None}
        if len(set(lengths.values())) > 1:
            raise ValueError(f"columns of different lengths: {lengths}")
        return self


class PredictionsMade(Event):
    """A pod answered, once or some dozens of times. The one event with features: as coded, without any identifier.

    Answers of one model travel together, since the time that a pod takes to tell of each is taken from its requests.
    """

    EVENT_TYPE: ClassVar[str] = "readmit.prediction.made.v2"

    pod_id: Annotated[str, Field(min_length=1)]
    model: ModelVersion
    sha256: Annotated[Sha256, Field(description="digest of the bundle that answered")]
    epoch: Annotated[int, Field(ge=1)]
    synthetic: bool
    threshold: Probability
    role: Annotated[Role, Field(description="of the model that answered")] = "champion"
    rollout_id: Annotated[UUID | None, Field(description="the rollout under way, if any")] = None
    feature_names: Annotated[tuple[str, ...], Field(description="keys of the encounter schema")]
    answers: Answers

    @model_validator(mode="after")
    def _have_all_features(self) -> Self:
        if any(len(values) != len(self.feature_names) for values in self.answers.features):
            raise ValueError(f"an answer without exactly {len(self.feature_names)} features")
        return self

    def predictions(self) -> Iterator[PredictionMade]:
        """The answers one by one."""
        common = {name: getattr(self, name) for name in _OF_ALL}
        columns = self.answers
        others = columns.other or (None,) * len(columns.prediction_id)
        each = zip(
            columns.prediction_id, columns.at_us, columns.risk, columns.readmitted_within_30_days, columns.latency_ms,
            columns.patient_key, columns.split, columns.features, others, strict=True,
        )  # fmt: skip
        for name, at_us, risk, verdict, latency_ms, patient_key, split, features, other in each:
            # All of it is checked already.
            yield PredictionMade.model_construct(
                **common,
                prediction_id=name,
                at=_EPOCH + timedelta(microseconds=at_us),
                risk=risk,
                readmitted_within_30_days=verdict,
                latency_ms=latency_ms,
                patient_key=patient_key,
                split=split,
                features=dict(zip(self.feature_names, features, strict=True)),
                other=other,
            )


_OF_ALL = PredictionsMade.model_fields.keys() & PredictionMade.model_fields.keys()


class OutcomeRecorded(Event):
    """What happened to a patient for whom a prediction was made."""

    EVENT_TYPE: ClassVar[str] = "readmit.outcome.recorded.v1"

    prediction_id: UUID
    readmitted_within_30_days: bool
    intervened: Annotated[
        bool | None, Field(description="whether somebody acted on the prediction; absent when nobody said")
    ] = None
    observed_at: Annotated[AwareDatetime | None, Field(description="when the outcome was known")] = None
    correction: Annotated[bool, Field(description="replaces what was recorded before")] = False
    recorded_at: AwareDatetime


class FeatureDrift(BaseModel):
    """How far one feature, or the risk, has moved from its reference."""

    model_config = _CONFIG

    feature: Annotated[str, Field(description="key of the encounter schema, or `risk`")]
    psi: Annotated[float, Field(ge=0, description="population stability index")]
    threshold: Annotated[float, Field(ge=0)]


class DriftDetected(Event):
    """Served patients differ from the reference: which features, how much, against what."""

    EVENT_TYPE: ClassVar[str] = "readmit.drift.detected.v1"

    drift_id: UUID
    model: ModelVersion
    epoch: Annotated[int, Field(ge=1)]
    reference_dataset_version: Annotated[int, Field(ge=1)]
    reference_rows: Count
    window_rows: Count
    window_from: AwareDatetime
    window_to: AwareDatetime
    drifted: Annotated[tuple[FeatureDrift, ...], Field(min_length=1, description="largest first")]
    synthetic: bool
    detected_at: AwareDatetime


class DegradedFigure(BaseModel):
    """A figure of the champion in service whose whole interval is worse than its limit.

    `auroc`, or `calibration_in_the_large`: the share of readmissions less the mean risk.
    """

    model_config = _CONFIG

    name: Literal["auroc", "calibration_in_the_large"]
    value: float
    low: float
    high: float
    reference: Annotated[float, Field(description="on validation; 0 for calibration in the large")]
    limit: Annotated[float, Field(description="the reference and what is allowed to be lost from it")]


class PerformanceDegraded(Event):
    """The champion does worse in service than it was promoted for, as known outcomes show beyond chance."""

    EVENT_TYPE: ClassVar[str] = "readmit.performance.degraded.v1"

    degradation_id: UUID
    model: ModelVersion
    epoch: Annotated[int, Field(ge=1)]
    synthetic: bool
    window_rows: Annotated[Count, Field(description="predictions with an outcome on which nobody acted")]
    window_positives: Count
    window_from: AwareDatetime
    window_to: AwareDatetime
    degraded: Annotated[tuple[DegradedFigure, ...], Field(min_length=1)]
    detected_at: AwareDatetime


EVENTS: tuple[type[Event], ...] = (
    IngestionRequested,
    IngestionFinished,
    BatchReady,
    TrainingRequested,
    TrainingFinished,
    TrainingProgressed,
    TrainingFailed,
    ModelRegistered,
    ModelPromoted,
    ModelRejected,
    RolloutChanged,
    ModelLoaded,
    PredictionsMade,
    OutcomeRecorded,
    DriftDetected,
    PerformanceDegraded,
)

__all__ = [
    "EVENTS",
    "MODEL_STREAM",
    "Answers",
    "ArtifactRef",
    "BatchReady",
    "DegradedFigure",
    "DriftDetected",
    "Event",
    "FeatureDrift",
    "IngestionFinished",
    "IngestionRequested",
    "ModelLoaded",
    "ModelPromoted",
    "ModelRegistered",
    "ModelRejected",
    "ModelVersion",
    "OtherAnswer",
    "OutcomeRecorded",
    "PerformanceDegraded",
    "PredictionMade",
    "PredictionsMade",
    "Role",
    "RolloutChanged",
    "TrainedModel",
    "TrainingFailed",
    "TrainingFinished",
    "TrainingProgressed",
    "TrainingRequested",
    "ValidationScores",
]
