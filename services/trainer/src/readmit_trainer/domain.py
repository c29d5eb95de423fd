"""What the trainer decides, with no I/O: which jobs follow from a batch, and what one attempt takes and gives."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal
from uuid import UUID

from readmit_contracts.events import BatchReady, ModelRegistered

FamilyName = Literal["lightgbm", "decision_tree", "logistic_regression"]

#: All families, in the order in which a batch's jobs are run.
FAMILIES: tuple[FamilyName, ...] = ("lightgbm", "decision_tree", "logistic_regression")

MAX_ATTEMPTS = 3


@dataclass(frozen=True, slots=True)
class FitTask:
    """One job, as the fitting process gets it."""

    job_id: UUID
    batch: BatchReady
    family: FamilyName
    code_version: str


@dataclass(frozen=True, slots=True)
class FitDone:
    """One candidate, fitted, exported and registered."""

    registered: ModelRegistered
    fit_seconds: float


@dataclass(frozen=True, slots=True)
class FitFailed:
    """Why there is no candidate. Transient: a part was away; the attempt does not count."""

    transient: bool
    reason: str


def model_name(family: FamilyName) -> str:
    """Name of the family's registered model."""
    return f"diabetes_readmission_{family}"


def retry_pause_s(attempts: int) -> float:
    """How long a failed job rests before its next attempt."""
    return min(60.0, 2.0**attempts)


def decision_threshold(missed_cost: float) -> float:
    """Risk from which follow-up costs less than none, a needless one costing 1 (Elkan 2001, equation 2)."""
    return 1.0 / (1.0 + missed_cost)
