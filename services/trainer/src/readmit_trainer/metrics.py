"""All metrics of the trainer."""

from __future__ import annotations

from prometheus_client import Counter, Gauge, Histogram

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
JOBS_WAITING = Gauge("training_jobs_waiting", "Jobs that are queued or running. Growing: add trainers.")
