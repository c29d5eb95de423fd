"""One example of every event, for documentation and for the tests of every consumer."""

from __future__ import annotations

from datetime import UTC, datetime
from uuid import UUID

from readmit_contracts.events import (
    ArtifactRef,
    BatchReady,
    Event,
    IngestionRequested,
    ModelLoaded,
    ModelPromoted,
    ModelRegistered,
    ModelVersion,
    ValidationScores,
)

_AT = datetime(2026, 11, 23, 9, 30, tzinfo=UTC)
_MODEL = ModelVersion(name="diabetes_readmission_lightgbm", version="5", family="lightgbm")
_BUNDLE = ArtifactRef(uri=f"s3://mlflow-artifacts/bundles/{'a1' * 32}", sha256="a1" * 32, size_bytes=512_000)

EXAMPLES: tuple[Event, ...] = (
    IngestionRequested(
        request_id=UUID("5f0c2b1e-5a3c-4f5e-9d0e-0a2f6f1c7b11"), source="uci", requested_by="readmit", requested_at=_AT
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
    ModelLoaded(
        pod_id="inference-1",
        outcome="serving",
        epoch=3,
        model=_MODEL,
        sha256="a1" * 32,
        load_ms=84.2,
        at=_AT,
    ),
)
