"""The REST face that reads: what was decided and why, who is champion, what the pods serve."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Annotated, Any, Literal
from uuid import UUID

from fastapi import APIRouter, Depends, Query, Request
from pydantic import AwareDatetime, BaseModel, Field

from readmit_contracts.events import ArtifactRef, ModelVersion
from readmit_promoter import governor, handlers, pods, store
from readmit_promoter.convergence import progress
from readmit_promoter.errors import NotFound
from readmit_promoter.governor import Progress, crown
from readmit_promoter.ledger import Convergence, Crowned, Entry, Judgement, RolloutStage
from readmit_promoter.roles import Doorkeeper
from readmit_promoter.rollout_policy import RolloutPolicy

Limit = Annotated[int, Query(ge=1, le=500)]


class DecisionView(BaseModel):
    """One judgement and what came of it. `difference` is AUROC less the champion's on common rows.

    `synthetic` and `evidence_sha256` are null where the announcement could not be read (`bad_announcement`).
    """

    decision_id: UUID
    candidate: ModelVersion
    dataset_version: int
    batch: int
    outcome: Progress
    verdict: str
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
    synthetic: bool | None
    evidence_sha256: str | None
    policy_version: str
    decided_at: datetime


class Decisions(BaseModel):
    """Newest first."""

    decisions: list[DecisionView]


class EntryView(BaseModel):
    """One line of the ledger as it was written, with its digest and that of the line before."""

    sequence: int
    entry_id: UUID
    kind: str
    at: AwareDatetime
    by: str
    reason: str
    fact: dict[str, Any]
    previous_sha256: str
    sha256: str


class WholeDecision(BaseModel):
    """A judgement with every gate and figure, and the entries that followed from it, oldest first."""

    decision: DecisionView
    judgement: EntryView
    followed_by: list[EntryView]


class Ledger(BaseModel):
    """Newest first."""

    entries: list[EntryView]


class Check(BaseModel):
    """Whether every entry is what its digest says and follows the one before."""

    entries: int
    intact: bool
    problems: list[str]


class Champion(ModelVersion):
    """The model that every pod should serve."""

    epoch: int
    action: Literal["promotion", "rollback"]
    bundle: ArtifactRef
    auroc: float | None
    synthetic: bool
    decided_at: datetime
    decided_by: str
    reason: str


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


class ArrivalView(BaseModel):
    """When a pod came to serve the promotion, in seconds after it was decided, or why it refuses it."""

    pod_id: str
    after_s: float
    refused: str | None


class PromotionProgress(BaseModel):
    """How far the newest promotion or rollback has come. `missing`: live pods that have not said anything of it."""

    epoch: int
    action: Literal["promotion", "rollback"]
    model: ModelVersion
    promoted_at: AwareDatetime
    status: Literal["converging", "converged", "failed"]
    why: str
    pods: list[ArrivalView]
    missing: list[str]
    first_s: float | None
    median_s: float | None
    last_s: float | None


class TrialProgress(BaseModel):
    """The candidate that is tried beside the champion, and what both have said so far."""

    rollout_id: UUID
    stage: Literal["shadow", "canary"]
    share: float
    challenger: ModelVersion
    began_at: AwareDatetime
    figures: dict[str, Any]
    refusing: dict[str, str]
    why: str


class RolloutAnswer(BaseModel):
    """`promotion` is null before the first one, `trial` while nobody is on trial."""

    promotion: PromotionProgress | None
    trial: TrialProgress | None
    frozen: bool
    candidates_waiting: Annotated[int, Field(description="for their judgement")]
    candidates_unanswered: Annotated[int, Field(description="judged, and waiting for a person's yes or no")]


def reading_router(pool: store.Pool, doorkeeper: Doorkeeper, rollout: RolloutPolicy) -> APIRouter:
    """`/decisions`, `/ledger`, `/champion`, `/pods`, `/rollout`."""

    def known(request: Request) -> str:
        return doorkeeper.reader(request)

    router = APIRouter(tags=["ledger"], dependencies=[Depends(known)])

    @router.get("/decisions", summary="Judgements")
    async def list_decisions(limit: Limit = 50) -> Decisions:
        """What was decided about candidates, newest first."""
        async with store.transaction(pool) as connection:
            found = await store.entries(connection, (Judgement.KIND,), limit)
            later = await store.following(connection, [entry.entry_id for entry in found])
            present = await store.champion(connection)
        return Decisions(decisions=[decision_view(entry, later[entry.entry_id], present) for entry in found])

    @router.get("/decisions/{decision_id}", summary="One judgement, whole")
    async def show_decision(decision_id: UUID) -> WholeDecision:
        """Every gate with its figures, the evidence's digests, the policy, and what came of it."""
        async with store.transaction(pool) as connection:
            entry = await store.entry(connection, decision_id)
            if entry is None or not isinstance(entry.fact, Judgement):
                raise NotFound(f"There is no decision {decision_id}. `GET /decisions` lists them.")
            later = (await store.following(connection, [decision_id]))[decision_id]
            present = await store.champion(connection)
        return WholeDecision(
            decision=decision_view(entry, later, present),
            judgement=entry_view(entry),
            followed_by=[entry_view(each) for each in later],
        )

    @router.get("/ledger", summary="Entries of the ledger")
    async def list_entries(
        limit: Limit = 50,
        before: Annotated[int | None, Query(ge=1, le=2**62, description="sequence numbers below this")] = None,
        kind: Annotated[list[str] | None, Query(description="entries of these kinds")] = None,
    ) -> Ledger:
        """Everything that was decided, by whom and why, newest first."""
        async with store.transaction(pool) as connection:
            found = await store.entries(connection, tuple(kind) if kind else None, limit, before)
        return Ledger(entries=[entry_view(entry) for entry in found])

    @router.get("/ledger/check", summary="Is the ledger intact?")
    async def check_ledger() -> Check:
        """Reads the whole ledger and derives every digest anew."""
        async with store.transaction(pool) as connection:
            entries, problems = await store.chain(connection)
        return Check(entries=entries, intact=not problems, problems=problems)

    @router.get("/champion", summary="The champion, now or at a time")
    async def show_champion(
        as_of: Annotated[AwareDatetime | None, Query(description="when; with a zone, e.g. 2026-11-28T12:00Z")] = None,
    ) -> ChampionAnswer:
        """The model that every pod should serve, or should have served at a time."""
        async with store.transaction(pool) as connection:
            found = await (store.champion(connection) if as_of is None else store.champion_at(connection, as_of))
            judgement = await store.entry(connection, crown(found).judgement_id) if found else None
        return ChampionAnswer(champion=_champion(found, judgement) if found else None)

    @router.get("/pods", summary="What each pod said last")
    async def list_pods(limit: Limit = 100) -> Pods:
        """Pods that have left are not among them; one that was killed stays, with the time of its last word."""
        async with store.transaction(pool) as connection:
            found = await pods.pods(connection, limit)
        return Pods(pods=[PodView.model_validate(pod.model_dump()) for pod in found])

    @router.get("/rollout", summary="How far the newest promotion has come, and the trial")
    async def show_rollout() -> RolloutAnswer:
        """Which pods serve the newest promotion, after what time, and the candidate on trial with its figures."""
        async with store.transaction(pool) as connection:
            return RolloutAnswer(
                promotion=await _promotion(connection, rollout),
                trial=await _trial(connection, rollout),
                frozen=await store.is_frozen(connection),
                candidates_waiting=await store.count_waiting(connection),
                candidates_unanswered=await store.count_unanswered(connection),
            )

    return router


