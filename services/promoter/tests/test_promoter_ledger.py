"""The ledger on a real PostgreSQL: what it refuses, and that a decision happens whole, once, and in order."""

from __future__ import annotations

import asyncio
import hashlib
import json
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from importlib import resources
from typing import Any
from uuid import uuid4

import psycopg
import pytest
from psycopg.types.json import Jsonb

from readmit_chassis.envelope import Envelope, new_envelope
from readmit_chassis.failures import BadMessage, Transient
from readmit_chassis.migrations import apply_migrations
from readmit_chassis.s3 import MemoryStore, StoreUnavailable
from readmit_contracts.events import MODEL_STREAM, ModelPromoted, ModelRegistered, ModelRejected
from readmit_promoter import governor, store
from readmit_promoter.governor import Progress, crown, of
from readmit_promoter.handlers import judge_next
from readmit_promoter.ledger import Entry, Judgement, Promotion
from readmit_promoter.policy import Policy

pytestmark = pytest.mark.stack

Candidate = Callable[..., ModelRegistered]
Cohort = Callable[..., dict[str, Any]]
Judging = Callable[..., Awaitable[Progress | None]]


def envelope() -> Envelope:
    return new_envelope(ModelRegistered.EVENT_TYPE, source="trainer", subject="any")


async def rows(pool: store.Pool, query: str) -> list[dict[str, Any]]:
    async with pool.connection() as connection:
        return await (await connection.execute(query.encode())).fetchall()


async def script(pool: store.Pool, *statements: str) -> None:
    async with pool.connection() as connection:
        for statement in statements:
            await connection.execute(statement.encode())


async def ledger(pool: store.Pool, *kinds: str) -> list[Entry]:
    """Oldest first."""
    async with store.transaction(pool) as connection:
        return (await store.entries(connection, kinds or None))[::-1]


async def announced(pool: store.Pool) -> list[ModelPromoted]:
    found = await rows(pool, "SELECT payload FROM governance.outbox WHERE topic = 'model.promoted' ORDER BY id")
    return [ModelPromoted.model_validate(row["payload"]) for row in found]


async def rejected(pool: store.Pool) -> list[ModelRejected]:
    found = await rows(pool, "SELECT payload FROM governance.outbox WHERE topic = 'model.rejected' ORDER BY id")
    return [ModelRejected.model_validate(row["payload"]) for row in found]


@pytest.fixture
def judging(pool: store.Pool, objects: MemoryStore, quick_policy: Policy) -> Judging:
    """`model.registered` is heard, and whoever waits is judged; None where nobody did."""

    async def call(
        event: ModelRegistered, caused_by: Envelope | None = None, *, on: store.Pool = pool
    ) -> Progress | None:
        await store.queue(on, event, caused_by or envelope())
        return await judge_next(on, objects, quick_policy)

    return call


@pytest.mark.parametrize(
    "change",
    [
        "UPDATE governance.decisions SET document = '{}'",
        "UPDATE governance.decisions SET at = now() WHERE false",
        "DELETE FROM governance.decisions",
        "TRUNCATE governance.decisions",
    ],
)
async def test_an_entry_can_never_be_changed_or_removed(
    pool: store.Pool, judging: Judging, candidate: Candidate, cohort: Cohort, change: str
) -> None:
    await judging(candidate(cohort(1.0)))
    with pytest.raises(psycopg.errors.RaiseException, match="append-only"):
        await rows(pool, change)
    assert [entry.fact.KIND for entry in await ledger(pool)] == ["judgement", "promotion"]


