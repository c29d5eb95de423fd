"""What the ledger holds: one decision for each candidate, and what follows from all of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from uuid import UUID

from readmit_contracts.events import ModelPromoted, ModelRegistered, ModelRejected, ModelVersion
from readmit_promoter.canonical import Document
from readmit_promoter.verdict import Verdict

#: Who decides and announces.
SOURCE = "promoter"


@dataclass(frozen=True, slots=True)
class Decision:
    """A row of the ledger. `epoch` is None for a rejected candidate."""

    decision_id: UUID
    event: ModelRegistered
    verdict: Verdict
    epoch: int | None
    champion_before: ModelVersion | None
    champion_evidence_sha256: str | None
    kept: Document
    decided_at: datetime


class Stage(StrEnum):
    """MLflow's stages, as the original's clients know them."""

    PRODUCTION = "Production"
    STAGING = "Staging"
    ARCHIVED = "Archived"


@dataclass(frozen=True, slots=True)
class Standing:
    """Where one model version stands after all decisions."""

    model: ModelVersion
    stage: Stage


def standings(decisions: Sequence[Decision]) -> list[Standing]:
    """Champion: Production. Former champions: Archived. Candidates that never were: Staging."""
    champion = max((decision.epoch for decision in decisions if decision.epoch is not None), default=None)

    def stage(epoch: int | None) -> Stage:
        if epoch is None:
            return Stage.STAGING
        return Stage.PRODUCTION if epoch == champion else Stage.ARCHIVED

    return [Standing(decision.event.model, stage(decision.epoch)) for decision in decisions]


def announcement(decision: Decision) -> ModelPromoted:
    """The event that a promotion gives rise to; the same each time it is announced."""
    if decision.epoch is None:
        raise ValueError("a rejected candidate is not announced")
    return ModelPromoted(
        epoch=decision.epoch,
        action="promotion",
        model=decision.event.model,
        bundle=decision.event.bundle,
        synthetic=decision.event.synthetic,
        previous=decision.champion_before,
        decision_id=decision.decision_id,
        decided_by=SOURCE,
        reason=f"{decision.verdict.reason}: {decision.verdict.detail}",
        decided_at=decision.decided_at,
    )


def rejection(decision: Decision) -> ModelRejected:
    """The event that a rejection gives rise to."""
    if decision.epoch is not None:
        raise ValueError("a promoted candidate was not rejected")
    event, verdict = decision.event, decision.verdict
    return ModelRejected(
        decision_id=decision.decision_id,
        model=event.model,
        dataset_version=event.dataset_version,
        batch=event.batch,
        reason=verdict.reason.value,
        detail=verdict.detail,
        auroc=verdict.auroc.point if verdict.auroc else None,
        decided_by=SOURCE,
        decided_at=decision.decided_at,
    )
