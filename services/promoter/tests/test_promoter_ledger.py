"""The ledger on a real PostgreSQL: what it refuses, and that a decision happens whole, once, and in order."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import psycopg
import pytest

from readmit_chassis.envelope import Envelope, new_envelope
from readmit_chassis.failures import BadMessage, Transient
from readmit_chassis.s3 import MemoryStore, StoreUnavailable
from readmit_contracts.events import MODEL_STREAM, ModelLoaded, ModelPromoted, ModelRegistered, ModelRejected
from readmit_contracts.examples import EXAMPLES
from readmit_promoter import store
from readmit_promoter.handlers import judge
from readmit_promoter.ledger import Decision
from readmit_promoter.policy import Policy
from readmit_promoter.replay import Match, replay
from readmit_promoter.store import Recorded
from readmit_promoter.verdict import Outcome, Reason, Verdict

pytestmark = pytest.mark.stack

Candidate = Callable[..., ModelRegistered]
Cohort = Callable[..., dict[str, Any]]
PROMOTED = Verdict(Outcome.ACCEPTED, Reason.FIRST_CHAMPION, "test", (), "test", "0" * 64)
KEPT = {"verdict": PROMOTED.document()}
LOADED = next(example for example in EXAMPLES if isinstance(example, ModelLoaded))


def envelope() -> Envelope:
    return new_envelope(ModelRegistered.EVENT_TYPE, source="trainer", subject="any")


async def rows(pool: store.Pool, query: str) -> list[dict[str, Any]]:
    async with pool.connection() as connection:
        return await (await connection.execute(query.encode())).fetchall()


async def script(pool: store.Pool, *statements: str) -> None:
    async with pool.connection() as connection:
        for statement in statements:
            await connection.execute(statement.encode())


async def ledger(pool: store.Pool) -> list[Decision]:
    """Oldest first."""
    async with store.transaction(pool) as connection:
        return (await store.decisions(connection))[::-1]


async def announced(pool: store.Pool) -> list[ModelPromoted]:
    found = await rows(pool, "SELECT payload FROM governance.outbox WHERE topic = 'model.promoted' ORDER BY id")
    return [ModelPromoted.model_validate(row["payload"]) for row in found]


async def rejected(pool: store.Pool) -> list[ModelRejected]:
    found = await rows(pool, "SELECT payload FROM governance.outbox WHERE topic = 'model.rejected' ORDER BY id")
    return [ModelRejected.model_validate(row["payload"]) for row in found]


@pytest.fixture
def judging(pool: store.Pool, objects: MemoryStore, quick_policy: Policy) -> Callable[..., Any]:
    """The handler of `model.registered`, on the test's database and object store."""

    async def call(event: ModelRegistered, caused_by: Envelope | None = None, *, on: store.Pool = pool) -> Recorded:
        return await judge(event, caused_by or envelope(), pool=on, objects=objects, policy=quick_policy)

    return call


@pytest.mark.parametrize(
    "change",
    [
        "UPDATE governance.decisions SET outcome = 'rejected'",
        "UPDATE governance.decisions SET detail = 'x' WHERE false",
        "DELETE FROM governance.decisions",
        "TRUNCATE governance.decisions",
    ],
)
async def test_a_decision_can_never_be_changed_or_removed(
    pool: store.Pool, judging: Callable[..., Any], candidate: Candidate, cohort: Cohort, change: str
) -> None:
    await judging(candidate(cohort(1.0)))
    with pytest.raises(psycopg.errors.RaiseException, match="append-only"):
        await rows(pool, change)
    assert len(await ledger(pool)) == 1


