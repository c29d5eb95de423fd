"""What the platform notices by itself, and what the policy says is done about it: once for each event."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Literal
from uuid import uuid4

import structlog

from readmit_chassis.envelope import Envelope
from readmit_chassis.inbox import first_time
from readmit_contracts.events import DegradedFigure, DriftDetected, PerformanceDegraded
from readmit_promoter import governor, metrics, store
from readmit_promoter.errors import NotAllowed
from readmit_promoter.governor import crown
from readmit_promoter.ledger import SOURCE, Reaction
from readmit_promoter.rollout_policy import Action, Reactions, RolloutPolicy
from readmit_promoter.store import Connection, Pool

log = structlog.get_logger()

_SPOKEN = {"auroc": "AUROC", "calibration_in_the_large": "rate less risk"}


@dataclass(frozen=True, slots=True)
class Noticed:
    """What was noticed of the champion of an epoch, and what the policy says of it.

    `of_patients`: retraining mends it whoever is champion by now, since the patients have changed and not the model.
    """

    kind: Literal["drift", "degradation"]
    cause: str
    epoch: int
    action: Action
    why: str
    of_patients: bool


def noticed(event: DriftDetected | PerformanceDegraded, reactions: Reactions) -> Noticed:
    """The same for both events."""
    if isinstance(event, DriftDetected):
        features = ", ".join(feature.feature for feature in event.drifted)
        cause, why = f"{event.EVENT_TYPE} {event.drift_id}", f"drift of {features}"
        return Noticed("drift", cause, event.epoch, reactions.drift, why, of_patients=True)
    figures = "; ".join(map(_told, event.degraded))
    why = f"degraded in service: {figures}; {event.window_rows} outcomes, {event.window_positives} readmissions"
    cause = f"{event.EVENT_TYPE} {event.degradation_id}"
    return Noticed("degradation", cause, event.epoch, reactions.degradation, why, of_patients=False)


async def react(
    event: DriftDetected | PerformanceDegraded, envelope: Envelope, pool: Pool, rollout: RolloutPolicy
) -> None:
    """Do what the policy says, once for each event; what cannot be done becomes an alert that says why."""
    found = noticed(event, rollout.reactions)
    async with store.writing(pool) as connection:
        if not await first_time(connection, store.SCHEMA, "react", envelope.id):
            return
        action, why = found.action, found.why
        hindrance = await _hindrance(connection, found, rollout.reactions)
        if hindrance is None and action == "rollback":
            try:
                await governor.roll_back(connection, to=None, by=SOURCE, reason=why, cause=envelope)
            except NotAllowed as nothing:
                hindrance = nothing.detail
        if hindrance is not None:
            action, why = "alert", f"{why}; no {action}: {hindrance}"
        request_id = uuid4() if action == "retrain" else None
        fact = Reaction(cause=found.cause, action=action, request_id=request_id)
        await store.append(connection, fact, by=SOURCE, reason=why)
        if request_id is not None:
            await governor.request_training(connection, request_id, reason=why, cause=envelope)
    metrics.REACTIONS.labels(found.kind, action).inc()
    log.warning("reaction", to=found.kind, action=action, why=why)


async def _hindrance(connection: Connection, found: Noticed, reactions: Reactions) -> str | None:
    """Why what the policy says is not to be done now."""
    if found.action == "alert":
        return None
    present = await store.champion(connection)
    epoch = crown(present).epoch if present else None
    if epoch != found.epoch and not (found.action == "retrain" and found.of_patients):
        now = "nobody is" if epoch is None else f"that of epoch {epoch} is"
        return f"it is about the champion of epoch {found.epoch}, and by now {now} champion"
    if found.action == "retrain":
        last = await _last_retraining(connection)
        since_s = None if last is None else (datetime.now(UTC) - last).total_seconds()
        if since_s is not None and since_s < reactions.retrain_at_most_every_s:
            return f"retraining was asked for {since_s:.0f} s ago"
    return None


async def _last_retraining(connection: Connection) -> datetime | None:
    for entry in await store.entries(connection, (Reaction.KIND,)):
        if isinstance(entry.fact, Reaction) and entry.fact.action == "retrain":
            return entry.at
    return None


def _told(figure: DegradedFigure) -> str:
    name = _SPOKEN[figure.name]
    return f"{name} {figure.value:.3f} ({figure.low:.3f} to {figure.high:.3f}), limit {figure.limit:.3f}"
