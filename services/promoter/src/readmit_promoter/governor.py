"""What changes the champion, and what may: every step is entries of the ledger and the events that tell of them.

All of it happens inside the transaction that the caller holds the ledger's lock in (`store.writing`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from enum import StrEnum
from itertools import pairwise
from typing import Any
from uuid import UUID, uuid4

from readmit_chassis.envelope import Envelope, new_envelope
from readmit_chassis.outbox import enqueue
from readmit_contracts.events import (
    MODEL_STREAM,
    ModelPromoted,
    ModelRejected,
    RolloutChanged,
    TrainingRequested,
)
from readmit_contracts.topics import MODEL_PROMOTED, MODEL_REJECTED, ROLLOUT_CHANGED, TRAINING_REQUESTED
from readmit_promoter import pods, store
from readmit_promoter.errors import NotAllowed
from readmit_promoter.ledger import (
    SOURCE,
    Approval,
    Crowned,
    Denial,
    Entry,
    Freeze,
    Judgement,
    Promotion,
    Refusal,
    Rollback,
    RolloutStage,
    Unfreeze,
)
from readmit_promoter.rollout_policy import RolloutPolicy
from readmit_promoter.store import Connection
from readmit_promoter.verdict import Outcome, Reason

#: A trial takes a champion of the same kind to be tried beside.
_WITHOUT_TRIAL = frozenset({Reason.FIRST_CHAMPION, Reason.REAL_REPLACES_SYNTHETIC})


class Progress(StrEnum):
    """Where a judged candidate stands."""

    REJECTED = "rejected"
    PROMOTED = "promoted"
    ON_TRIAL = "on_trial"
    TRIAL_FAILED = "trial_failed"
    WAITING = "waiting_for_approval"
    REFUSED = "refused"
    SUPERSEDED = "superseded"


def of(entry: Entry) -> Judgement:
    """The judgement that an entry holds. Raises TypeError where it holds none."""
    if not isinstance(entry.fact, Judgement):
        raise TypeError(f"entry {entry.sequence} is no judgement")
    return entry.fact


def crown(entry: Entry) -> Crowned:
    """The promotion or rollback that an entry holds. Raises TypeError where it holds none."""
    if not isinstance(entry.fact, Crowned):
        raise TypeError(f"entry {entry.sequence} crowns nobody")
    return entry.fact


async def after_judgement(connection: Connection, judgement: Entry, policy: RolloutPolicy, cause: Envelope) -> Progress:
    """What follows from a judgement that was just written."""
    verdict = of(judgement).verdict
    if verdict["outcome"] == Outcome.REJECTED:
        await _announce_rejection(connection, judgement, cause)
        return Progress.REJECTED
    if verdict["outcome"] == Outcome.HELD or policy.approval == "manual":
        return Progress.WAITING
    return await accept(connection, judgement, policy, by=SOURCE, reason=_why(verdict), cause=cause)


async def accept(
    connection: Connection, judgement: Entry, policy: RolloutPolicy, *, by: str, reason: str, cause: Envelope | None
) -> Progress:
    """Promote an accepted candidate, or begin its trial."""
    if policy.trial and of(judgement).verdict["reason"] not in _WITHOUT_TRIAL:
        await enter_stage(connection, judgement, policy, 0, by=by, reason=reason, cause=cause)
        return Progress.ON_TRIAL
    await promote(connection, judgement, by=by, reason=reason, cause=cause)
    return Progress.PROMOTED


async def promote(connection: Connection, judgement: Entry, *, by: str, reason: str, cause: Envelope | None) -> Entry:
    """Make a candidate champion."""
    event = of(judgement).candidate
    present = await store.champion(connection)
    fact = Promotion(
        epoch=crown(present).epoch + 1 if present else 1,
        model=event.model,
        bundle=event.bundle,
        evidence=event.evidence,
        synthetic=event.synthetic,
        previous=crown(present).model if present else None,
        judgement_id=judgement.entry_id,
    )
    entry = await store.append(connection, fact, by=by, reason=reason)
    await announce(connection, entry, cause)
    return entry


async def roll_back(
    connection: Connection, *, to: tuple[str, str] | None, by: str, reason: str, cause: Envelope | None = None
) -> Entry:
    """Make a former champion champion again: the one before the present, or `to` (name, version).

    Raises `NotAllowed`. A trial under way ends: its champion is gone.
    """
    history = await store.crowned(connection)
    if not history:
        raise NotAllowed("nothing_promoted", "There is no champion yet: there is nothing to go back from.")
    present = crown(history[0])
    target = _target(history, present, to)
    await end_trial(connection, passed=False, by=by, reason=f"rollback: {reason}", cause=cause)
    restored = crown(target)
    fact = Rollback(
        epoch=present.epoch + 1,
        model=restored.model,
        bundle=restored.bundle,
        evidence=restored.evidence,
        synthetic=restored.synthetic,
        previous=present.model,
        judgement_id=restored.judgement_id,
        restored_epoch=restored.epoch,
    )
    entry = await store.append(connection, fact, by=by, reason=reason)
    await announce(connection, entry, cause)
    return entry


def _target(history: list[Entry], present: Crowned, to: tuple[str, str] | None) -> Entry:
    others = [entry for entry in history if crown(entry).bundle.sha256 != present.bundle.sha256]
    if to is None:
        # Not the one that was rolled back from: going back twice goes back further.
        given_up = _given_up(history)
        found = next((entry for entry in others if crown(entry).bundle.sha256 not in given_up), None)
        if found is None:
            raise NotAllowed("nothing_before", "There is no champion before the present one. Name one with `to`.")
        return found
    for entry in history:
        model = crown(entry).model
        if (model.name, model.version) == to:
            if crown(entry).bundle.sha256 == present.bundle.sha256:
                raise NotAllowed("already_champion", f"{model.name} version {model.version} is champion now.")
            return entry
    known = sorted({f"{crown(entry).model.name} version {crown(entry).model.version}" for entry in others})
    allowed = f" Allowed: {', '.join(known)}." if known else ""
    raise NotAllowed("never_served", f"{to[0]} version {to[1]} has never been champion.{allowed}")


def _given_up(history: list[Entry]) -> set[str]:
    """Digests of what was rolled back from, since the newest promotion that was no rollback and stands."""
    given_up: set[str] = set()
    for newer, older in pairwise(history):
        if not isinstance(newer.fact, Rollback):
            break
        given_up.add(crown(older).bundle.sha256)
    return given_up


async def freeze(connection: Connection, *, by: str, reason: str) -> Entry:
    """Let no candidate become champion until `unfreeze`. Raises `NotAllowed`. A trial under way ends."""
    if await store.is_frozen(connection):
        raise NotAllowed("already_frozen", "Promotions are frozen already.")
    await end_trial(connection, passed=False, by=by, reason=f"freeze: {reason}", cause=None)
    return await store.append(connection, Freeze(), by=by, reason=reason)


async def unfreeze(connection: Connection, *, by: str, reason: str) -> Entry:
    """Judge and promote again. Raises `NotAllowed`."""
    if not await store.is_frozen(connection):
        raise NotAllowed("not_frozen", "Promotions are not frozen.")
    return await store.append(connection, Unfreeze(), by=by, reason=reason)


async def approve(
    connection: Connection, judgement_id: UUID, policy: RolloutPolicy, *, by: str, reason: str
) -> Progress:
    """Say yes to a candidate that waits for it. Raises `NotAllowed`."""
    judgement = await _waiting(connection, judgement_id)
    if await store.is_frozen(connection):
        raise NotAllowed("frozen", "Promotions are frozen: unfreeze first.")
    if await trial_under_way(connection):
        raise NotAllowed("trial_under_way", "Another candidate is on trial: wait for its end, or end it.")
    await store.append(connection, Approval(judgement_id=judgement_id), by=by, reason=reason)
    return await accept(connection, judgement, policy, by=by, reason=f"approved: {reason}", cause=None)


async def refuse(connection: Connection, judgement_id: UUID, *, by: str, reason: str) -> Entry:
    """Say no to a candidate that waits. Raises `NotAllowed`."""
    judgement = await _waiting(connection, judgement_id)
    entry = await store.append(connection, Refusal(judgement_id=judgement_id), by=by, reason=reason)
    await _announce_rejection(connection, judgement, None, by=by, reason=Progress.REFUSED, detail=reason)
    return entry


async def deny(connection: Connection, command: str, asked: Mapping[str, Any], denied: NotAllowed, *, by: str) -> Entry:
    """Record that somebody known asked for what was not done."""
    fact = Denial(command=command, asked=dict(asked), problem=denied.code)
    return await store.append(connection, fact, by=by, reason=denied.detail)


async def enter_stage(
    connection: Connection,
    judgement: Entry,
    policy: RolloutPolicy,
    position: int,
    *,
    by: str,
    reason: str,
    cause: Envelope | None,
    before: RolloutStage | None = None,
    figures: Mapping[str, Any] | None = None,
) -> Entry:
    """Begin a trial (without `before`) or its next stage."""
    event, stage = of(judgement).candidate, policy.trial[position]
    present = await store.champion(connection)
    if present is None:
        raise NotAllowed("nothing_promoted", "There is no champion to be tried beside.")
    fact = RolloutStage(
        revision=await _next_revision(connection),
        rollout_id=before.rollout_id if before else uuid4(),
        stage=stage.stage,
        position=position,
        share=stage.share,
        challenger=event.model,
        bundle=event.bundle,
        synthetic=event.synthetic,
        champion_epoch=crown(present).epoch,
        judgement_id=judgement.entry_id,
        figures=dict(figures or {}),
    )
    entry = await store.append(connection, fact, by=by, reason=reason)
    await announce_stage(connection, entry, cause)
    return entry


async def trial_under_way(connection: Connection) -> Entry | None:
    """The stage of the trial that is going on."""
    last = await store.last_stage(connection)
    if last is None or not isinstance(last.fact, RolloutStage) or last.fact.stage == "ended":
        return None
    return last


async def end_trial(
    connection: Connection,
    *,
    passed: bool,
    by: str,
    reason: str,
    cause: Envelope | None,
    figures: Mapping[str, Any] | None = None,
) -> Entry | None:
    """End the trial that is going on, if there is one; where it `passed`, its candidate becomes champion.

    Returns the promotion, if there was one.
    """
    last = await trial_under_way(connection)
    if last is None or not isinstance(last.fact, RolloutStage):
        return None
    fact = last.fact.model_copy(
        update={
            "revision": await _next_revision(connection), "stage": "ended", "share": 0.0, "passed": passed,
            "figures": dict(figures or {}),
        }
    )  # fmt: skip
    judgement = await store.entry(connection, fact.judgement_id)
    if judgement is None:
        raise LookupError(f"no judgement {fact.judgement_id}")
    ended = await store.append(connection, fact, by=by, reason=reason)
    await pods.forget_answers(connection)
    if passed:  # before the word that the trial is over: pods swap, and do not drop what they are about to need
        promotion = await promote(connection, judgement, by=by, reason=f"trial passed: {reason}", cause=cause)
        await announce_stage(connection, ended, cause)
        return promotion
    await announce_stage(connection, ended, cause)
    await _announce_rejection(connection, judgement, cause, by=by, reason=Progress.TRIAL_FAILED, detail=reason)
    return None


async def request_training(connection: Connection, request_id: UUID, *, reason: str, cause: Envelope) -> None:
    """Ask for models on the newest data."""
    asked = TrainingRequested(request_id=request_id, reason=reason, requested_by=SOURCE, requested_at=cause.time)
    envelope = new_envelope(TrainingRequested.EVENT_TYPE, source=SOURCE, subject=str(request_id), cause=cause)
    await enqueue(
        connection, store.SCHEMA, topic=TRAINING_REQUESTED.name, key=str(request_id), event=asked, envelope=envelope
    )


async def standing(connection: Connection, judgement: Entry) -> tuple[Progress, int | None]:
    """Where a judged candidate stands, and the epoch in which it became champion first."""
    later = await store.following(connection, [judgement.entry_id])
    return stands(judgement, later[judgement.entry_id], await store.champion(connection))


def stands(judgement: Entry, later: Sequence[Entry], champion: Entry | None) -> tuple[Progress, int | None]:
    """The same from what came of it, oldest first, and the present champion."""
    fact = of(judgement)
    if fact.verdict["outcome"] == Outcome.REJECTED:
        return Progress.REJECTED, None
    progress = Progress.WAITING
    for entry in later:
        if isinstance(entry.fact, Crowned):
            return Progress.PROMOTED, entry.fact.epoch
        if isinstance(entry.fact, Refusal):
            return Progress.REFUSED, None
        if isinstance(entry.fact, RolloutStage):
            progress = Progress.TRIAL_FAILED if entry.fact.stage == "ended" else Progress.ON_TRIAL
    judged_at_epoch = fact.champion.epoch if fact.champion else None
    if progress is Progress.WAITING and judged_at_epoch != (crown(champion).epoch if champion else None):
        return Progress.SUPERSEDED, None
    return progress, None


async def announce(connection: Connection, entry: Entry, cause: Envelope | None) -> None:
    """`model.promoted` of a promotion or rollback; the same each time it is announced."""
    fact = crown(entry)
    judgement = await store.entry(connection, fact.judgement_id)
    auroc = of(judgement).verdict.get("auroc") if judgement else None
    event = ModelPromoted(
        epoch=fact.epoch,
        action="rollback" if isinstance(fact, Rollback) else "promotion",
        model=fact.model,
        bundle=fact.bundle,
        synthetic=fact.synthetic,
        previous=fact.previous,
        decision_id=entry.entry_id,
        decided_by=entry.by,
        reason=entry.reason,
        decided_at=entry.at,
        validation_auroc=auroc["point"] if auroc else None,
    )
    envelope = new_envelope(ModelPromoted.EVENT_TYPE, source=SOURCE, subject=str(fact.epoch), cause=cause)
    await enqueue(connection, store.SCHEMA, topic=MODEL_PROMOTED.name, key=MODEL_STREAM, event=event, envelope=envelope)


async def announce_stage(connection: Connection, entry: Entry, cause: Envelope | None) -> None:
    """`rollout.changed` of a trial's stage; the same each time it is announced."""
    if not isinstance(entry.fact, RolloutStage):
        raise TypeError(f"entry {entry.sequence} is no stage of a trial")
    shared = entry.fact.model_dump(include=set(RolloutChanged.model_fields))
    event = RolloutChanged(**shared, reason=entry.reason, changed_by=entry.by, changed_at=entry.at)
    envelope = new_envelope(RolloutChanged.EVENT_TYPE, source=SOURCE, subject=str(event.revision), cause=cause)
    await enqueue(
        connection, store.SCHEMA, topic=ROLLOUT_CHANGED.name, key=MODEL_STREAM, event=event, envelope=envelope
    )