def entry_view(entry: Entry) -> EntryView:
    """An entry as REST shows it."""
    return EntryView(
        sequence=entry.sequence,
        entry_id=entry.entry_id,
        kind=entry.fact.KIND,
        at=entry.at,
        by=entry.by,
        reason=entry.reason,
        fact=entry.fact.model_dump(mode="json"),
        previous_sha256=entry.previous_sha256,
        sha256=entry.sha256,
    )


def decision_view(entry: Entry, later: Sequence[Entry], present: Entry | None) -> DecisionView:
    """A judgement and where its candidate stands, from what came of it and the present champion."""
    fact = governor.of(entry)
    identity, verdict = fact.identity, fact.verdict
    candidate = None if fact.is_unread else fact.candidate
    outcome, epoch = governor.stands(entry, later, present)
    return DecisionView(
        decision_id=entry.entry_id,
        candidate=identity.model,
        dataset_version=identity.dataset_version,
        batch=identity.batch,
        outcome=outcome,
        verdict=verdict["outcome"],
        reason=verdict["reason"],
        detail=verdict["detail"],
        **_interval("auroc", verdict.get("auroc")),
        **_interval("difference", verdict.get("difference")),
        common_rows=verdict.get("common_rows"),
        epoch=epoch,
        champion_before=fact.champion.model if fact.champion else None,
        synthetic=candidate.synthetic if candidate else None,
        evidence_sha256=candidate.evidence.sha256 if candidate else None,
        policy_version=str(verdict.get("policy_version", "")),
        decided_at=entry.at,
    )


