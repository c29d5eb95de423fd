"""The REST face that derives decisions again: from the kept evidence, and under another policy."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import asdict
from typing import Annotated, Any, Literal, TypeVar
from uuid import UUID

from fastapi import APIRouter, Body, Depends, Request
from pydantic import BaseModel

from readmit_chassis.s3 import ObjectMissing, ObjectStore
from readmit_contracts.events import ArtifactRef
from readmit_promoter import store
from readmit_promoter.errors import DocumentError, NotAllowed, NotFound, PolicyError
from readmit_promoter.ledger import Judgement
from readmit_promoter.policy import Policy, parse_policy
from readmit_promoter.replay import DryRun, Replay, dry_run, replay
from readmit_promoter.roles import Doorkeeper

T = TypeVar("T")

#: Each takes seconds of a processor.
_WAITING = 8


class DifferenceView(BaseModel):
    """A figure that is not as it was kept. `gate` is null for the verdict as a whole."""

    gate: str | None
    entry: str
    kept: Any
    derived: Any


class ReplayAnswer(BaseModel):
    """`same`: to the byte. `not_kept`: decided before the ledger kept what a verdict follows from."""

    decision_id: UUID
    match: Literal["same", "differs", "evidence_missing", "not_kept"]
    differences: list[DifferenceView]
    detail: str


class ChangedGate(BaseModel):
    """A gate that says something else under the other policy."""

    gate: str
    before: str | None
    now: str | None


class TrialAnswer(BaseModel):
    """What another policy says of a past candidate, against the champion that it faced then."""

    decision_id: UUID
    outcome_before: str
    outcome: str | None
    reason: str | None
    detail: str
    changed: list[ChangedGate]


def replays_router(pool: store.Pool, doorkeeper: Doorkeeper, policy: Policy, objects: ObjectStore) -> APIRouter:
    """`/policy`, `/decisions/{id}/replay`, `/decisions/{id}/try`."""
    one_at_a_time = asyncio.Lock()
    waiting = 0

    def known(request: Request) -> str:
        return doorkeeper.reader(request)

    router = APIRouter(tags=["ledger"], dependencies=[Depends(known)])

    def fetch(reference: ArtifactRef) -> bytes | None:
        try:
            return objects.get(reference.uri)
        except ObjectMissing:
            return None

    async def document(decision_id: UUID) -> dict[str, Any]:
        async with store.transaction(pool) as connection:
            entry = await store.entry(connection, decision_id)
        if entry is None or not isinstance(entry.fact, Judgement):
            raise NotFound(f"There is no decision {decision_id}. `GET /decisions` lists them.")
        return entry.fact.decision

    async def derived(work: Callable[[], T]) -> T:
        nonlocal waiting
        if waiting >= _WAITING:
            raise NotAllowed("busy", f"{waiting} decisions are being derived: try again in some seconds.")
        waiting += 1
        try:
            async with one_at_a_time:
                return await asyncio.to_thread(work)
        finally:
            waiting -= 1

    @router.get("/policy", summary="The policy in force")
    async def show_policy() -> dict[str, Any]:
        """What a promotion takes, with the digest that each decision names."""
        return {"sha256": policy.sha256, **policy.document()}

    @router.post("/decisions/{decision_id}/replay", summary="Derive a decision again")
    async def post_replay(decision_id: UUID) -> ReplayAnswer:
        """Judge again from the kept inputs and the evidence that they name, and compare byte for byte."""
        kept = await document(decision_id)
        try:
            found: Replay = await derived(lambda: replay(kept, fetch))
        except DocumentError as error:
            return ReplayAnswer(decision_id=decision_id, match="not_kept", differences=[], detail=str(error))
        return ReplayAnswer(
            decision_id=decision_id,
            match=found.match.value,
            differences=[DifferenceView(**asdict(difference)) for difference in found.differences],
            detail=found.detail,
        )

    @router.post("/decisions/{decision_id}/try", summary="A decision under another policy")
    async def post_try(
        decision_id: UUID, body: Annotated[bytes, Body(media_type="application/yaml", max_length=64 * 1024)]
    ) -> TrialAnswer:
        """The policy is sent as its YAML file. Nothing is written."""
        kept = await document(decision_id)
        try:
            other = parse_policy(body, "the policy")
            [found] = await derived(lambda: list[DryRun](dry_run([(str(decision_id), kept)], other, fetch)))
        except PolicyError as error:
            raise NotAllowed("bad_policy", str(error)) from error
        except DocumentError as error:
            raise NotAllowed("not_kept", str(error)) from error
        return TrialAnswer(
            decision_id=decision_id,
            outcome_before=found.outcome_before,
            outcome=found.outcome,
            reason=found.reason,
            detail=found.detail,
            changed=[ChangedGate(**asdict(gate)) for gate in found.changed],
        )

    return router
