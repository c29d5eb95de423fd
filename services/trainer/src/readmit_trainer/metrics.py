"""All metrics of the trainer."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime
from typing import get_args

from prometheus_client import Counter, Gauge, Histogram

from readmit_trainer.domain import FAMILIES, FailureCode, Stage, Start

ATTEMPTS = Counter(
    "training_attempts_total",
    "Attempts at training jobs, by outcome. gave_up: read the job's error in GET /jobs. "
    "transient rising: MLflow or S3 is away. lease_lost: the trainer was stalled for longer than its lease.",
    ["family", "outcome"],
)
FAILURES = Counter(
    "training_failures_total",
    "Attempts that ended without a model, by reason: the code of the job's error in GET /jobs.",
    ["family", "code"],
)
SUPERSEDED = Counter(
    "training_jobs_superseded_total", "Jobs that were left out since a newer batch was there (TRAINER_SUPERSEDED=skip)."
)
STAGE = Gauge(
    "training_stage",
    "1 for the stage that a fit of the family is in, 0 for the others; all 0: none is running.",
    ["family", "stage"],
)
PROGRESS = Gauge(
    "training_progress_ratio",
    "Share of the present stage that is done, where it has countable steps (trials of a search), else 0.",
    ["family"],
)
FIT_SECONDS = Histogram(
    "training_fit_seconds",
    "Time of search and fit, without reading, validation and registration.",
    ["family"],
    buckets=(0.5, 1, 2, 5, 10, 30, 60, 300, 1800, 3600),
)
STARTS = Counter(
    "training_starts_total",
    "Fits that ended well, by what they began from. refused: a model to go on from could not be trusted, so the fit"
    " began anew; the log's warm_start_refused says why.",
    ["family", "start"],
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


def show_progress(family: str, stage: str | None, done: int = 0, total: int = 0) -> None:
    """The stage that a family's fit is in; None: it has ended."""
    for name in get_args(Stage):
        STAGE.labels(family, name).set(name == stage)
    PROGRESS.labels(family).set(done / total if total else 0.0)


# A rate needs a zero to start from.
for family in FAMILIES:
    for outcome in ("done", "failed", "transient", "gave_up", "lease_lost"):
        ATTEMPTS.labels(family, outcome)
    for start in get_args(Start):
        STARTS.labels(family, start)
    for code in get_args(FailureCode):
        FAILURES.labels(family, code)
    show_progress(family, None)
