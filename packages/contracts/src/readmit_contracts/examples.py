"""One example of every event, for documentation and for the tests of every consumer."""

from __future__ import annotations

from datetime import UTC, datetime
from uuid import UUID

from readmit_contracts.events import (
    ArtifactRef,
    BatchReady,
    DriftDetected,
    Event,
    FeatureDrift,
    IngestionFinished,
    IngestionRequested,
    ModelLoaded,
    ModelPromoted,
    ModelRegistered,
    ModelRejected,
    ModelVersion,
    PredictionMade,
    TrainedModel,
    TrainingFinished,
    TrainingRequested,
    ValidationScores,
)

_AT = datetime(2026, 11, 23, 9, 30, tzinfo=UTC)
_MODEL = ModelVersion(name="diabetes_readmission_lightgbm", version="5", family="lightgbm")
_BUNDLE = ArtifactRef(uri=f"s3://mlflow-artifacts/bundles/{'a1' * 32}", sha256="a1" * 32, size_bytes=512_000)

EXAMPLES: tuple[Event, ...] = (
    IngestionRequested(
        request_id=UUID("5f0c2b1e-5a3c-4f5e-9d0e-0a2f6f1c7b11"), source="uci", requested_by="readmit", requested_at=_AT
    ),
    IngestionFinished(
        request_id=UUID("5f0c2b1e-5a3c-4f5e-9d0e-0a2f6f1c7b11"),
        source="uci",
        outcome="done",
        dataset_version=1,
        synthetic=False,
        rows_read=101_766,
        rows_quarantined=0,
        rows_excluded=2_423,
        batches=5,
        finished_at=_AT,
    ),
    BatchReady(
        dataset_version=1,
        content_sha256="b2" * 32,
        schema_sha256="c3" * 32,
        batch=5,
        batches_total=5,
        rows=9_512,
        positives=1_066,
        batch_sha256="d4" * 32,
        synthetic=False,
    ),
    TrainingRequested(
        request_id=UUID("8a1d4a60-94a7-4f0c-8a0c-3c7f7f0d2e33"),
        reason="weekly",
        requested_by="airflow",
        requested_at=_AT,
        dataset_version=1,
        force=True,
    ),
    TrainingFinished(
        request_id=UUID("8a1d4a60-94a7-4f0c-8a0c-3c7f7f0d2e33"),
        outcome="done",
        dataset_version=1,
        models=(
            TrainedModel(family="lightgbm", batch=5, outcome="done", model=_MODEL, auroc=0.668, fit_seconds=4.2),
            TrainedModel(family="decision_tree", batch=5, outcome="failed", error="out of memory"),
        ),
        finished_at=_AT,
    ),
    ModelRegistered(
        model=_MODEL,
        run_id="0f1e2d3c4b5a69788796a5b4c3d2e1f0",
        dataset_version=1,
        batch=5,
        bundle=_BUNDLE,
        evidence=ArtifactRef(
            uri=f"s3://mlflow-artifacts/evidence/{'e5' * 32}/validation.npz", sha256="e5" * 32, size_bytes=370_000
        ),
        validation=ValidationScores(
            rows=14_900,
            positives=1_690,
            auroc=0.668,
            auroc_low=0.654,
            auroc_high=0.682,
            average_precision=0.215,
            brier=0.094,
            calibration_error=0.006,
            threshold=0.125,
            precision=0.186,
            recall=0.541,
            alert_rate=0.331,
        ),
        feature_spec_sha256="f6" * 32,
        code_version="0.1.0",
        synthetic=False,
    ),
    ModelPromoted(
        epoch=3,
        action="promotion",
        model=_MODEL,
        bundle=_BUNDLE,
        synthetic=False,
        previous=ModelVersion(name="diabetes_readmission_lightgbm", version="3", family="lightgbm"),
        decision_id=UUID("0b9b6f0a-2d1c-4f1b-8a57-6f3f6d1f2c22"),
        decided_by="promoter",
        reason="beats the champion beyond noise",
        decided_at=_AT,
    ),
    ModelRejected(
        decision_id=UUID("2b8b1c55-7d43-4a9b-9a15-1f6d5a0e4d44"),
        model=ModelVersion(name="diabetes_readmission_decision_tree", version="5", family="decision_tree"),
        dataset_version=1,
        batch=5,
        reason="not_better_beyond_noise",
        detail="AUROC -0.0210 against the champion (-0.0290 to -0.0130) on 14900 common rows",
        auroc=0.647,
        decided_by="promoter",
        decided_at=_AT,
    ),
    ModelLoaded(
        pod_id="inference-1",
        outcome="serving",
        epoch=3,
        model=_MODEL,
        sha256="a1" * 32,
        load_ms=84.2,
        at=_AT,
    ),
    PredictionMade(
        prediction_id=UUID("c0ffee00-1b2c-4d3e-8f4a-5b6c7d8e9f00"),
        pod_id="inference-1",
        model=_MODEL,
        sha256="a1" * 32,
        epoch=3,
        synthetic=False,
        risk=0.173,
        threshold=0.125,
        readmitted_within_30_days=True,
        latency_ms=0.41,
        patient_key="9d2c1f0a7b3e4d5c",
        features={"age": "[70-80)", "time_in_hospital": 5, "number_inpatient": 2, "insulin": "Up", "weight": None},
        at=_AT,
    ),
    DriftDetected(
        drift_id=UUID("7e57d00d-aaaa-4bbb-8ccc-0123456789ab"),
        model=_MODEL,
        epoch=3,
        reference_dataset_version=1,
        reference_rows=69_512,
        window_rows=2_000,
        window_from=_AT,
        window_to=datetime(2026, 11, 23, 10, 30, tzinfo=UTC),
        drifted=(FeatureDrift(feature="payer_code", psi=0.41, threshold=0.2),),
        synthetic=False,
        detected_at=datetime(2026, 11, 23, 10, 30, tzinfo=UTC),
    ),
)