@pytest.mark.parametrize("wrong", ["sequence", "previous", "digest", "column", "time"])
async def test_the_database_refuses_what_does_not_continue_the_chain(
    pool: store.Pool, judging: Judging, candidate: Candidate, cohort: Cohort, wrong: str
) -> None:
    """Also where somebody with the promoter's own rights writes a row by hand."""
    await judging(candidate(cohort(1.0)))
    last = (await ledger(pool))[-1]
    at = datetime(2026, 11, 28, 12, tzinfo=UTC)
    document = json.dumps(
        {
            "sequence": last.sequence + (2 if wrong == "sequence" else 1),
            "entry_id": str(uuid4()),
            "kind": "freeze",
            "at": at.isoformat(),
            "by": "somebody",
            "reason": "by hand",
            "fact": {},
        }
    )
    previous = "0" * 64 if wrong == "previous" else last.sha256
    digest = hashlib.sha256(f"{previous}\n{document}".encode()).hexdigest()
    row = {
        "sequence": last.sequence + (2 if wrong in {"sequence", "column"} else 1),
        "document": document,
        "previous": previous,
        "sha256": "f" * 64 if wrong == "digest" else digest,
        "at": at + timedelta(hours=wrong == "time"),
    }
    with pytest.raises(psycopg.Error, match=r"chain|check constraint"):
        async with pool.connection() as connection:
            await connection.execute(
                "INSERT INTO governance.decisions (sequence, document, previous_sha256, sha256, at)"
                " VALUES (%(sequence)s, %(document)s, %(previous)s, %(sha256)s, %(at)s)", row
            )  # fmt: skip
    assert (await ledger(pool))[-1] == last


async def test_a_changed_entry_is_found_by_its_digest(
    pool: store.Pool, judging: Judging, candidate: Candidate, cohort: Cohort
) -> None:
    """Whoever owns the table can take the triggers away, but not keep the digests right."""
    for noise in (3.0, 1.0):
        await judging(candidate(cohort(noise)))
    async with store.transaction(pool) as connection:
        entries, problems = await store.chain(connection)
    assert (entries, problems) == (4, [])
    await script(
        pool,
        "ALTER TABLE governance.decisions DISABLE TRIGGER USER",
        "ALTER TABLE governance.decisions DROP CONSTRAINT digest_covers_entry",
        'UPDATE governance.decisions SET document = replace(document, \'"by":"promoter"\', \'"by":"nobody"\')'
        " WHERE sequence = 2",
    )
    async with store.transaction(pool) as connection:
        _, problems = await store.chain(connection)
    assert problems == ["entry 2 is not what its digest was made of"]


async def test_a_promotion_is_written_with_its_evidence_and_announced(
    pool: store.Pool, judging: Judging, candidate: Candidate, cohort: Cohort, quick_policy: Policy
) -> None:
    event = candidate(cohort(1.0))
    cause = envelope()
    assert await judging(event, cause) is Progress.PROMOTED
    judgement, promotion = await ledger(pool)
    assert (of(judgement).candidate, of(judgement).champion) == (event, None)
    assert of(judgement).decision["policy"] == quick_policy.document()
    assert crown(promotion).judgement_id == judgement.entry_id
    assert (crown(promotion).epoch, crown(promotion).evidence, crown(promotion).previous) == (1, event.evidence, None)
    [promoted] = await announced(pool)
    assert (promoted.epoch, promoted.model, promoted.bundle) == (1, event.model, event.bundle)
    assert (promoted.decision_id, promoted.previous, promoted.action) == (promotion.entry_id, None, "promotion")
    [sent] = await rows(pool, "SELECT topic, key, headers FROM governance.outbox")
    assert (sent["topic"], sent["key"], sent["headers"]["ce_subject"]) == ("model.promoted", MODEL_STREAM, "1")
    assert sent["headers"]["traceparent"].split("-")[1] == cause.traceparent.split("-")[1]


async def test_a_rejection_is_written_and_announced_with_its_gate_and_figures(
    pool: store.Pool, judging: Judging, candidate: Candidate, cohort: Cohort
) -> None:
    first, second = candidate(cohort(0.5)), candidate(cohort(3.0))
    await judging(first)
    cause = envelope()
    assert await judging(second, cause) is Progress.REJECTED
    judgement = (await ledger(pool))[-1]
    verdict = of(judgement).verdict
    assert verdict["reason"] == "not_better_beyond_noise"
    opponent = of(judgement).champion
    assert opponent is not None
    assert (opponent.epoch, opponent.model) == (1, first.model)
    assert len(await announced(pool)) == 1
    [said] = await rejected(pool)
    assert said == ModelRejected(
        decision_id=judgement.entry_id, model=second.model, dataset_version=1, batch=1,
        reason="not_better_beyond_noise", detail=verdict["detail"], auroc=verdict["auroc"]["point"],
        decided_by="promoter", decided_at=judgement.at,
    )  # fmt: skip
    [sent] = await rows(pool, "SELECT key, headers FROM governance.outbox WHERE topic = 'model.rejected'")
    assert (sent["key"], sent["headers"]["ce_subject"]) == (MODEL_STREAM, f"{second.model.name}/{second.model.version}")
    assert sent["headers"]["traceparent"].split("-")[1] == cause.traceparent.split("-")[1]


