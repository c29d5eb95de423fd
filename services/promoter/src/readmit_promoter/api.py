"""The REST face: what was decided, who is champion, what the pods serve."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Literal
from uuid import UUID

from fastapi import APIRouter, Query
from pydantic import AwareDatetime, BaseModel

from readmit_contracts.events import ArtifactRef, ModelVersion
from readmit_promoter import store
from readmit_promoter.bootstrap import flattened
from readmit_promoter.ledger import Decision


class DecisionView(BaseModel):
    """One decision. `difference` is AUROC less the champion's on common rows, with its 90 % interval."""

    decision_id: UUID
    candidate: ModelVersion
    dataset_version: int
    batch: int
    outcome: Literal["promoted", "rejected"]
    reason: str
    detail: str
    auroc: float | None
    auroc_low: float | None
    auroc_high: float | None
    difference: float | None
    difference_low: float | None
    difference_high: float | None
    common_rows: int | None
    epoch: int | None
    champion_before: ModelVersion | None
    synthetic: bool
    evidence_sha256: str
    decided_at: datetime


class Decisions(BaseModel):
    """Newest first."""

    decisions: list[DecisionView]


class Champion(ModelVersion):
    """The model that every pod should serve."""

    epoch: int
    bundle: ArtifactRef
    auroc: float | None
    synthetic: bool
    decided_at: datetime


class ChampionAnswer(BaseModel):
    """`champion` is null before the first promotion."""

    champion: Champion | None


class PodView(BaseModel):
    """The last word of one pod."""

    pod_id: str
    outcome: Literal["serving", "refused"]
    epoch: int
    model: ModelVersion
    sha256: str
    load_ms: float
    reason: str | None
    at: AwareDatetime


class Pods(BaseModel):
    """Newest first."""

    pods: list[PodView]


def ledger_router(pool: store.Pool) -> APIRouter:
    """`/decisions`, `/champion`, `/pods`."""
    router = APIRouter(tags=["ledger"])

    @router.get("/decisions")
    async def list_decisions(limit: Annotated[int, Query(ge=1, le=500)] = 50) -> Decisions:
        async with store.transaction(pool) as connection:
            return Decisions(decisions=[_view(found) for found in await store.decisions(connection, limit)])

    @router.get("/champion")
    async def show_champion() -> ChampionAnswer:
        async with store.transaction(pool) as connection:
            found = await store.champion(connection)
        return ChampionAnswer(champion=_champion(found) if found else None)

    @router.get("/pods")
    async def list_pods(limit: Annotated[int, Query(ge=1, le=500)] = 100) -> Pods:
        async with store.transaction(pool) as connection:
            found = await store.pods(connection, limit)
        return Pods(pods=[PodView.model_validate(pod.model_dump()) for pod in found])

    return router


def _view(decision: Decision) -> DecisionView:
    event, verdict = decision.event, decision.verdict
    return DecisionView(
        decision_id=decision.decision_id,
        candidate=event.model,
        dataset_version=event.dataset_version,
        batch=event.batch,
        outcome=store.outcome(verdict),
        reason=verdict.reason,
        detail=verdict.detail,
        **flattened("auroc", verdict.auroc),
        **flattened("difference", verdict.difference),
        common_rows=verdict.common_rows,
        epoch=decision.epoch,
        champion_before=decision.champion_before,
        synthetic=event.synthetic,
        evidence_sha256=event.evidence.sha256,
        decided_at=decision.decided_at,
    )


def _champion(decision: Decision) -> Champion:
    if decision.epoch is None:
        raise ValueError("a rejected candidate is no champion")
    return Champion(
        **decision.event.model.model_dump(),
        epoch=decision.epoch,
        bundle=decision.event.bundle,
        auroc=decision.verdict.auroc.point if decision.verdict.auroc else None,
        synthetic=decision.event.synthetic,
        decided_at=decision.decided_at,
    )