async def test_a_promotion_is_written_with_its_evidence_and_announced(
    pool: store.Pool, judging: Callable[..., Any], candidate: Candidate, cohort: Cohort, quick_policy: Policy
) -> None:
    event = candidate(cohort(1.0))
    cause = envelope()
    assert await judging(event, cause) is Recorded.DECIDED
    [decision] = await ledger(pool)
    assert (decision.event, decision.epoch, decision.champion_before) == (event, 1, None)
    assert decision.kept["policy"] == quick_policy.document()
    [promoted] = await announced(pool)
    assert (promoted.epoch, promoted.model, promoted.bundle) == (1, event.model, event.bundle)
    assert (promoted.decision_id, promoted.previous) == (decision.decision_id, None)
    [sent] = await rows(pool, "SELECT topic, key, headers FROM governance.outbox")
    assert (sent["topic"], sent["key"], sent["headers"]["ce_subject"]) == (
        "model.promoted",
        "diabetes_readmission",
        "1",
    )
    assert sent["headers"]["traceparent"].split("-")[1] == cause.traceparent.split("-")[1]


async def test_a_rejection_is_written_and_announced_with_its_gate_and_figures(
    pool: store.Pool, judging: Callable[..., Any], candidate: Candidate, cohort: Cohort
) -> None:
    first, second = candidate(cohort(0.5)), candidate(cohort(3.0))
    await judging(first)
    cause = envelope()
    await judging(second, cause)
    decision = (await ledger(pool))[1]
    assert (decision.verdict.reason, decision.epoch) == (Reason.NOT_BETTER, None)
    assert (decision.champion_before, decision.champion_evidence_sha256) == (first.model, first.evidence.sha256)
    assert len(await announced(pool)) == 1
    [said] = await rejected(pool)
    assert decision.verdict.auroc is not None
    assert said == ModelRejected(
        decision_id=decision.decision_id, model=second.model, dataset_version=1, batch=1,
        reason="not_better_beyond_noise", detail=decision.verdict.detail, auroc=decision.verdict.auroc.point,
        decided_by="promoter", decided_at=decision.decided_at,
    )  # fmt: skip
    [sent] = await rows(pool, "SELECT key, headers FROM governance.outbox WHERE topic = 'model.rejected'")
    assert (sent["key"], sent["headers"]["ce_subject"]) == (MODEL_STREAM, f"{second.model.name}/{second.model.version}")
    assert sent["headers"]["traceparent"].split("-")[1] == cause.traceparent.split("-")[1]


async def test_a_rejection_that_is_heard_again_is_announced_once(
    pool: store.Pool, judging: Callable[..., Any], candidate: Candidate, cohort: Cohort
) -> None:
    await judging(candidate(cohort(0.5)))
    event, cause = candidate(cohort(3.0)), envelope()
    assert await judging(event, cause) is Recorded.DECIDED
    assert await judging(event, cause) is Recorded.ALREADY
    assert await judging(event) is Recorded.ALREADY
    assert len(await rejected(pool)) == 1


async def test_the_same_bytes_registered_as_another_version_are_judged_for_themselves(
    pool: store.Pool, judging: Callable[..., Any], candidate: Candidate, cohort: Cohort
) -> None:
    """As a forced retraining on unchanged data gives them: no better than themselves."""
    first = candidate(cohort(0.5))
    await judging(first)
    again = candidate(cohort(0.5)).model_copy(update={"bundle": first.bundle})
    assert again.evidence == first.evidence
    assert await judging(again) is Recorded.DECIDED
    [said] = await rejected(pool)
    assert (said.model, said.reason) == (again.model, "not_better_beyond_noise")


async def test_a_decision_can_be_derived_again_from_what_the_ledger_names(
    pool: store.Pool, judging: Callable[..., Any], candidate: Candidate, cohort: Cohort, objects: MemoryStore
) -> None:
    await judging(candidate(cohort(3.0)))
    await judging(candidate(cohort(1.0)))
    champion, decision = await ledger(pool)
    assert decision.champion_evidence_sha256 == champion.event.evidence.sha256
    for one in (champion, decision):
        assert replay(one.kept, lambda ref: objects.objects.get(ref.uri)).match is Match.SAME