async def test_the_same_bytes_registered_as_another_version_are_judged_for_themselves(
    pool: store.Pool, judging: Judging, candidate: Candidate, cohort: Cohort
) -> None:
    """As a forced retraining on unchanged data gives them: no better than themselves."""
    first = candidate(cohort(0.5))
    await judging(first)
    again = candidate(cohort(0.5)).model_copy(update={"bundle": first.bundle})
    assert await judging(again) is Progress.REJECTED
    [said] = await rejected(pool)
    assert (said.model, said.reason) == (again.model, "not_better_beyond_noise")


async def test_missing_evidence_is_a_rejection_with_its_reason(
    pool: store.Pool, judging: Judging, candidate: Candidate, cohort: Cohort, objects: MemoryStore
) -> None:
    event = candidate(cohort(1.0))
    objects.objects.pop(event.evidence.uri)
    assert await judging(event) is Progress.REJECTED
    [judgement] = await ledger(pool)
    assert of(judgement).verdict["reason"] == "bad_evidence"
    assert "there is nothing at" in of(judgement).verdict["detail"]


async def test_a_champion_whose_evidence_is_lost_is_not_replaced_unseen(
    pool: store.Pool, judging: Judging, candidate: Candidate, cohort: Cohort, objects: MemoryStore
) -> None:
    first = candidate(cohort(3.0))
    await judging(first)
    objects.objects.pop(first.evidence.uri)
    assert await judging(candidate(cohort(0.1))) is Progress.REJECTED
    assert of((await ledger(pool))[-1]).verdict["reason"] == "insufficient_evidence"


async def test_an_object_store_that_is_away_decides_nothing_and_keeps_the_candidate(
    pool: store.Pool, judging: Judging, candidate: Candidate, cohort: Cohort, objects: MemoryStore, quick_policy: Policy
) -> None:
    event = candidate(cohort(1.0))
    objects.available = False
    with pytest.raises(StoreUnavailable):
        await judging(event)
    assert await ledger(pool) == []
    objects.available = True
    assert await judge_next(pool, objects, quick_policy) is Progress.PROMOTED


async def test_an_event_that_is_heard_again_changes_nothing(
    pool: store.Pool, judging: Judging, candidate: Candidate, cohort: Cohort
) -> None:
    """The same event redelivered, and the same candidate registered anew by an event of its own; waiting or judged."""
    event, first = candidate(cohort(1.0)), envelope()
    assert await store.queue(pool, event, first)
    assert not await store.queue(pool, event, first)
    assert not await store.queue(pool, event, envelope())
    assert await judging(event) is Progress.PROMOTED
    assert await judging(event, first) is None
    assert await judging(event) is None
    assert (len(await ledger(pool)), len(await announced(pool))) == (2, 1)


@pytest.mark.parametrize("is_judged", [True, False])
async def test_a_version_that_returns_with_another_bundle_is_a_bad_message(
    pool: store.Pool, judging: Judging, candidate: Candidate, cohort: Cohort, is_judged: bool
) -> None:
    event = candidate(cohort(1.0))
    await (judging(event) if is_judged else store.queue(pool, event, envelope()))
    other = event.bundle.model_copy(update={"sha256": "ab" * 32})
    with pytest.raises(BadMessage, match="another bundle"):
        await store.queue(pool, event.model_copy(update={"bundle": other}), envelope())


