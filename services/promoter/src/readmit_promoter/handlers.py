"""What the promoter does on each event, and what it repeats by itself."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from contextlib import suppress
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import structlog

from readmit_chassis.failures import Transient
from readmit_chassis.process import end_if_cancelled
from readmit_chassis.s3 import ObjectMissing, ObjectStore
from readmit_contracts.events import ArtifactRef, ModelRegistered, PredictionsMade
from readmit_promoter import governor, metrics, pods, store
from readmit_promoter.convergence import progress
from readmit_promoter.domain import Case, Champion, judge
from readmit_promoter.errors import EvidenceError, NotAllowed, RegistryError
from readmit_promoter.evidence import MAX_EVIDENCE_BYTES, OBJECT_URI, Evidence, read_evidence
from readmit_promoter.governor import Progress, crown
from readmit_promoter.inspection import Inspection, inspect_bundle
from readmit_promoter.ledger import SOURCE, Convergence, Entry, Judgement, Opponent, Rollback, RolloutStage
from readmit_promoter.policy import Policy
from readmit_promoter.registry import MlflowRegistry, mirror, standings
from readmit_promoter.replay import kept
from readmit_promoter.rollout_policy import RolloutPolicy
from readmit_promoter.store import Connection, Pool
from readmit_promoter.trial import Assessment, Figures, assess

log = structlog.get_logger()

#: A pod that has not been heard of for so long is no longer waited for; pods say something every 5 s.
LIVE_S = 20.0

_LONGEST_PAUSE_S = 30.0
#: What a trial may still count after it has as many answers as it asks for.
_SPARE_ANSWERS = 1000


async def judge_next(pool: Pool, objects: ObjectStore, policy: Policy) -> Progress | None:
    """Judge the candidate that has waited longest; None where there is none, or nothing can be judged now.

    One replica judges at a time. Candidates wait while promotions are frozen and while another one is on trial: they
    are judged against the champion that they would replace. The judgement takes seconds, so it is made outside the
    ledger's lock; where the champion has changed meanwhile nothing is written, and it is made again. Raises `Transient`
    when the object store or the database is away: the candidate is kept.
    """
    async with store.transaction(pool) as holding:
        # One replica judges at a time; the lock goes with the transaction, however this ends.
        if not await store.try_lock(holding, "judging"):
            return None
        while True:
            async with store.transaction(pool) as connection:
                waiting = await store.next_candidate(connection)
                if waiting is None or await _has_to_wait(connection):
                    return None
                present = await store.champion(connection)
            with metrics.DECISION_SECONDS.time():
                inspection = await asyncio.to_thread(inspect_bundle, objects.get, waiting.event)
                case = await _case(waiting.event, present, objects, inspection)
                verdict = await asyncio.to_thread(judge, policy, case)
            async with store.writing(pool) as connection:
                now = await store.champion(connection)
                if _id(now) != _id(present):
                    continue
                if await _has_to_wait(connection) or not await store.take_from_queue(connection, waiting.place):
                    return None
                opponent = Opponent(epoch=crown(present).epoch, model=crown(present).model) if present else None
                fact = Judgement(champion=opponent, decision=kept(policy, case, verdict))
                entry = await store.append(connection, fact, by=SOURCE, reason=f"{verdict.reason}: {verdict.detail}")
                came_of_it = await governor.after_judgement(connection, entry, policy.rollout, waiting.envelope)
                break
    metrics.DECISIONS.labels(verdict.outcome, verdict.reason).inc()
    model = waiting.event.model
    log.info("candidate_judged", outcome=came_of_it, model=model.name, version=model.version, reason=verdict.reason,
             detail=verdict.detail)  # fmt: skip
    return came_of_it


def _id(entry: Entry | None) -> UUID | None:
    return entry.entry_id if entry else None


async def _has_to_wait(connection: Connection) -> bool:
    return await store.is_frozen(connection) or await governor.trial_under_way(connection) is not None


async def _case(event: ModelRegistered, present: Entry | None, objects: ObjectStore, inspection: Inspection) -> Case:
    try:
        evidence: Evidence | EvidenceError = await fetch_evidence(objects, event.evidence)
    except EvidenceError as error:
        evidence = error
    champion = None
    if present is not None:
        fact = crown(present)
        try:
            its = await fetch_evidence(objects, fact.evidence)
        except EvidenceError as error:
            # Not the candidate's fault, and not a licence to replace the champion unseen.
            log.error("champion_evidence_unreadable", reason=str(error))  # noqa: TRY400  the reason says it all
            its = None
        champion = Champion(fact.bundle.sha256, fact.synthetic, fact.evidence, its)
    return Case(event, evidence, champion, inspection, datetime.now(UTC))


async def fetch_evidence(objects: ObjectStore, ref: ArtifactRef) -> Evidence:
    """Read and verify evidence. Raises `EvidenceError`, or `Transient` when the store is away."""
    if not OBJECT_URI.fullmatch(ref.uri):
        raise EvidenceError(f"{ref.uri!r} does not name an object")
    if ref.size_bytes > MAX_EVIDENCE_BYTES:
        raise EvidenceError(f"the evidence has {ref.size_bytes} bytes, more than {MAX_EVIDENCE_BYTES}")
    try:
        data = await asyncio.to_thread(objects.get, ref.uri)
    except ObjectMissing as error:
        raise EvidenceError(f"there is nothing at {ref.uri}") from error
    return await asyncio.to_thread(read_evidence, data, ref)


async def take_answers(event: PredictionsMade, pool: Pool, rollout: RolloutPolicy) -> None:
    """Keep what both models of the trial that is going on said of encounters."""
    if event.rollout_id is None:
        return
    async with store.transaction(pool) as connection:
        under_way = await governor.trial_under_way(connection)
        if under_way is None or not isinstance(under_way.fact, RolloutStage):
            return
        fact = under_way.fact
        if fact.rollout_id == event.rollout_id and fact.position < len(rollout.trial):
            at_most = rollout.trial[fact.position].at_least_answers + _SPARE_ANSWERS
            await pods.take_answers(connection, list(event.predictions()), fact, at_most=at_most)


async def watch(pool: Pool, rollout: RolloutPolicy) -> None:
    """One look at the trial, at the convergence, and at the gauges."""
    await watch_trial(pool, rollout)
    await watch_convergence(pool, rollout)
    await observe(pool)


async def watch_trial(pool: Pool, rollout: RolloutPolicy) -> None:
    """Take the trial that is going on to its next stage, or to its end, when it is time."""
    async with store.transaction(pool) as connection:
        if await governor.trial_under_way(connection) is None:
            return
    async with store.writing(pool) as connection:
        under_way = await governor.trial_under_way(connection)
        if under_way is None or not isinstance(under_way.fact, RolloutStage):
            return
        fact = under_way.fact
        figures, _, assessment = await assessed(connection, under_way, rollout)
        if assessment.course == "stay":
            return
        measured = figures.document()
        if assessment.course == "next" and fact.position + 1 < len(rollout.trial):
            judgement = await store.entry(connection, fact.judgement_id)
            if judgement is None:
                raise LookupError(f"no judgement {fact.judgement_id}")
            await governor.enter_stage(
                connection, judgement, rollout, fact.position + 1, by=SOURCE, reason=assessment.why, cause=None,
                before=fact, figures=measured,
            )  # fmt: skip
        else:
            await governor.end_trial(
                connection, passed=assessment.course == "next", by=SOURCE, reason=assessment.why, cause=None,
                figures=measured,
            )  # fmt: skip
    log.info("trial", course=assessment.course, stage=fact.stage, why=assessment.why)


async def assessed(
    connection: Connection, under_way: Entry, rollout: RolloutPolicy
) -> tuple[Figures, dict[str, str], Assessment]:
    """What a stage has measured, which live pods refuse the challenger and why, and what follows from both."""
    fact = under_way.fact
    if not isinstance(fact, RolloutStage):
        raise TypeError(f"entry {under_way.sequence} is no stage of a trial")
    figures = await pods.figures(connection, fact.rollout_id, fact.stage)
    refusing = await pods.refusing(connection, fact.revision, LIVE_S)
    elapsed_s = (datetime.now(UTC) - under_way.at).total_seconds()
    return figures, refusing, assess(rollout, fact.position, figures, elapsed_s, len(refusing))


async def watch_convergence(pool: Pool, rollout: RolloutPolicy) -> None:
    """Write down that the newest promotion has reached every live pod, or take it back where it does not."""
    async with store.transaction(pool) as connection:
        if await _unsettled(connection) is None:
            return
    async with store.writing(pool) as connection:
        newest = await _unsettled(connection)
        if newest is None:
            return
        epoch = crown(newest).epoch
        live = await pods.live(connection, LIVE_S)
        arrivals = await pods.arrivals(connection, epoch, newest.at)
        found = progress(epoch, newest.at, datetime.now(UTC), live, arrivals, rollout.convergence)
        if found.status == "converging":
            return
        fact = found.fact()
        await store.append(connection, fact, by=SOURCE, reason=found.why)
        metrics.note_convergence(fact)
        # A rollback that does not arrive is nothing to go back from by itself: back and forth would never end.
        if found.status == "failed" and rollout.convergence.roll_back and not isinstance(newest.fact, Rollback):
            try:
                await governor.roll_back(connection, to=None, by=SOURCE, reason=f"did not converge: {found.why}")
            except NotAllowed as nothing:
                log.warning("not_rolled_back", epoch=epoch, reason=nothing.detail)
    log.info("convergence", epoch=epoch, status=found.status, why=found.why, last_s=fact.last_s)


async def _unsettled(connection: Connection) -> Entry | None:
    """The newest promotion or rollback, unless it has converged or failed to."""
    newest = await store.champion(connection)
    if newest is None or await settled(connection, crown(newest).epoch) is not None:
        return None
    return newest


async def settled(connection: Connection, epoch: int) -> Entry | None:
    """The entry that says how the convergence of a promotion ended."""
    for entry in await store.entries(connection, (Convergence.KIND,), limit=1):
        if isinstance(entry.fact, Convergence) and entry.fact.promotion_epoch == epoch:
            return entry
    return None


async def observe(pool: Pool) -> None:
    """Bring the gauges up to date with the ledger."""
    async with store.transaction(pool) as connection:
        champion = await store.champion(connection)
        judgement = await store.entry(connection, crown(champion).judgement_id) if champion else None
        newest = await store.entries(connection, (Judgement.KIND,), limit=1)
        live = await pods.live(connection, LIVE_S)
        metrics.show(
            champion,
            judgement,
            live,
            waiting=await store.count_waiting(connection),
            frozen=await store.is_frozen(connection),
            trial=await governor.trial_under_way(connection),
        )
    if newest:
        metrics.LAST_DECISION.set(newest[0].at.timestamp())


async def reconcile(pool: Pool, registry: MlflowRegistry, *, ledger_has_moved: bool) -> None:
    """Make MLflow agree with the ledger. One replica at a time: an older view never overwrites a newer one.

    What has to be written although the ledger has not moved, somebody else has changed: that is counted.
    """
    async with store.transaction(pool) as connection:
        await store.lock(connection, "registry")
        trial = await governor.trial_under_way(connection)
        challenger = trial.fact.challenger if trial and isinstance(trial.fact, RolloutStage) else None
        writes = await mirror(registry, standings(await store.standings(connection)), challenger)
    if not writes:
        return
    if ledger_has_moved:
        log.info("registry_follows_ledger", writes=writes)
    else:
        metrics.REGISTRY_REPAIRS.inc(writes)
        log.warning("registry_repaired", writes=writes)


async def keep_reconciled(pool: Pool, registry: MlflowRegistry, *, decided: asyncio.Event, interval_s: float) -> None:
    """Reconcile at the start, after each decision and every `interval_s`; sooner, with growing pauses, on failure."""
    pause_s = 1.0
    agreed: int | None = None  # the ledger's newest entry when MLflow last agreed with it
    while True:
        decided.clear()
        try:
            async with store.transaction(pool) as connection:
                last = await store.last_entry(connection)
            newest = last.sequence if last else 0
            await reconcile(pool, registry, ledger_has_moved=newest != agreed)
            agreed = newest
        except (RegistryError, Transient) as error:
            metrics.REGISTRY_LAGS.set(1)
            log.warning("registry_lags", error=str(error), retry_in_s=pause_s)
            wait_s = min(pause_s, interval_s)
            pause_s = min(pause_s * 2, _LONGEST_PAUSE_S)
        else:
            metrics.REGISTRY_LAGS.set(0)
            wait_s, pause_s = interval_s, 1.0
        end_if_cancelled()
        await _first_of(decided, wait_s)


async def repeat(
    work: Callable[[], Coroutine[Any, Any, Any]], *, news: asyncio.Event, interval_s: float, name: str
) -> None:
    """Call `work` at the start, after news, and every `interval_s`; again at once while it returns something.

    Outages are waited out with growing pauses. Runs until cancelled.
    """
    pause_s = 0.2
    while True:
        news.clear()
        wait_s = interval_s
        try:
            while await work() is not None:
                end_if_cancelled()
        except Transient as error:
            log.warning("waits", work=name, error=str(error), retry_in_s=pause_s)
            wait_s, pause_s = pause_s, min(pause_s * 2, _LONGEST_PAUSE_S)
        else:
            pause_s = 0.2
        end_if_cancelled()
        await _first_of(news, wait_s)


async def _first_of(news: asyncio.Event, wait_s: float) -> None:
    """Wait for news, but not longer. Not `asyncio.wait_for`, which forgets a cancellation that comes with the news."""
    with suppress(TimeoutError):
        async with asyncio.timeout(wait_s):
            await news.wait()