async def test_missing_evidence_is_a_rejection_with_its_reason(
    pool: store.Pool, judging: Callable[..., Any], candidate: Candidate, cohort: Cohort, objects: MemoryStore
) -> None:
    event = candidate(cohort(1.0))
    objects.objects.clear()
    await judging(event)
    [decision] = await ledger(pool)
    assert decision.verdict.reason is Reason.BAD_EVIDENCE
    assert "there is nothing at" in decision.verdict.detail
    [said] = await rejected(pool)
    assert (said.reason, said.auroc) == ("bad_evidence", None)


async def test_a_champion_whose_evidence_is_lost_is_not_replaced_unseen(
    pool: store.Pool, judging: Callable[..., Any], candidate: Candidate, cohort: Cohort, objects: MemoryStore
) -> None:
    first = candidate(cohort(3.0))
    await judging(first)
    objects.objects.pop(first.evidence.uri)
    await judging(candidate(cohort(0.1)))
    assert [decision.verdict.reason for decision in await ledger(pool)][1] is Reason.INSUFFICIENT_EVIDENCE


async def test_an_object_store_that_is_away_decides_nothing(
    pool: store.Pool, judging: Callable[..., Any], candidate: Candidate, cohort: Cohort, objects: MemoryStore
) -> None:
    event = candidate(cohort(1.0))
    objects.available = False
    with pytest.raises(StoreUnavailable):
        await judging(event)
    assert await ledger(pool) == []
    objects.available = True
    assert await judging(event) is Recorded.DECIDED


async def test_an_event_that_is_heard_again_changes_nothing(
    pool: store.Pool, judging: Callable[..., Any], candidate: Candidate, cohort: Cohort
) -> None:
    """The same event redelivered, and the same candidate registered anew by an event of its own."""
    event, first = candidate(cohort(1.0)), envelope()
    assert await judging(event, first) is Recorded.DECIDED
    assert await judging(event, first) is Recorded.ALREADY
    assert await judging(event) is Recorded.ALREADY
    assert len(await ledger(pool)) == len(await announced(pool)) == 1


async def test_a_version_that_returns_with_another_bundle_is_a_bad_message(
    judging: Callable[..., Any], candidate: Candidate, cohort: Cohort
) -> None:
    event = candidate(cohort(1.0))
    await judging(event)
    other = event.bundle.model_copy(update={"sha256": "ab" * 32})
    with pytest.raises(BadMessage, match="another bundle"):
        await judging(event.model_copy(update={"bundle": other}))


async def test_a_verdict_on_a_former_champion_is_not_written(
    pool: store.Pool, candidate: Candidate, cohort: Cohort
) -> None:
    """Both verdicts were reached while there was no champion; the second one has to be reached anew."""
    first, second = candidate(cohort(1.0)), candidate(cohort(1.1))
    assert await store.record(pool, first, envelope(), PROMOTED, None, KEPT) is Recorded.DECIDED
    caused_by = envelope()
    assert await store.record(pool, second, caused_by, PROMOTED, None, KEPT) is Recorded.STALE
    assert len(await ledger(pool)) == 1
    seen = await rows(pool, "SELECT event_id FROM governance.inbox")
    assert caused_by.id not in {row["event_id"] for row in seen}


async def test_two_promoters_that_hear_everything_at_once_agree_on_one_history(
    pool: store.Pool, conninfo: str, judging: Callable[..., Any], candidate: Candidate, cohort: Cohort
) -> None:
    events = [(candidate(cohort(noise)), envelope()) for noise in (8.0, 4.0, 2.0, 1.0, 0.7, 0.5, 0.3, 0.1)]
    async with store.make_pool(conninfo) as other:
        await asyncio.gather(
            *(judging(event, caused_by) for event, caused_by in events),
            *(judging(event, caused_by, on=other) for event, caused_by in reversed(events)),
        )
    decisions = await ledger(pool)
    assert sorted(d.event.model.version for d in decisions) == sorted(e.model.version for e, _ in events)
    promotions = [decision for decision in decisions if decision.epoch is not None]
    refused = [decision.decision_id for decision in decisions if decision.epoch is None]
    assert [said.decision_id for said in await rejected(pool)] == refused
    assert [decision.epoch for decision in promotions] == list(range(1, len(promotions) + 1))
    previous = None
    for decision in decisions:
        assert decision.champion_before == previous
        previous = decision.event.model if decision.epoch else previous
    assert [promoted.epoch for promoted in await announced(pool)] == [decision.epoch for decision in promotions]