async def test_two_promoters_that_hear_everything_at_once_agree_on_one_history(
    pool: store.Pool,
    conninfo: str,
    judging: Judging,
    candidate: Candidate,
    cohort: Cohort,
    objects: MemoryStore,
    quick_policy: Policy,
) -> None:
    events = [(candidate(cohort(noise)), envelope()) for noise in (8.0, 4.0, 2.0, 1.0, 0.7, 0.5, 0.3, 0.1)]
    async with store.make_pool(conninfo) as other:
        await asyncio.gather(
            *(judging(event, caused_by) for event, caused_by in events),
            *(judging(event, caused_by, on=other) for event, caused_by in reversed(events)),
        )
        while await judge_next(other, objects, quick_policy) is not None:
            pass
    judgements = await ledger(pool, Judgement.KIND)
    assert sorted(of(j).candidate.model.version for j in judgements) == sorted(e.model.version for e, _ in events)
    refused = [j.entry_id for j in judgements if of(j).verdict["outcome"] == "rejected"]
    assert [said.decision_id for said in await rejected(pool)] == refused
    promotions = await ledger(pool, Promotion.KIND)
    assert [crown(entry).epoch for entry in promotions] == list(range(1, len(promotions) + 1))
    previous = None
    for entry in await ledger(pool):
        if isinstance(entry.fact, Judgement):
            assert (entry.fact.champion and entry.fact.champion.model) == previous
        else:
            assert crown(entry).previous == previous
            previous = crown(entry).model
    assert [promoted.epoch for promoted in await announced(pool)] == [crown(entry).epoch for entry in promotions]


@pytest.mark.parametrize("table", ["decisions", "outbox"])
@pytest.mark.parametrize("outcome", ["promotion", "rejection"])
async def test_a_crash_between_two_steps_leaves_nothing_behind(
    pool: store.Pool,
    judging: Judging,
    candidate: Candidate,
    cohort: Cohort,
    objects: MemoryStore,
    quick_policy: Policy,
    table: str,
    outcome: str,
) -> None:
    """Whichever of the writes fails, none is there, and the candidate still waits; then it has its whole effect."""
    await script(
        pool,
        "CREATE FUNCTION governance.crash() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE 'crash'; END $$",
        f"CREATE TRIGGER crash AFTER INSERT ON governance.{table} EXECUTE FUNCTION governance.crash()",
    )
    event = candidate(cohort(1.0))
    if outcome == "rejection":
        objects.objects.clear()
    with pytest.raises(psycopg.errors.RaiseException, match="crash"):
        await judging(event)
    for written in ("decisions", "outbox"):
        assert await rows(pool, f"TABLE governance.{written}") == []
    await script(pool, f"DROP TRIGGER crash ON governance.{table}")
    assert await judge_next(pool, objects, quick_policy) is not None
    assert (len(await announced(pool)), len(await rejected(pool))) == ((1, 0) if outcome == "promotion" else (0, 1))


async def test_a_crash_while_an_event_is_heard_leaves_nothing_behind(
    pool: store.Pool, candidate: Candidate, cohort: Cohort
) -> None:
    await script(
        pool,
        "CREATE FUNCTION governance.crash() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE 'crash'; END $$",
        "CREATE TRIGGER crash AFTER INSERT ON governance.candidates EXECUTE FUNCTION governance.crash()",
    )
    event, caused_by = candidate(cohort(1.0)), envelope()
    with pytest.raises(psycopg.errors.RaiseException, match="crash"):
        await store.queue(pool, event, caused_by)
    await script(pool, "DROP TRIGGER crash ON governance.candidates")
    assert await store.queue(pool, event, caused_by)


async def test_a_connection_that_dies_before_the_commit_is_transient_and_leaves_nothing(
    pool: store.Pool, judging: Judging, candidate: Candidate, cohort: Cohort
) -> None:
    await script(
        pool,
        "CREATE FUNCTION governance.cut() RETURNS trigger LANGUAGE plpgsql AS "
        "$$ BEGIN PERFORM pg_terminate_backend(pg_backend_pid()); RETURN NULL; END $$",
        "CREATE TRIGGER cut AFTER INSERT ON governance.outbox EXECUTE FUNCTION governance.cut()",
    )
    with pytest.raises(Transient, match="database"):
        await judging(candidate(cohort(1.0)))
    assert await ledger(pool) == []


