"""What the promoter does on each event, and what it repeats by itself."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime

import structlog

from readmit_chassis.envelope import Envelope
from readmit_chassis.failures import Transient
from readmit_chassis.s3 import ObjectMissing, ObjectStore
from readmit_contracts.events import ArtifactRef, ModelLoaded, ModelRegistered
from readmit_promoter import domain, store
from readmit_promoter.domain import Case, Champion
from readmit_promoter.errors import EvidenceError, RegistryError
from readmit_promoter.evidence import MAX_EVIDENCE_BYTES, OBJECT_URI, Evidence, read_evidence
from readmit_promoter.inspection import Inspection, inspect_bundle
from readmit_promoter.ledger import Decision, standings
from readmit_promoter.metrics import DECISION_SECONDS, DECISIONS, LAST_DECISION, PODS, REGISTRY_LAGS, show_champion
from readmit_promoter.policy import Policy
from readmit_promoter.registry import MlflowRegistry, mirror
from readmit_promoter.replay import kept

log = structlog.get_logger()

_MAX_MIRROR_PAUSE_S = 30.0


async def judge(
    event: ModelRegistered, envelope: Envelope, *, pool: store.Pool, objects: ObjectStore, policy: Policy
) -> store.Recorded:
    """Decide on a candidate and write the decision down.

    The judgement takes a second, so it is made outside the ledger's lock and made again when meanwhile another
    candidate became champion. Raises `Transient` when the object store or the database is away.
    """
    inspection = await asyncio.to_thread(inspect_bundle, objects.get, event)
    while True:
        async with store.transaction(pool) as connection:
            champion = await store.champion(connection)
        with DECISION_SECONDS.time():
            case = await _case(event, champion, objects, inspection)
            verdict = await asyncio.to_thread(domain.judge, policy, case)
        recorded = await store.record(pool, event, envelope, verdict, champion, kept(policy, case, verdict))
        if recorded is store.Recorded.STALE:
            continue
        if recorded is store.Recorded.DECIDED:
            DECISIONS.labels(store.outcome(verdict), verdict.reason).inc()
            log.info(
                "candidate_judged", outcome=store.outcome(verdict), model=event.model.name, version=event.model.version,
                reason=verdict.reason, detail=verdict.detail,
            )  # fmt: skip
        return recorded


async def _case(
    event: ModelRegistered, champion: Decision | None, objects: ObjectStore, inspection: Inspection
) -> Case:
    try:
        evidence: Evidence | EvidenceError = await fetch_evidence(objects, event.evidence)
    except EvidenceError as error:
        evidence = error
    opponent = None
    if champion is not None:
        try:
            its = await fetch_evidence(objects, champion.event.evidence)
        except EvidenceError as error:
            # Not the candidate's fault, and not a licence to replace the champion unseen.
            log.error("champion_evidence_unreadable", reason=str(error))  # noqa: TRY400  the reason says it all
            its = None
        opponent = Champion(champion.event.bundle.sha256, champion.event.synthetic, champion.event.evidence, its)
    return Case(event, evidence, opponent, inspection, datetime.now(UTC))


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


async def observe(pool: store.Pool) -> None:
    """Bring the gauges up to date with the ledger."""
    async with store.transaction(pool) as connection:
        champion = await store.champion(connection)
        pods = await store.pods(connection, limit=10_000)
        newest = await store.decisions(connection, limit=1)
    show_champion(champion)
    if newest:
        LAST_DECISION.set(newest[0].decided_at.timestamp())
    epoch = (champion and champion.epoch) or 0
    for state in ("serving", "behind", "refused"):
        PODS.labels(state).set(sum(_pod_state(pod, epoch) == state for pod in pods))


def _pod_state(pod: ModelLoaded, epoch: int) -> str:
    if pod.outcome == "refused":
        return "refused"
    return "serving" if pod.epoch >= epoch else "behind"


async def reconcile(pool: store.Pool, registry: MlflowRegistry) -> None:
    """Make MLflow agree with the ledger. One replica at a time: an older view never overwrites a newer one."""
    async with store.transaction(pool) as connection:
        await store.lock(connection, "registry")
        standing = standings(await store.decisions(connection))
        writes = await mirror(registry, standing)
    if writes:
        log.info("registry_follows_ledger", writes=writes)


async def keep_reconciled(
    pool: store.Pool, registry: MlflowRegistry, *, decided: asyncio.Event, interval_s: float
) -> None:
    """Reconcile at the start, after each decision and every `interval_s`; sooner, with growing pauses, on failure."""
    pause_s = 1.0
    while True:
        decided.clear()
        try:
            await observe(pool)
            await reconcile(pool, registry)
        except (RegistryError, Transient) as error:
            REGISTRY_LAGS.set(1)
            log.warning("registry_lags", error=str(error), retry_in_s=pause_s)
            wait_s = min(pause_s, interval_s)
            pause_s = min(pause_s * 2, _MAX_MIRROR_PAUSE_S)
        else:
            REGISTRY_LAGS.set(0)
            wait_s, pause_s = interval_s, 1.0
        try:
            await asyncio.wait_for(decided.wait(), wait_s)
        except TimeoutError:
            continue
