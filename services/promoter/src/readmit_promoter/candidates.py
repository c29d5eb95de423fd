"""What becomes of an announcement: a candidate that waits, or a refusal in the ledger where it cannot be read."""

from __future__ import annotations

from collections.abc import Callable

import structlog

from readmit_chassis.envelope import Envelope
from readmit_chassis.failures import BadMessage
from readmit_promoter import governor, metrics, store
from readmit_promoter.announcement import Announcement, AnnouncementProblem
from readmit_promoter.domain import refuse_unread
from readmit_promoter.ledger import SOURCE, Judgement
from readmit_promoter.policy import Policy
from readmit_promoter.replay import kept_unread

log = structlog.get_logger()


async def take(
    announcement: Announcement, envelope: Envelope, pool: store.Pool, policy: Policy, changed: Callable[[], None]
) -> None:
    """Queue the candidate, or refuse it at once where its announcement cannot be read; `changed` is called after it.

    Raises `BadMessage` for one that is refused, so that its event is kept as it came, too.
    """
    event = announcement.read()
    if not isinstance(event, tuple):
        await store.queue(pool, event, envelope)
        changed()
        return
    await _refuse(announcement, event, envelope, pool, policy)
    changed()
    # Fields and what is allowed, but no values: the ledger has these, the log shall not.
    raise BadMessage("not a ModelRegistered: " + "; ".join(f"{each.field} must be {each.allowed}" for each in event))


async def _refuse(
    announcement: Announcement,
    problems: tuple[AnnouncementProblem, ...],
    envelope: Envelope,
    pool: store.Pool,
    policy: Policy,
) -> None:
    """Write the refusal down and announce it, once for each version; one that is known already keeps what it has."""
    verdict = refuse_unread(policy, problems)
    async with store.writing(pool) as connection:
        if await store.is_known(connection, announcement.model):
            return
        fact = Judgement(champion=None, decision=kept_unread(policy, announcement, problems, verdict))
        entry = await store.append(connection, fact, by=SOURCE, reason=f"{verdict.reason}: {verdict.detail}")
        outcome = await governor.after_judgement(connection, entry, policy.rollout, envelope)
    metrics.DECISIONS.labels(verdict.outcome, verdict.reason).inc()
    model = announcement.model
    log.warning("candidate_unread", outcome=outcome, model=model.name, version=model.version, problems=len(problems))
