"""Whatever comes in whatever order, doubled, late, or cut off by a crash: one champion, one history.

Hypothesis draws the interleavings; the ledger is a real PostgreSQL, two replicas work on it, and a crash is a task that
is cancelled at any of its steps, which ends its transaction as the end of a process does.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Coroutine
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import uuid4

import psycopg
import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from readmit_chassis.envelope import Envelope, new_envelope
from readmit_chassis.failures import BadMessage, Transient
from readmit_chassis.s3 import MemoryStore
from readmit_contracts.events import ModelLoaded, ModelPromoted, ModelRegistered, RolloutChanged
from readmit_contracts.examples import EXAMPLES
from readmit_contracts.testing import example_prediction, message_of
from readmit_promoter import governor, handlers, pods, store
from readmit_promoter.announcement import Announcement
from readmit_promoter.candidates import take
from readmit_promoter.errors import NotAllowed
from readmit_promoter.governor import Progress, crown
from readmit_promoter.ledger import Approval, Crowned, Entry, Freeze, Judgement, Refusal, RolloutStage, Unfreeze
from readmit_promoter.policy import Policy
from readmit_promoter.rollout_policy import CanaryStage, ConvergencePolicy, RolloutPolicy, ShadowStage, TrialLimits

pytestmark = pytest.mark.stack

LOADED = next(example for example in EXAMPLES if isinstance(example, ModelLoaded))
PREDICTION = example_prediction()
CONVERGENCE = ConvergencePolicy(deadline_s=3600, settle_s=0)
ROLLOUTS = {
    "straight": RolloutPolicy(convergence=CONVERGENCE),
    "manual": RolloutPolicy(approval="manual", convergence=CONVERGENCE),
    "staged": RolloutPolicy(
        trial=(
            ShadowStage(stage="shadow", at_least_s=0, at_least_answers=2, at_most_s=3600),
            CanaryStage(stage="canary", share=0.5, at_least_s=0, at_least_answers=1, at_most_s=3600),
        ),
        limits=TrialLimits(judged_from=2),
        convergence=CONVERGENCE,
    ),
}
PODS = ("a", "b", "c")
#: Of fifty steps each. More of them find what is rarer; thousands take an hour.
INTERLEAVINGS = int(os.environ.get("READMIT_INTERLEAVINGS", "60"))
#: Steps of the event loop that a task gets before it dies; None lets it live.
CRASHES = st.none() | st.none() | st.integers(1, 60)
#: Of what the ledger holds. How much that is depends on when a crash came, and what is drawn must not.
WHICH = st.integers(0, 99)


@pytest.mark.timeout(300 + 10 * INTERLEAVINGS)
def test_one_champion_and_one_history_whatever_happens(
    template_database: str,
    quick_policy: Policy,
    candidate: Callable[..., ModelRegistered],
    cohort: Callable[..., dict[str, Any]],
    objects: MemoryStore,
) -> None:
    # Of two versions of the data, which share 300 of 400 rows; each is heard of when it pleases. The first is of the
    # newer version, so that those of the older one come late: the next is worse than it, the one after is better.
    noises = (4.0, 5.0, 2.5, 1.8, 1.4, 8.0, 1.0, 0.7, 0.5, 0.3)
    versions = (2, 1, 1, 2, 1, 1, 2, 1, 2, 1)
    candidates = [
        candidate(cohort(noise, rows=400, first_row=100 * (version - 1)), dataset_version=version)
        for noise, version in zip(noises, versions, strict=True)
    ]
    judged_late: set[str] = set()  # what came of candidates of the first version after a champion of the second
    # What is judged here is the history, not the models: the gates that make a champion, and few resamples.
    document = quick_policy.document()
    document["bootstrap"] |= {"resamples": 100}
    document["gates"] = {
        gate: document["gates"][gate] for gate in ("evidence", "provenance", "discrimination", "champion")
    }
    policy = Policy.model_validate(document)

    def beats(judgement: Judgement, champion: Crowned) -> bool:
        [gate] = [gate for gate in judgement.verdict["gates"] if gate["gate"] == "champion"]
        assert judgement.champion is not None
        return bool(
            judgement.champion.epoch == champion.epoch
            and gate["status"] == "pass"
            and gate["figures"]["auroc_difference_low"] > 0
            and gate["figures"]["common_rows"] in {300, 400}
        )

    class Machine(RuleBasedStateMachine):
        def __init__(self) -> None:
            super().__init__()
            self._runner = asyncio.Runner()
            self._conninfo = ""
            self._pools: list[store.Pool] = []
            self._registered: list[tuple[ModelRegistered, Envelope]] = []
            self._rollout = ROLLOUTS["straight"]
            self._entries: list[Entry] = []
            self._sent: list[Any] = []
            self._last_sent = 0

        @initialize(rollout=st.sampled_from(sorted(ROLLOUTS)), tried=st.integers(0, 4))
        def begin(self, rollout: str, tried: int) -> None:
            name = f"machine_{uuid4().hex}"
            with psycopg.connect(template_database, autocommit=True) as connection:
                connection.execute(f"CREATE DATABASE {name} TEMPLATE template".encode())
            self._conninfo = template_database.replace("dbname=postgres", f"dbname={name}").replace(
                "user=postgres", "user=readmit_promoter"
            )
            self._rollout = ROLLOUTS[rollout]
            self._runner.run(self._open())
            for _ in range(tried):
                self.train()
                self._runner.run(self._take_all_the_way(*self._registered[-1]))

        async def _open(self) -> None:
            for _ in range(2):
                pool = store.make_pool(self._conninfo)
                await pool.open()
                self._pools.append(pool)

        async def _take_all_the_way(self, event: ModelRegistered, envelope: Envelope) -> None:
            pool = self._pools[0]
            await store.queue(pool, event, envelope)
            await handlers.judge_next(pool, objects, self._policy())
            async with store.writing(pool) as connection:
                judgement = await store.judged(connection, event.model)
                waits = judgement and (await governor.standing(connection, judgement))[0] is Progress.WAITING
                if judgement is not None and waits:
                    await governor.approve(connection, judgement.entry_id, self._rollout, by="ada", reason="fine")
                await governor.end_trial(connection, passed=True, by="ada", reason="good", cause=None)

        def teardown(self) -> None:
            if self._pools:
                self._runner.run(self._settle())
                for pool in self._pools:
                    self._runner.run(pool.close())
                name = self._conninfo.split("dbname=")[1].split()[0]
                with psycopg.connect(template_database, autocommit=True) as connection:
                    connection.execute(f"DROP DATABASE {name} WITH (FORCE)".encode())
            self._runner.close()

        def _policy(self) -> Policy:
            return policy.model_copy(update={"rollout": self._rollout})

        def _do(self, crash: int | None, *work: Coroutine[Any, Any, Any]) -> None:
            """Side by side, each until it ends, or until the crash."""
            self._runner.run(self._side_by_side(crash, *work))

        async def _side_by_side(self, crash: int | None, *work: Coroutine[Any, Any, Any]) -> None:
            tasks = [asyncio.create_task(each) for each in work]
            if crash is not None:
                for _ in range(crash):
                    await asyncio.sleep(0.0005)
                for task in tasks:
                    task.cancel()
            for outcome in await asyncio.gather(*tasks, return_exceptions=True):
                if isinstance(outcome, BaseException) and not isinstance(
                    outcome, (BadMessage, NotAllowed, Transient, asyncio.CancelledError)
                ):
                    raise outcome

        # What may happen.

        @precondition(lambda self: len(self._registered) < len(candidates))
        @rule()
        def train(self) -> None:
            """A candidate is in the registry; who hears of it when is another matter."""
            event = candidates[len(self._registered)]
            envelope = new_envelope(event.EVENT_TYPE, source="trainer", subject="any")
            self._registered.append((event, envelope))

        @precondition(lambda self: self._registered)
        @rule(which=WHICH, crash=CRASHES, anew=st.booleans(), spoiled=st.sampled_from([False] * 7 + [True]))
        def hear_of_a_candidate(self, which: int, crash: int | None, anew: bool, spoiled: bool) -> None:
            """Early or late, once or often, by either replica or both, and at times with a figure that is none."""
            event, envelope = self._registered[which % len(self._registered)]
            if anew:
                envelope = new_envelope(event.EVENT_TYPE, source="trainer", subject="any")
            heard = event.model_dump_json().replace('"brier":0.5', '"brier":NaN' if spoiled else '"brier":0.5')
            said = Announcement.model_validate_json(heard)
            self._do(crash, *(take(said, envelope, pool, self._policy(), lambda: None) for pool in self._pools))

        @rule(crash=CRASHES, replicas=st.integers(1, 2))
        def judge(self, crash: int | None, replicas: int) -> None:
            work = (handlers.judge_next(pool, objects, self._policy()) for pool in self._pools[:replicas])
            self._do(crash, *work)

        @rule(crash=CRASHES)
        def watch(self, crash: int | None) -> None:
            for work in (handlers.watch_trial, handlers.watch_convergence):
                self._do(crash, *(work(pool, self._rollout) for pool in self._pools))

        @rule(crash=CRASHES, further=st.booleans())
        def roll_back(self, crash: int | None, further: bool) -> None:
            self._do(crash, *(self._command(pool, "roll_back") for pool in self._pools[: 1 + further]))

        @rule(crash=CRASHES, which=st.sampled_from(["freeze", "unfreeze"]))
        def freeze(self, crash: int | None, which: str) -> None:
            self._do(crash, *(self._command(pool, which) for pool in self._pools))

        @rule(crash=CRASHES, which=st.sampled_from(["roll_back", "freeze", "unfreeze"]), after=st.integers(0, 30))
        def judge_while_somebody_commands(self, crash: int | None, which: str, after: int) -> None:
            """A judgement takes its time; what it rests on may be gone when it is done."""
            if len(self._registered) < len(candidates):
                self.train()
                self._do(None, store.queue(self._pools[0], *self._registered[-1]))

            async def late(pool: store.Pool) -> None:
                await asyncio.sleep(after * 0.0005)
                await self._command(pool, which)

            first, second = self._pools
            self._do(crash, handlers.judge_next(first, objects, self._policy()), late(second))

        async def _command(self, pool: store.Pool, which: str) -> None:
            async with store.writing(pool) as connection:
                if which == "roll_back":
                    await governor.roll_back(connection, to=None, by="ada", reason="why not")
                else:
                    work = governor.freeze if which == "freeze" else governor.unfreeze
                    await work(connection, by="ada", reason="audit")

        @rule(which=WHICH, crash=CRASHES, yes=st.booleans())
        def answer_for_a_candidate(self, which: int, crash: int | None, yes: bool) -> None:
            judged = [entry.entry_id for entry in self._ledger() if isinstance(entry.fact, Judgement)]
            if not judged:
                return
            decision_id = judged[which % len(judged)]

            async def command(pool: store.Pool) -> None:
                async with store.writing(pool) as connection:
                    if yes:
                        await governor.approve(connection, decision_id, self._rollout, by="ada", reason="fine")
                    else:
                        await governor.refuse(connection, decision_id, by="ada", reason="no")

            self._do(crash, *(command(pool) for pool in self._pools))

        @rule(
            pod=st.sampled_from(PODS), which=WHICH, crash=CRASHES, refuses=st.sampled_from([False, False, False, True])
        )
        def a_pod_says_something(self, pod: str, which: int, crash: int | None, refuses: bool) -> None:
            """Of any promotion so far, the newest or an old one."""
            promotions = self._announced()
            if not promotions:
                return
            promoted = promotions[which % len(promotions)]
            word = LOADED.model_copy(
                update={
                    "pod_id": pod, "epoch": promoted.epoch, "model": promoted.model, "sha256": promoted.bundle.sha256,
                    "outcome": "refused" if refuses else "serving", "reason": "digest" if refuses else None,
                    "at": datetime.now(UTC),
                }
            )  # fmt: skip
            self._do(crash, *(pods.note_pod(pool, word) for pool in self._pools))

        @rule(which=WHICH, crash=CRASHES)
        def answers_of_a_trial(self, which: int, crash: int | None) -> None:
            stages = [entry.fact for entry in self._ledger() if isinstance(entry.fact, RolloutStage)]
            if not stages:
                return
            stage = stages[which % len(stages)]
            event = PREDICTION.model_copy(
                update={
                    "prediction_id": uuid4(), "rollout_id": stage.rollout_id,
                    "role": "challenger" if stage.stage == "canary" else "champion",
                }
            )  # fmt: skip
            self._do(crash, *(handlers.take_answers(message_of(event), pool, self._rollout) for pool in self._pools))

        # What must hold.

        def _ledger(self) -> list[Entry]:
            """Oldest first. What was read before cannot have changed: the database refuses that."""

            async def read() -> list[Entry]:
                async with store.transaction(self._pools[0]) as connection:
                    last = await store.last_entry(connection)
                    missing = (last.sequence if last else 0) - len(self._entries)
                    return (await store.entries(connection, limit=missing))[::-1]

            if self._pools:
                self._entries += self._runner.run(read())
            return self._entries

        def _announced(self) -> list[ModelPromoted]:
            return [event for event in self._outbox() if isinstance(event, ModelPromoted)]

        def _outbox(self) -> list[Any]:
            """Promotions and changes of trials, as they were put there. No relay takes anything out."""
            kinds = {"model.promoted": ModelPromoted, "rollout.changed": RolloutChanged}

            async def read() -> None:
                query = "SELECT id, topic, payload FROM governance.outbox WHERE id > %s AND topic = ANY(%s) ORDER BY id"
                async with store.transaction(self._pools[0]) as connection:
                    async for row in await connection.execute(query, (self._last_sent, list(kinds))):
                        self._last_sent = row["id"]
                        self._sent.append(kinds[row["topic"]].model_validate(row["payload"]))

            if self._pools:
                self._runner.run(read())
            return self._sent

        @invariant()
        def epochs_grow_by_one_and_each_champion_was_accepted_and_follows_the_one_before(self) -> None:
            judged: dict[Any, Judgement] = {}
            trained_on = {event.model: event.dataset_version for event, _ in self._registered}
            approved, refused = set(), set()
            champion: Crowned | None = None
            frozen = False
            stage: RolloutStage | None = None
            for place, entry in enumerate(self._ledger(), start=1):
                fact = entry.fact
                assert entry.sequence == place
                if isinstance(fact, Judgement) and fact.is_unread:
                    judged[entry.entry_id] = fact
                elif isinstance(fact, Judgement):
                    assert not frozen
                    assert stage is None or stage.stage == "ended"
                    assert (fact.champion and fact.champion.epoch) == (champion and champion.epoch)
                    judged[entry.entry_id] = fact
                    if champion and fact.candidate.dataset_version < trained_on[champion.model]:
                        judged_late.add(fact.verdict["outcome"])
                elif isinstance(fact, Crowned):
                    assert fact.epoch == (champion.epoch + 1 if champion else 1)
                    assert fact.previous == (champion.model if champion else None)
                    assert judged[fact.judgement_id].identity.model == fact.model
                    assert judged[fact.judgement_id].verdict["outcome"] == "accepted"
                    if fact.KIND == "promotion":
                        assert not frozen
                        assert fact.judgement_id not in refused
                        assert self._rollout.approval == "automatic" or fact.judgement_id in approved
                        # Whatever data either comes from: only who beat it, on rows of both, replaces a champion.
                        assert champion is None or beats(judged[fact.judgement_id], champion)
                    champion = fact
                elif isinstance(fact, (Freeze, Unfreeze)):
                    assert isinstance(fact, Freeze) != frozen
                    frozen = not frozen
                elif isinstance(fact, Approval):
                    assert fact.judgement_id not in approved | refused
                    approved.add(fact.judgement_id)
                elif isinstance(fact, Refusal):
                    assert fact.judgement_id not in approved | refused
                    refused.add(fact.judgement_id)
                elif isinstance(fact, RolloutStage):
                    assert fact.revision == (stage.revision + 1 if stage else 1)
                    assert stage is None or stage.stage == "ended" or stage.rollout_id == fact.rollout_id
                    stage = fact
            versions = [(j.identity.model.name, j.identity.model.version) for j in judged.values()]
            assert len(versions) == len(set(versions))

        @invariant()
        def what_is_announced_is_what_is_written(self) -> None:
            sent = self._outbox()
            written = [entry for entry in self._ledger() if isinstance(entry.fact, Crowned)]
            assert [(p.epoch, p.model, p.decision_id) for p in sent if isinstance(p, ModelPromoted)] == [
                (crown(entry).epoch, crown(entry).model, entry.entry_id) for entry in written
            ]
            stages = [entry.fact.revision for entry in self._ledger() if isinstance(entry.fact, RolloutStage)]
            assert [change.revision for change in sent if isinstance(change, RolloutChanged)] == stages

        async def _settle(self) -> None:
            """Everything is heard at last, and nothing breaks off: every candidate is judged, the chain is whole."""
            pool = self._pools[0]
            for event, envelope in self._registered:
                with suppress(BadMessage):  # refused for good, because it was spoiled when it was first heard of
                    await store.queue(pool, event, envelope)
            async with store.writing(pool) as connection:
                if await store.is_frozen(connection):
                    await governor.unfreeze(connection, by="ada", reason="the end")
            while True:
                async with store.writing(pool) as connection:
                    await governor.end_trial(connection, passed=False, by="ada", reason="the end", cause=None)
                if await handlers.judge_next(pool, objects, self._policy()) is None:
                    break
            async with store.transaction(pool) as connection:
                assert await store.count_waiting(connection) == 0
                for event, _ in self._registered:
                    assert await store.judged(connection, event.model) is not None
                _, problems = await store.chain(connection)
                assert problems == []
                present = await store.champion(connection)
            if present is None:
                return
            later = datetime.now(UTC) + timedelta(seconds=1)
            for pod in PODS:
                word = {"pod_id": pod, "epoch": crown(present).epoch, "outcome": "serving", "reason": None, "at": later}
                await pods.note_pod(pool, LOADED.model_copy(update=word))
            await handlers.watch_convergence(pool, self._rollout)
            async with store.transaction(pool) as connection:
                assert await handlers.settled(connection, crown(present).epoch) is not None

    run_state_machine_as_test(
        Machine,
        settings=settings(
            max_examples=INTERLEAVINGS,
            stateful_step_count=50,
            deadline=None,
            suppress_health_check=list(HealthCheck),
            print_blob=True,
        ),
    )
    if INTERLEAVINGS >= 50:  # fewer may not come upon both
        assert judged_late == {"accepted", "rejected"}