@pytest.mark.parametrize("table", ["inbox", "decisions", "outbox"])
@pytest.mark.parametrize("outcome", ["promotion", "rejection"])
async def test_a_crash_between_two_steps_leaves_nothing_behind(
    pool: store.Pool,
    judging: Callable[..., Any],
    candidate: Candidate,
    cohort: Cohort,
    objects: MemoryStore,
    table: str,
    outcome: str,
) -> None:
    """Whichever of the three writes fails, none is there; the redelivered event then has its whole effect."""
    await script(
        pool,
        "CREATE FUNCTION governance.crash() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE 'crash'; END $$",
        f"CREATE TRIGGER crash AFTER INSERT ON governance.{table} EXECUTE FUNCTION governance.crash()",
    )
    event, caused_by = candidate(cohort(1.0)), envelope()
    if outcome == "rejection":
        objects.objects.clear()
    with pytest.raises(psycopg.errors.RaiseException, match="crash"):
        await judging(event, caused_by)
    for written in ("inbox", "decisions", "outbox"):
        assert await rows(pool, f"TABLE governance.{written}") == []
    await script(pool, f"DROP TRIGGER crash ON governance.{table}")
    assert await judging(event, caused_by) is Recorded.DECIDED
    assert (len(await announced(pool)), len(await rejected(pool))) == ((1, 0) if outcome == "promotion" else (0, 1))


async def test_a_connection_that_dies_before_the_commit_is_transient_and_leaves_nothing(
    pool: store.Pool, judging: Callable[..., Any], candidate: Candidate, cohort: Cohort
) -> None:
    await script(
        pool,
        "CREATE FUNCTION governance.cut() RETURNS trigger LANGUAGE plpgsql AS "
        "$$ BEGIN PERFORM pg_terminate_backend(pg_backend_pid()); RETURN NULL; END $$",
        "CREATE TRIGGER cut AFTER INSERT ON governance.outbox EXECUTE FUNCTION governance.cut()",
    )
    event = candidate(cohort(1.0))
    with pytest.raises(Transient, match="database"):
        await judging(event)
    assert await ledger(pool) == []


async def test_the_last_promotion_is_announced_again_unchanged(
    pool: store.Pool, judging: Callable[..., Any], candidate: Candidate, cohort: Cohort
) -> None:
    assert await store.announce_champion(pool) is None
    await judging(candidate(cohort(3.0)))
    await judging(candidate(cohort(0.1)))
    await judging(candidate(cohort(8.0)))
    await store.announce_champion(pool)
    first, second, again = await announced(pool)
    assert (first.epoch, second.epoch) == (1, 2)
    assert again == second


@pytest.mark.parametrize(
    ("seconds", "epochs", "counts"), [(1, 0, True), (1, 1, True), (-1, 1, False), (1, -1, False), (0, 0, False)]
)
async def test_a_pods_newest_word_counts_and_its_epoch_never_goes_back(
    pool: store.Pool, seconds: int, epochs: int, counts: bool
) -> None:
    later = LOADED.model_copy(
        update={
            "at": LOADED.at + timedelta(seconds=seconds), "epoch": LOADED.epoch + epochs,
            "outcome": "refused", "reason": "digest",
        }
    )  # fmt: skip
    await store.note_pod(pool, LOADED)
    await store.note_pod(pool, later)
    async with store.transaction(pool) as connection:
        assert await store.pods(connection, limit=10) == [later if counts else LOADED]


async def test_a_database_that_is_away_is_transient(conninfo: str) -> None:
    async with store.make_pool(conninfo) as pool:
        await pool.close()
        with pytest.raises(Transient):
            await store.note_pod(pool, LOADED)
