"""All metrics of the trainer."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime

from prometheus_client import Counter, Gauge, Histogram

from readmit_trainer.domain import FAMILIES

ATTEMPTS = Counter(
    "training_attempts_total",
    "Attempts at training jobs, by outcome. gave_up: read the job's error in GET /jobs. "
    "transient rising: MLflow or S3 is away. lease_lost: the trainer was stalled for longer than its lease.",
    ["family", "outcome"],
)
FIT_SECONDS = Histogram(
    "training_fit_seconds",
    "Time of the fit itself, without reading, validation and registration.",
    ["family"],
    buckets=(0.5, 1, 2, 5, 10, 30, 60, 300, 1800, 3600),
)
VALIDATION_AUROC = Gauge(
    "training_validation_auroc",
    "Validation AUROC of the newest fit of a family. Falling: look at the newest batch, and at drift.",
    ["family"],
)
LAST_FIT = Gauge(
    "training_last_fit_timestamp_seconds", "When a fit last ended well. Long ago: no batch and no request came."
)
JOBS_WAITING = Gauge("training_jobs_waiting", "Jobs that are queued or running. Growing: add trainers.")


def show_fits(newest: Iterable[tuple[str, float, datetime]]) -> None:
    """Bring the gauges of fits up to date: family, validation AUROC and end of each family's newest fit."""
    ends = []
    for family, auroc, ended in newest:
        VALIDATION_AUROC.labels(family).set(auroc)
        ends.append(ended.timestamp())
    if ends:
        LAST_FIT.set(max(ends))


# A rate needs a zero to start from.
for family in FAMILIES:
    for outcome in ("done", "failed", "transient", "gave_up", "lease_lost"):
        ATTEMPTS.labels(family, outcome)