async def announce_again(connection: Connection) -> Entry | None:
    """Say once more who is champion and which trial is going on, so that an emptied Kafka learns of it."""
    present = await store.champion(connection)
    if present is not None:
        await announce(connection, present, None)
    stage = await store.last_stage(connection)
    if stage is not None:
        await announce_stage(connection, stage, None)
    return present


async def _announce_rejection(
    connection: Connection,
    judgement: Entry,
    cause: Envelope | None,
    *,
    by: str = SOURCE,
    reason: str | None = None,
    detail: str | None = None,
) -> None:
    fact = of(judgement)
    identity, verdict = fact.identity, fact.verdict
    model = identity.model
    auroc = verdict.get("auroc")
    event = ModelRejected(
        decision_id=judgement.entry_id,
        model=model,
        dataset_version=identity.dataset_version,
        batch=identity.batch,
        reason=reason or verdict["reason"],
        detail=detail or verdict["detail"],
        auroc=auroc["point"] if auroc else None,
        decided_by=by,
        decided_at=judgement.at,
    )
    envelope = new_envelope(
        ModelRejected.EVENT_TYPE, source=SOURCE, subject=f"{model.name}/{model.version}", cause=cause
    )
    await enqueue(connection, store.SCHEMA, topic=MODEL_REJECTED.name, key=MODEL_STREAM, event=event, envelope=envelope)


async def _waiting(connection: Connection, judgement_id: UUID) -> Entry:
    judgement = await store.entry(connection, judgement_id)
    if judgement is None or not isinstance(judgement.fact, Judgement):
        raise NotAllowed("unknown_decision", f"There is no judgement {judgement_id}. `GET /decisions` lists them.")
    progress, _ = await standing(connection, judgement)
    if progress is Progress.SUPERSEDED:
        raise NotAllowed("superseded", "It was judged against a model that is no longer champion.")
    if progress is not Progress.WAITING:
        raise NotAllowed("not_waiting", f"This candidate does not wait for an approval: it is {progress}.")
    return judgement


async def _next_revision(connection: Connection) -> int:
    last = await store.last_stage(connection)
    return last.fact.revision + 1 if last and isinstance(last.fact, RolloutStage) else 1


def _why(verdict: Mapping[str, Any]) -> str:
    return f"{verdict['reason']}: {verdict['detail']}"