async def test_what_was_champion_at_a_time_is_one_question(
    pool: store.Pool, judging: Judging, candidate: Candidate, cohort: Cohort
) -> None:
    events = [candidate(cohort(noise)) for noise in (3.0, 1.0, 0.3)]
    for event in events:
        await judging(event)
    promotions = await ledger(pool, Promotion.KIND)
    async with store.transaction(pool) as connection:
        assert await store.champion_at(connection, promotions[0].at - timedelta(microseconds=1)) is None
        for event, entry in zip(events, promotions, strict=True):
            found = await store.champion_at(connection, entry.at)
            assert found is not None
            assert crown(found).model == event.model


async def test_decisions_of_before_the_chain_are_taken_over(
    template_database: str, candidate: Candidate, cohort: Cohort
) -> None:
    """A database that the first migration made, with a promotion and a rejection in it."""
    with psycopg.connect(template_database, autocommit=True) as connection:
        connection.execute("CREATE DATABASE before_chain")
    owner = template_database.replace("dbname=postgres", "dbname=before_chain")
    with psycopg.connect(owner, autocommit=True) as connection:
        connection.execute("CREATE SCHEMA governance AUTHORIZATION readmit_promoter")
    ours = owner.replace("user=postgres", "user=readmit_promoter")
    first, second = candidate(cohort(1.0)), candidate(cohort(3.0))
    _decide_as_before_the_chain(ours, first, second)
    apply_migrations(ours, "governance", "readmit_promoter")
    async with store.make_pool(ours) as pool:
        entries = await ledger(pool)
        assert [entry.fact.KIND for entry in entries] == ["judgement", "promotion", "judgement"]
        assert entries[0].at == entries[1].at == datetime(2026, 11, 1, tzinfo=UTC)
        assert (of(entries[0]).candidate, of(entries[2]).candidate) == (first, second)
        assert (of(entries[2]).verdict["detail"], of(entries[2]).verdict["difference"]["low"]) == ("AUROC -0.02", -0.03)
        opponent = of(entries[2]).champion
        assert opponent is not None
        assert (opponent.epoch, opponent.model) == (1, first.model)
        async with store.transaction(pool) as connection:
            assert await store.chain(connection) == (3, [])
            assert await store.champion(connection) == entries[1]
            assert await governor.standing(connection, entries[0]) == (Progress.PROMOTED, 1)


def _decide_as_before_the_chain(conninfo: str, promoted: ModelRegistered, refused: ModelRegistered) -> None:
    first = resources.files("readmit_promoter") / "migrations" / "0001_ledger.sql"
    with psycopg.connect(conninfo, autocommit=True) as connection:
        connection.execute(first.read_bytes())
        connection.execute(
            "CREATE TABLE governance.migrations (name text PRIMARY KEY, sha256 text NOT NULL,"
            " applied_at timestamptz NOT NULL DEFAULT now())"
        )
        digest = hashlib.sha256(first.read_bytes()).hexdigest()
        connection.execute("INSERT INTO governance.migrations (name, sha256) VALUES ('0001_ledger.sql', %s)", (digest,))
        for event, epoch, day in ((promoted, 1, 1), (refused, None, 2)):
            connection.execute(
                "INSERT INTO governance.decisions (decision_id, model_name, model_version, outcome, reason, detail,"
                " difference, difference_low, difference_high, epoch, champion_before, evidence_sha256, policy, event,"
                " decided_at) VALUES (gen_random_uuid(), %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, '{}', %s, %s)",
                (
                    event.model.name, event.model.version, "promoted" if epoch else "rejected",
                    "first_champion" if epoch else "not_better_beyond_noise", "AUROC 0.7" if epoch else "AUROC -0.02",
                    None if epoch else -0.02, None if epoch else -0.03, None if epoch else -0.01, epoch,
                    None if epoch else Jsonb(promoted.model.model_dump()), event.evidence.sha256,
                    Jsonb(event.model_dump(mode="json")), datetime(2026, 11, day, tzinfo=UTC),
                ),
            )  # fmt: skip


async def test_a_database_that_is_away_is_transient(conninfo: str) -> None:
    async with store.make_pool(conninfo) as pool:
        await pool.close()
        with pytest.raises(Transient):
            async with store.transaction(pool):
                raise AssertionError("a closed pool gave a connection")
