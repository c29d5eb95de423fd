"""What the trainer decides, with no I/O: which jobs follow from a batch, and what one attempt takes and gives."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal
from uuid import UUID

from readmit_contracts.events import BatchReady, ModelRegistered

FamilyName = Literal["lightgbm", "decision_tree", "logistic_regression"]

#: All families, in the order in which a batch's jobs are run.
FAMILIES: tuple[FamilyName, ...] = ("lightgbm", "decision_tree", "logistic_regression")

#: Those that can go on from their model of an earlier batch.
WARM_STARTING: frozenset[FamilyName] = frozenset({"lightgbm"})

#: What a fit began from: nothing, its model of an earlier batch, or nothing since that one could not be trusted.
Start = Literal["cold", "warm", "refused"]

#: How a request for training ends.
Outcome = Literal["done", "unchanged", "failed"]

#: Where an attempt is.
Stage = Literal["reading", "encoding", "searching", "fitting", "validating", "registering"]

#: Why an attempt ended without a model.
FailureCode = Literal[
    "timeout", "memory_limit", "worker_died", "bad_data", "digest_mismatch", "one_class", "missing_column",
    "unknown_schema", "database_away", "mlflow_away", "s3_away", "dask_away", "disk_full", "parity", "bug",
]  # fmt: skip

MAX_ATTEMPTS = 3


#: Data and code do not change between attempts, so these fail for good at once.
FINAL: frozenset[FailureCode] = frozenset(
    {"bad_data", "digest_mismatch", "one_class", "missing_column", "unknown_schema", "parity"}
)


@dataclass(frozen=True, slots=True)
class FitTask:
    """One job, as the fitting process gets it."""

    job_id: UUID
    batch: BatchReady
    family: FamilyName
    code_version: str
    request_id: UUID | None = None  #: the request that forced it; None: the batch gave rise to it


@dataclass(frozen=True, slots=True)
class FitDone:
    """One candidate, fitted, exported and registered."""

    registered: ModelRegistered
    fit_seconds: float
    start: Start = "cold"


@dataclass(frozen=True, slots=True)
class FitFailed:
    """Why there is no candidate. Transient: a part was away; the attempt does not count."""

    transient: bool
    reason: str
    code: FailureCode = "bug"


@dataclass(frozen=True, slots=True)
class Progress:
    """How far an attempt is: its stage and, where a stage has countable steps, how many are done of how many."""

    stage: Stage
    done: int = 0
    total: int = 0


@dataclass(frozen=True, slots=True)
class KnownJob:
    """A job of a dataset version by the present code, as a new request finds it."""

    job_id: UUID
    batch: int
    family: str
    status: str
    forced: bool


@dataclass(frozen=True, slots=True)
class Plan:
    """What a request takes: jobs to wait for, failed jobs to try again, and jobs that are not there yet."""

    on_their_way: tuple[UUID, ...]
    again: tuple[UUID, ...]
    new: tuple[tuple[BatchReady, FamilyName], ...]


def plan(
    batches: Sequence[BatchReady], families: Sequence[FamilyName], known: Sequence[KnownJob], *, force: bool
) -> Plan:
    """What is missing: every batch and family without a model.

    Forced: the last batch again, which is trained on the rows of all batches; models of fewer rows would be of no use.
    What is on its way is waited for and not doubled: it would give the same bytes.
    """
    on_their_way: list[UUID] = []
    again: list[UUID] = []
    new: list[tuple[BatchReady, FamilyName]] = []
    for batch in batches[-1:] if force else batches:
        for family in families:
            jobs = [job for job in known if (job.batch, job.family) == (batch.batch, family)]
            if not force and any(job.status == "done" for job in jobs):
                continue
            open_jobs = [job.job_id for job in jobs if job.status in {"queued", "running"}]
            ended = {"failed", "superseded"}
            failed = [job.job_id for job in jobs if job.status in ended and not job.forced and not force]
            on_their_way += open_jobs
            if not open_jobs and failed:
                again += failed
            elif not open_jobs:
                new.append((batch, family))
    return Plan(tuple(on_their_way), tuple(again), tuple(new))


def describe_failures(failures: Sequence[tuple[str, int, str]], fits: int) -> str:
    """One line on fits (family, batch, error) that were given up."""
    said = "; ".join(f"{family} on batches 1..{batch}: {error}" for family, batch, error in failures)
    return f"{len(failures)} of {fits} fits failed: {said}"


def consumer_group(families: Sequence[FamilyName]) -> str:
    """Trainers of the same families share their work; those of others hear every event for themselves."""
    return "trainer" if set(families) == set(FAMILIES) else f"trainer-{'+'.join(sorted(families))}"


def model_name(family: FamilyName) -> str:
    """Name of the family's registered model."""
    return f"diabetes_readmission_{family}"


def retry_pause_s(attempts: int) -> float:
    """How long a failed job rests before its next attempt."""
    return min(60.0, 2.0**attempts)


def decision_threshold(missed_cost: float) -> float:
    """Risk from which follow-up costs less than none, a needless one costing 1 (Elkan 2001, equation 2)."""
    return 1.0 / (1.0 + missed_cost)
