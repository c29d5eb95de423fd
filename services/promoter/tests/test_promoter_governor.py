"""Rollback, freeze, approval, trials, convergence and reactions on a real PostgreSQL."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID, uuid4

import pytest

from readmit_chassis.envelope import new_envelope
from readmit_chassis.s3 import MemoryStore
from readmit_contracts.events import (
    DriftDetected,
    ModelLoaded,
    ModelPromoted,
    ModelRegistered,
    ModelRejected,
    PerformanceDegraded,
    RolloutChanged,
    TrainingRequested,
)
from readmit_contracts.examples import EXAMPLES
from readmit_contracts.testing import example_prediction, message_of
from readmit_promoter import governor, handlers, pods, reactions, store
from readmit_promoter.errors import NotAllowed
from readmit_promoter.governor import Progress, crown, of
from readmit_promoter.handlers import judge_next
from readmit_promoter.ledger import Convergence, Entry, Judgement, Rollback, RolloutStage
from readmit_promoter.policy import Policy, load_policy
from readmit_promoter.rollout_policy import (
    CanaryStage,
    ConvergencePolicy,
    Reactions,
    RolloutPolicy,
    ShadowStage,
    TrialLimits,
)

pytestmark = pytest.mark.stack

Candidate = Callable[..., ModelRegistered]
Cohort = Callable[..., dict[str, Any]]
LOADED = next(example for example in EXAMPLES if isinstance(example, ModelLoaded))
PREDICTION = example_prediction()
DRIFT = next(example for example in EXAMPLES if isinstance(example, DriftDetected))
DEGRADED = next(example for example in EXAMPLES if isinstance(example, PerformanceDegraded))
MANUAL = RolloutPolicy(approval="manual")
STAGED = RolloutPolicy(
    trial=(
        ShadowStage(stage="shadow", at_least_s=0, at_least_answers=20, at_most_s=600),
        CanaryStage(stage="canary", share=0.25, at_least_s=0, at_least_answers=10, at_most_s=600),
    ),
    limits=TrialLimits(judged_from=10),
)
CONVERGING = RolloutPolicy(convergence=ConvergencePolicy(deadline_s=60, settle_s=0))


def degraded(epoch: int) -> PerformanceDegraded:
    """That the champion of an epoch does worse than it was promoted for."""
    return DEGRADED.model_copy(update={"epoch": epoch, "degradation_id": uuid4()})


class World:
    """A promoter without its loops: candidates come in, and what is due is done when a test says so."""

    def __init__(
        self, pool: store.Pool, objects: MemoryStore, policy: Policy, candidate: Candidate, cohort: Cohort
    ) -> None:
        self.pool = pool
        self._objects = objects
        self._policy = policy
        self._candidate = candidate
        self._cohort = cohort

    async def register(
        self, noise: float, rollout: RolloutPolicy | None = None, *, dataset_version: int = 1, first_row: int = 0
    ) -> tuple[Progress | None, Entry]:
        """A candidate with this noise is heard of and judged; how it stands, and its judgement."""
        event = self._candidate(self._cohort(noise, first_row=first_row), dataset_version=dataset_version)
        await store.queue(self.pool, event, new_envelope(event.EVENT_TYPE, source="trainer", subject="any"))
        stands = await self.judge(rollout)
        async with store.transaction(self.pool) as connection:
            entry = await store.judged(connection, event.model)
        if entry is None:
            raise AssertionError("not judged")
        return stands, entry

    async def judge(self, rollout: RolloutPolicy | None = None) -> Progress | None:
        """Whoever has waited longest."""
        policy = self._policy.model_copy(update={"rollout": rollout or RolloutPolicy()})
        return await judge_next(self.pool, self._objects, policy)

    async def champions(self, *noises: float) -> list[Entry]:
        """Candidates that all become champion, one after the other: their judgements."""
        found = []
        for noise in noises:
            stands, entry = await self.register(noise)
            assert stands is Progress.PROMOTED
            found.append(entry)
        return found

    async def roll_back(self, to: tuple[str, str] | None = None) -> Entry:
        async with store.writing(self.pool) as connection:
            return await governor.roll_back(connection, to=to, by="ada", reason="alerts doubled")

    async def champion(self) -> Entry:
        async with store.transaction(self.pool) as connection:
            found = await store.champion(connection)
        if found is None:
            raise AssertionError("nobody is champion")
        return found

    async def entries(self, *kinds: str) -> list[Entry]:
        """Oldest first."""
        async with store.transaction(self.pool) as connection:
            return (await store.entries(connection, kinds or None))[::-1]

    async def standing(self, judgement: Entry) -> Progress:
        async with store.transaction(self.pool) as connection:
            return (await governor.standing(connection, judgement))[0]

    async def said(self, topic: str, event: type[Any]) -> list[Any]:
        query = "SELECT payload FROM governance.outbox WHERE topic = %s ORDER BY id"
        async with self.pool.connection() as connection:
            found = await (await connection.execute(query, (topic,))).fetchall()
        return [event.model_validate(row["payload"]) for row in found]

    async def pod(self, name: str, epoch: int, *, refused: str | None = None, **more: Any) -> None:
        """A pod says what it serves, now."""
        word = {
            "pod_id": name, "epoch": epoch, "outcome": "refused" if refused else "serving", "reason": refused,
            "at": datetime.now(UTC), **more,
        }  # fmt: skip
        await pods.note_pod(self.pool, LOADED.model_copy(update=word))

    async def answers(self, how_many: int, rollout: RolloutPolicy, *, role: str = "champion", **other: Any) -> None:
        """So many predictions of the trial that is going on."""
        async with store.transaction(self.pool) as connection:
            stage = await governor.trial_under_way(connection)
        if stage is None or not isinstance(stage.fact, RolloutStage) or PREDICTION.other is None:
            raise AssertionError("nobody is on trial")
        said = {"risk": 0.18, "readmitted_within_30_days": True, "score_ms": 0.05} | other
        made = [
            PREDICTION.model_copy(
                update={
                    "prediction_id": uuid4(), "rollout_id": stage.fact.rollout_id, "role": role,
                    "other": PREDICTION.other.model_copy(update=said),
                }
            )
            for _ in range(how_many)
        ]  # fmt: skip
        await handlers.take_answers(message_of(*made), self.pool, rollout)


@pytest.fixture
def world(pool: store.Pool, objects: MemoryStore, quick_policy: Policy, candidate: Candidate, cohort: Cohort) -> World:
    return World(pool, objects, quick_policy, candidate, cohort)


async def test_late_candidates_of_a_previous_dataset_version_have_to_beat_the_champion_on_rows_of_both(
    world: World,
) -> None:
    """The version of the data decides nothing; who shares too few rows with the champion stays out."""
    await world.register(1.0, dataset_version=2, first_row=100)
    stands, worse = await world.register(2.0, dataset_version=1)
    assert (stands, of(worse).verdict["reason"]) == (Progress.REJECTED, "not_better_beyond_noise")
    assert of(worse).verdict["common_rows"] == 500
    stands, apart = await world.register(0.1, dataset_version=1, first_row=10_000)
    assert (stands, of(apart).verdict["reason"]) == (Progress.REJECTED, "insufficient_evidence")
    assert crown(await world.champion()).epoch == 1
    stands, better = await world.register(0.1, dataset_version=1)
    assert (stands, of(better).verdict["reason"]) == (Progress.PROMOTED, "beats_champion")
    assert (crown(await world.champion()).model, of(better).verdict["common_rows"]) == (of(better).identity.model, 500)


async def test_a_rollback_makes_the_champion_before_champion_again_under_a_new_epoch(world: World) -> None:
    first, second = await world.champions(3.0, 1.0)
    entry = await world.roll_back()
    fact = entry.fact
    assert isinstance(fact, Rollback)
    assert (fact.epoch, fact.restored_epoch, fact.model) == (3, 1, of(first).candidate.model)
    assert (fact.previous, fact.judgement_id) == (of(second).candidate.model, first.entry_id)
    assert (entry.by, entry.reason) == ("ada", "alerts doubled")
    said = (await world.said("model.promoted", ModelPromoted))[-1]
    assert (said.epoch, said.action, said.model, said.decided_by) == (3, "rollback", fact.model, "ada")
    assert said.bundle == of(first).candidate.bundle


async def test_going_back_twice_goes_back_further_and_then_there_is_nothing(world: World) -> None:
    first, *_ = await world.champions(8.0, 3.0, 1.0)
    await world.roll_back()
    assert crown(await world.roll_back()).model == of(first).candidate.model
    with pytest.raises(NotAllowed, match="no champion before"):
        await world.roll_back()


async def test_after_a_new_promotion_the_one_that_was_given_up_is_not_gone_back_to(world: World) -> None:
    first, _ = await world.champions(8.0, 3.0)
    await world.roll_back()
    await world.champions(0.3)
    assert crown(await world.roll_back()).model == of(first).candidate.model


async def test_going_back_to_a_named_version(world: World) -> None:
    first, second, third = await world.champions(8.0, 3.0, 1.0)
    for judgement in (first, third, second):
        model = of(judgement).candidate.model
        assert crown(await world.roll_back((model.name, model.version))).model == model
    assert crown(await world.champion()).epoch == 6


async def test_what_never_served_or_serves_now_is_not_gone_back_to(world: World) -> None:
    with pytest.raises(NotAllowed, match="no champion yet"):
        await world.roll_back()
    (champion,) = await world.champions(1.0)
    _, rejected = await world.register(8.0)
    known = await world.entries()
    for judgement, why in ((champion, "is champion now"), (rejected, "has never been champion")):
        model = of(judgement).candidate.model
        with pytest.raises(NotAllowed, match=why):
            await world.roll_back((model.name, model.version))
    assert await world.entries() == known


async def test_while_frozen_candidates_wait_and_rollbacks_do_not(world: World) -> None:
    await world.champions(3.0, 1.0)
    async with store.writing(world.pool) as connection:
        await governor.freeze(connection, by="ada", reason="audit")
        with pytest.raises(NotAllowed, match="frozen already"):
            await governor.freeze(connection, by="ada", reason="audit")
    with pytest.raises(AssertionError, match="not judged"):
        await world.register(0.3)
    await world.roll_back()
    async with store.writing(world.pool) as connection:
        await governor.unfreeze(connection, by="ada", reason="done")
        with pytest.raises(NotAllowed, match="not frozen"):
            await governor.unfreeze(connection, by="ada", reason="done")
    assert await world.judge() is Progress.PROMOTED
    last = (await world.entries(Judgement.KIND))[-1]
    opponent = of(last).champion
    assert opponent is not None
    assert opponent.epoch == 3  # judged against the champion that it replaces


async def test_with_manual_approval_a_person_says_yes_or_no(world: World) -> None:
    await world.champions(8.0)
    stands, judgement = await world.register(1.0, MANUAL)
    assert stands is Progress.WAITING
    assert await world.standing(judgement) is Progress.WAITING
    async with store.writing(world.pool) as connection:
        assert await governor.approve(connection, judgement.entry_id, MANUAL, by="ada", reason="looked at it") is (
            Progress.PROMOTED
        )
    champion = await world.champion()
    assert (champion.by, champion.reason) == ("ada", "approved: looked at it")
    _, other = await world.register(0.3, MANUAL)
    async with store.writing(world.pool) as connection:
        await governor.refuse(connection, other.entry_id, by="eve", reason="too good to be true")
    assert await world.standing(other) is Progress.REFUSED
    said = (await world.said("model.rejected", ModelRejected))[-1]
    assert (said.reason, said.detail, said.decided_by) == ("refused", "too good to be true", "eve")


async def test_an_approval_is_not_given_twice_nor_to_what_does_not_wait_nor_to_what_is_superseded(world: World) -> None:
    _, waiting = await world.register(3.0, MANUAL)
    _, rejected = await world.register(-30.0, MANUAL)  # the noise of the others upside down: below chance
    _, other = await world.register(1.0, MANUAL)

    async def approve(decision_id: UUID) -> Progress:
        async with store.writing(world.pool) as connection:
            return await governor.approve(connection, decision_id, MANUAL, by="ada", reason="fine")

    with pytest.raises(NotAllowed, match="There is no judgement"):
        await approve(uuid4())
    with pytest.raises(NotAllowed, match="does not wait"):
        await approve(rejected.entry_id)
    assert await approve(waiting.entry_id) is Progress.PROMOTED
    with pytest.raises(NotAllowed, match="does not wait"):
        await approve(waiting.entry_id)
    with pytest.raises(NotAllowed, match="no longer champion"):
        await approve(other.entry_id)
    assert await world.standing(other) is Progress.SUPERSEDED


async def test_a_candidate_goes_through_shadow_and_canary_and_becomes_champion(world: World) -> None:
    await world.champions(8.0)
    stands, judgement = await world.register(1.0, STAGED)
    assert stands is Progress.ON_TRIAL
    await world.answers(19, STAGED)
    await handlers.watch_trial(world.pool, STAGED)
    assert [e.fact.stage for e in await world.entries("rollout") if isinstance(e.fact, RolloutStage)] == ["shadow"]
    await world.answers(1, STAGED)
    await handlers.watch_trial(world.pool, STAGED)
    await world.answers(10, STAGED, role="challenger")
    assert crown(await world.champion()).epoch == 1
    await handlers.watch_trial(world.pool, STAGED)
    assert crown(await world.champion()).model == of(judgement).candidate.model
    changes = await world.said("rollout.changed", RolloutChanged)
    assert [(c.revision, c.stage, c.share) for c in changes] == [(1, "shadow", 0), (2, "canary", 0.25), (3, "ended", 0)]
    assert len({change.rollout_id for change in changes}) == 1
    stages = [e.fact for e in await world.entries("rollout") if isinstance(e.fact, RolloutStage)]
    assert (stages[1].figures["answers"], stages[2].figures["by_challenger"]) == (20, 10)
    assert stages[1].figures["mean_risk_difference"] == pytest.approx(0.18 - PREDICTION.risk)
    assert (stages[2].passed, await world.standing(judgement)) == (True, Progress.PROMOTED)


async def test_a_challenger_that_fails_is_out_and_the_champion_stays(world: World) -> None:
    (champion,) = await world.champions(8.0)
    _, judgement = await world.register(1.0, STAGED)
    await world.answers(10, STAGED, risk=0.9, readmitted_within_30_days=False)
    await handlers.watch_trial(world.pool, STAGED)
    assert crown(await world.champion()).model == of(champion).candidate.model
    assert await world.standing(judgement) is Progress.TRIAL_FAILED
    said = (await world.said("model.rejected", ModelRejected))[-1]
    assert said.reason == "trial_failed"
    assert "mean difference of risk +0.7270" in said.detail
    assert (await world.said("rollout.changed", RolloutChanged))[-1].stage == "ended"


async def test_an_answer_that_is_heard_twice_counts_once_and_those_of_another_trial_not_at_all(world: World) -> None:
    await world.champions(8.0)
    await world.register(1.0, STAGED)
    async with store.transaction(world.pool) as connection:
        stage = await governor.trial_under_way(connection)
        assert stage is not None
        assert isinstance(stage.fact, RolloutStage)
        ours = PREDICTION.model_copy(update={"rollout_id": stage.fact.rollout_id})
    of_another, alone = PREDICTION, ours.model_copy(update={"prediction_id": uuid4(), "other": None})
    for made in ([ours], [alone], [of_another], [ours, alone]):
        await handlers.take_answers(message_of(*made), world.pool, STAGED)
    async with store.transaction(world.pool) as connection:
        figures, _, _ = await handlers.assessed(connection, stage, STAGED)
    assert figures.answers == 1


async def test_while_one_is_on_trial_the_others_wait(world: World) -> None:
    await world.champions(8.0)
    await world.register(3.0, STAGED)
    with pytest.raises(AssertionError, match="not judged"):
        await world.register(1.0, STAGED)
    async with store.writing(world.pool) as connection:
        await governor.end_trial(connection, passed=False, by="ada", reason="enough", cause=None)
    assert await world.judge() is Progress.PROMOTED


async def test_a_first_champion_has_nobody_to_be_tried_beside(world: World) -> None:
    stands, _ = await world.register(1.0, STAGED)
    assert stands is Progress.PROMOTED


@pytest.mark.parametrize("what", ["rollback", "freeze"])
async def test_a_rollback_or_a_freeze_ends_a_trial(world: World, what: str) -> None:
    await world.champions(8.0, 3.0)
    _, judgement = await world.register(1.0, STAGED)
    if what == "rollback":
        await world.roll_back()
    else:
        async with store.writing(world.pool) as connection:
            await governor.freeze(connection, by="ada", reason="audit")
    assert await world.standing(judgement) is Progress.TRIAL_FAILED
    assert (await world.said("rollout.changed", RolloutChanged))[-1].stage == "ended"


async def test_a_promotion_that_every_pod_serves_has_converged(world: World) -> None:
    await world.champions(3.0)
    await world.pod("a", 1)
    await handlers.watch_convergence(world.pool, CONVERGING)
    await world.champions(1.0)
    await handlers.watch_convergence(world.pool, CONVERGING)
    await world.pod("a", 2)
    await handlers.watch_convergence(world.pool, CONVERGING)
    await handlers.watch_convergence(world.pool, CONVERGING)
    facts = [entry.fact for entry in await world.entries(Convergence.KIND)]
    assert [f.promotion_epoch for f in facts if isinstance(f, Convergence) and f.converged and f.pods == 1] == [1, 2]


async def test_a_promotion_that_pods_refuse_is_taken_back_and_the_rollback_is_not(world: World) -> None:
    first, _ = await world.champions(3.0, 1.0)
    await world.pod("a", 2, refused="digest")
    await handlers.watch_convergence(world.pool, CONVERGING)
    champion = await world.champion()
    assert isinstance(champion.fact, Rollback)
    assert (champion.fact.epoch, champion.fact.model) == (3, of(first).candidate.model)
    assert "did not converge: 1 pods refuse it (digest)" in champion.reason
    await world.pod("a", 3, refused="digest")
    await handlers.watch_convergence(world.pool, CONVERGING)
    assert crown(await world.champion()).epoch == 3
    facts = [entry.fact for entry in await world.entries(Convergence.KIND)]
    assert [fact.converged for fact in facts if isinstance(fact, Convergence)] == [False, False]


async def test_a_pod_that_left_is_not_waited_for(world: World) -> None:
    await world.champions(3.0)
    for name in ("a", "b"):
        await world.pod(name, 1)
    await world.pod("b", 1, occasion="leaving")
    await world.champions(1.0)
    await world.pod("a", 2, occasion="heartbeat")
    await handlers.watch_convergence(world.pool, CONVERGING)
    [fact] = [entry.fact for entry in await world.entries(Convergence.KIND)]
    assert isinstance(fact, Convergence)
    assert (fact.converged, fact.missing) == (True, ())


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
    await pods.note_pod(pool, LOADED)
    await pods.note_pod(pool, later)
    async with store.transaction(pool) as connection:
        assert await pods.pods(connection, limit=10) == [later if counts else LOADED]


async def test_pods_that_refuse_a_challenger_end_its_trial(world: World) -> None:
    await world.champions(8.0)
    _, judgement = await world.register(1.0, STAGED)
    await world.pod("a", 1)
    await world.pod("a", 1, refused="golden row 3", role="challenger", rollout_revision=1)
    await handlers.watch_trial(world.pool, STAGED)
    assert await world.standing(judgement) is Progress.TRIAL_FAILED


async def notice(world: World, event: DriftDetected | PerformanceDegraded, rollout: RolloutPolicy) -> None:
    """An event that is heard twice."""
    envelope = new_envelope(event.EVENT_TYPE, source="monitor", subject="any")
    for _ in range(2):
        await reactions.react(event, envelope, world.pool, rollout)


async def reacted(world: World) -> list[tuple[str, str, str]]:
    """Action, cause and reason of each reaction in the ledger."""
    found = [(entry.fact.model_dump(), entry.reason) for entry in await world.entries("reaction")]
    return [(fact["action"], fact["cause"], reason) for fact, reason in found]


async def test_drift_asks_for_training_and_not_again_too_soon(world: World) -> None:
    rollout = RolloutPolicy(reactions=Reactions(drift="retrain"))
    for _ in range(2):
        await notice(world, DRIFT, rollout)
    [asked] = await world.said("training.requested", TrainingRequested)
    assert (asked.requested_by, asked.reason) == ("promoter", "drift of payer_code")
    first, second = await reacted(world)
    assert first == ("retrain", f"{DRIFT.EVENT_TYPE} {DRIFT.drift_id}", "drift of payer_code")
    assert second[0] == "alert"
    assert "was asked for" in second[2]


async def test_a_degraded_champion_is_trained_anew_at_the_rate_of_drift(world: World) -> None:
    rollout = RolloutPolicy(reactions=Reactions(drift="retrain", degradation="retrain"))
    await world.champions(1.0)
    await notice(world, degraded(1), rollout)
    for event in (degraded(1), DRIFT):
        await notice(world, event, rollout)
    [asked] = await world.said("training.requested", TrainingRequested)
    assert "AUROC 0.551 (0.478 to 0.624), limit 0.638" in asked.reason
    assert [action for action, _, _ in await reacted(world)] == ["retrain", "alert", "alert"]

    eager = RolloutPolicy(reactions=Reactions(degradation="retrain", retrain_at_most_every_s=0))
    await notice(world, degraded(1), eager)
    assert len(await world.said("training.requested", TrainingRequested)) == 2


async def test_a_degraded_champion_is_rolled_back_from_where_the_policy_says_so(world: World) -> None:
    rollout = RolloutPolicy(reactions=Reactions(degradation="rollback"))
    first, _ = await world.champions(3.0, 1.0)
    event = degraded(2)
    await notice(world, event, rollout)
    present = await world.champion()
    assert isinstance(present.fact, Rollback)
    assert (present.fact.epoch, present.fact.model) == (3, of(first).candidate.model)
    assert (present.by, present.reason) == ("promoter", (await reacted(world))[0][2])
    assert [(action, cause) for action, cause, _ in await reacted(world)] == [
        ("rollback", f"readmit.performance.degraded.v1 {event.degradation_id}")
    ]


@pytest.mark.parametrize("event", [DRIFT, DEGRADED], ids=["drift", "degradation"])
async def test_what_is_said_of_a_former_champion_never_takes_the_present_one_away(
    world: World, event: DriftDetected | PerformanceDegraded
) -> None:
    rollout = RolloutPolicy(reactions=Reactions(drift="rollback", degradation="rollback"))
    await world.champions(3.0, 2.0, 1.0)
    for epoch in (1, 2, 4):
        await notice(world, event.model_copy(update={"epoch": epoch}), rollout)
    assert crown(await world.champion()).epoch == 3
    found = await reacted(world)
    assert [action for action, _, _ in found] == ["alert"] * 3
    assert "no rollback: it is about the champion of epoch 1, and by now that of epoch 3 is" in found[0][2]


async def test_a_former_champion_that_is_degraded_is_not_trained_anew_but_patients_that_have_changed_are_learned(
    world: World,
) -> None:
    rollout = RolloutPolicy(reactions=Reactions(drift="retrain", degradation="retrain"))
    await world.champions(3.0, 1.0)
    await notice(world, degraded(1), rollout)
    assert await world.said("training.requested", TrainingRequested) == []
    await notice(world, DRIFT.model_copy(update={"epoch": 1}), rollout)
    assert len(await world.said("training.requested", TrainingRequested)) == 1
    assert [action for action, _, _ in await reacted(world)] == ["alert", "retrain"]


async def test_with_nothing_to_go_back_to_the_champion_stays_and_the_ledger_says_why(world: World) -> None:
    rollout = RolloutPolicy(reactions=Reactions(drift="rollback", degradation="rollback"))
    await notice(world, degraded(1), rollout)
    await world.champions(1.0)
    await notice(world, DRIFT.model_copy(update={"epoch": 1}), rollout)
    assert crown(await world.champion()).epoch == 1
    (nobody, _, of_whom), (alone, _, why) = await reacted(world)
    assert (nobody, alone) == ("alert", "alert")
    assert "nobody is champion" in of_whom
    assert "no rollback: There is no champion before the present one" in why


async def test_by_the_shipped_policy_a_loss_is_only_written_down(world: World) -> None:
    await world.champions(3.0, 1.0)
    await notice(world, degraded(2), load_policy().rollout)
    assert crown(await world.champion()).epoch == 2
    [(action, _, why)] = await reacted(world)
    assert action == "alert"
    assert why.endswith("1742 outcomes, 203 readmissions")


async def test_a_promotion_and_the_way_back_to_it_say_what_was_measured_of_the_model(world: World) -> None:
    first, second = await world.champions(3.0, 1.0)
    await world.roll_back()
    said = [event.validation_auroc for event in await world.said("model.promoted", ModelPromoted)]
    measured = [of(judgement).verdict["auroc"]["point"] for judgement in (first, second)]
    assert said == [measured[0], measured[1], measured[0]]
    assert 0.5 < measured[0] < measured[1]


async def test_the_champion_and_the_trial_are_announced_again_unchanged(world: World) -> None:
    await world.champions(8.0)
    await world.register(1.0, STAGED)
    async with store.writing(world.pool) as connection:
        await governor.announce_again(connection)
    promoted = await world.said("model.promoted", ModelPromoted)
    changed = await world.said("rollout.changed", RolloutChanged)
    assert (promoted[0], changed[0]) == (promoted[1], changed[1])