def _interval(name: str, figure: Mapping[str, float] | None) -> dict[str, float | None]:
    if figure is None:
        return dict.fromkeys((name, f"{name}_low", f"{name}_high"))
    return {name: figure["point"], f"{name}_low": figure["low"], f"{name}_high": figure["high"]}


def _champion(entry: Entry, judgement: Entry | None) -> Champion:
    fact = crown(entry)
    auroc = governor.of(judgement).verdict.get("auroc") if judgement else None
    return Champion(
        **fact.model.model_dump(),
        epoch=fact.epoch,
        action=_action(fact),
        bundle=fact.bundle,
        auroc=auroc["point"] if auroc else None,
        synthetic=fact.synthetic,
        decided_at=entry.at,
        decided_by=entry.by,
        reason=entry.reason,
    )


def _action(fact: Crowned) -> Literal["promotion", "rollback"]:
    return "rollback" if fact.KIND == "rollback" else "promotion"


async def _promotion(connection: store.Connection, rollout: RolloutPolicy) -> PromotionProgress | None:
    newest = await store.champion(connection)
    if newest is None:
        return None
    fact = crown(newest)
    live = await pods.live(connection, handlers.LIVE_S)
    arrivals = await pods.arrivals(connection, fact.epoch, newest.at)
    found = progress(fact.epoch, newest.at, datetime.now(UTC), live, arrivals, rollout.convergence)
    settled = await handlers.settled(connection, fact.epoch)
    measured: Convergence = settled.fact if settled else found.fact()  # type: ignore[assignment]
    return PromotionProgress(
        epoch=fact.epoch,
        action=_action(fact),
        model=fact.model,
        promoted_at=newest.at,
        status=("converged" if measured.converged else "failed") if settled else "converging",
        why=settled.reason if settled else found.why,
        pods=[ArrivalView(pod_id=a.pod_id, after_s=a.after_s, refused=a.refused) for a in found.arrivals],
        missing=list(found.missing),
        first_s=measured.first_s,
        median_s=measured.median_s,
        last_s=measured.last_s,
    )


async def _trial(connection: store.Connection, rollout: RolloutPolicy) -> TrialProgress | None:
    under_way = await governor.trial_under_way(connection)
    if under_way is None or not isinstance(under_way.fact, RolloutStage) or under_way.fact.stage == "ended":
        return None
    fact = under_way.fact
    figures, refusing, assessment = await handlers.assessed(connection, under_way, rollout)
    return TrialProgress(
        rollout_id=fact.rollout_id,
        stage=fact.stage,  # type: ignore[arg-type]  # not ended, as was asked above
        share=fact.share,
        challenger=fact.challenger,
        began_at=under_way.at,
        figures=figures.document(),
        refusing=refusing,
        why=assessment.why,
    )
