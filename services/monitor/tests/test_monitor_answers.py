"""Predictions and outcomes on a real PostgreSQL: in any order, once, as long as they count; and the event of a loss."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
import pytest
from prometheus_client import REGISTRY

from readmit_chassis.failures import BadMessage, Transient
from readmit_contracts.events import (
    ModelPromoted,
    ModelVersion,
    OtherAnswer,
    OutcomeRecorded,
    PerformanceDegraded,
    PredictionMade,
)
from readmit_contracts.examples import EXAMPLES
from readmit_monitor import answers, store
from readmit_monitor.handlers import judge_performance, on_model_promoted, on_outcomes_recorded, on_predictions_made
from readmit_monitor.metrics import show_performance
from readmit_monitor.performance import AUROC, IN_THE_LARGE, LivePolicy, Performance, State

pytestmark = pytest.mark.stack

Predict = Callable[..., list[PredictionMade]]
PROMOTED = next(example for example in EXAMPLES if isinstance(example, ModelPromoted))
POLICY = LivePolicy(window_rows=600, min_rows=300, outcomes_after=timedelta(0))
RECORDED = datetime(2026, 11, 25, tzinfo=UTC)


async def rows(pool: store.Pool, query: str) -> list[dict[str, Any]]:
    async with pool.connection() as connection:
        return await (await connection.execute(query.encode())).fetchall()


async def kept(pool: store.Pool) -> list[dict[str, Any]]:
    return await rows(pool, "SELECT * FROM monitoring.answers ORDER BY since")


async def predicted(pool: store.Pool, events: Sequence[PredictionMade]) -> None:
    await on_predictions_made(events, pool=pool)


async def promoted(pool: store.Pool, epoch: int, auroc: float | None = 0.7) -> None:
    event = PROMOTED.model_copy(update={"epoch": epoch, "validation_auroc": auroc})
    await on_model_promoted(event, pool=pool)


def outcome(event: PredictionMade, *, readmitted: bool = True, minutes: int = 0, **more: Any) -> OutcomeRecorded:
    """What was recorded so many minutes after the first record."""
    return OutcomeRecorded(
        prediction_id=event.prediction_id,
        readmitted_within_30_days=readmitted,
        recorded_at=RECORDED + timedelta(minutes=minutes),
        **more,
    )


def outcomes(events: Sequence[PredictionMade], *, right: bool, seed: int = 1) -> list[OutcomeRecorded]:
    """As the risks say, or as if they were in the opposite order."""
    rng = np.random.default_rng(seed)
    risks = [event.risk for event in events]
    opposite = dict(zip(sorted(risks), sorted(risks, reverse=True), strict=True))
    chances = [risk if right else opposite[risk] for risk in risks]
    return [
        outcome(event, readmitted=bool(rng.random() < chance)) for event, chance in zip(events, chances, strict=True)
    ]


async def announced(pool: store.Pool) -> list[PerformanceDegraded]:
    found = await rows(pool, "SELECT payload FROM monitoring.outbox WHERE topic = 'performance.degraded' ORDER BY id")
    return [PerformanceDegraded.model_validate(row["payload"]) for row in found]


def sample(name: str, **labels: str) -> float:
    value = REGISTRY.get_sample_value(name, labels)
    assert value is not None
    return value


# --- what is kept


@pytest.mark.parametrize("outcome_first", [False, True])
async def test_a_prediction_and_its_outcome_become_one_row_in_either_order(
    pool: store.Pool, predict: Predict, outcome_first: bool
) -> None:
    [event] = predict(1, epoch=3)
    event = event.model_copy(update={"patient_key": "9d2c"})
    steps = [predicted(pool, [event]), on_outcomes_recorded([outcome(event, intervened=False)], pool=pool)]
    for step in reversed(steps) if outcome_first else steps:
        await step
    assert await kept(pool) == [
        {
            "prediction_id": event.prediction_id, "since": event.at, "at": event.at, "epoch": 3, "risk": event.risk,
            "patient_key": "9d2c", "readmitted": True, "intervened": False, "recorded_at": RECORDED,
        }
    ]  # fmt: skip


async def test_an_outcome_counts_once_and_the_one_that_was_recorded_last_wins(
    pool: store.Pool, predict: Predict
) -> None:
    [event] = predict(1)
    before = sample("outcomes_observed_total")
    first, corrected = outcome(event), outcome(event, readmitted=False, minutes=1, correction=True)
    await predicted(pool, [event])
    await on_outcomes_recorded([first, first], pool=pool)
    await on_outcomes_recorded([corrected], pool=pool)
    for again in (first, corrected):
        await on_outcomes_recorded([again], pool=pool)
    await predicted(pool, [event])
    [row] = await kept(pool)
    assert (row["readmitted"], row["recorded_at"], row["at"]) == (False, corrected.recorded_at, event.at)
    assert sample("outcomes_observed_total") == before + 2


async def test_a_correction_that_is_heard_in_one_batch_with_what_it_corrects_wins_in_either_order(
    pool: store.Pool, predict: Predict
) -> None:
    one, other = predict(2)
    batch = [outcome(one), outcome(one, readmitted=False, minutes=1)]
    batch += [outcome(other, readmitted=False, minutes=1), outcome(other)]
    await on_outcomes_recorded(batch, pool=pool)
    assert [row["readmitted"] for row in await kept(pool)] == [False, False]


async def test_of_an_encounter_that_a_challenger_answered_the_champions_risk_counts_or_none(
    pool: store.Pool, predict: Predict
) -> None:
    challenger = ModelVersion(name="diabetes_readmission_lightgbm", version="9", family="lightgbm")
    answered, unasked = predict(2, epoch=3)
    champions = OtherAnswer(
        role="champion", model=answered.model, sha256="b7" * 32, risk=0.3, readmitted_within_30_days=True, score_ms=0.1
    )
    canary = {"role": "challenger", "model": challenger, "risk": 0.01}
    await predicted(
        pool, [answered.model_copy(update=canary | {"other": champions}), unasked.model_copy(update=canary)]
    )
    assert [(row["prediction_id"], row["risk"]) for row in await kept(pool)] == [(answered.prediction_id, 0.3)]


async def test_what_no_column_can_hold_is_a_bad_message_without_the_value(pool: store.Pool, predict: Predict) -> None:
    [event] = predict(1)
    with pytest.raises(BadMessage) as refused:
        await predicted(pool, [event.model_copy(update={"patient_key": "secret\x00"})])
    assert "secret" not in str(refused.value)
    assert await kept(pool) == await rows(pool, "SELECT * FROM monitoring.predictions") == []


async def test_a_database_that_is_away_is_transient(predict: Predict) -> None:
    nowhere = store.make_pool("host=127.0.0.1 port=1 dbname=none connect_timeout=1")
    nowhere.timeout = 0.2
    async with nowhere:
        with pytest.raises(Transient):
            await on_outcomes_recorded([outcome(*predict(1))], pool=nowhere)


async def test_what_is_older_than_is_kept_is_forgotten_with_and_without_its_other_half(
    pool: store.Pool, predict: Predict
) -> None:
    now = datetime.now(UTC)
    events = [
        event.model_copy(update={"at": now - timedelta(days=days)})
        for event, days in zip(predict(4), (91, 91, 89, 89), strict=True)
    ]
    await predicted(pool, events)
    await on_outcomes_recorded([outcome(events[1]), outcome(events[3])], pool=pool)
    never_heard_of = [
        outcome(event).model_copy(update={"recorded_at": now - timedelta(days=days)})
        for event, days in zip(predict(2), (91, 89), strict=True)
    ]
    await on_outcomes_recorded(never_heard_of, pool=pool)
    await judge_performance(pool, POLICY)
    left = {row["prediction_id"] for row in await kept(pool)}
    assert left == {events[2].prediction_id, events[3].prediction_id, never_heard_of[1].prediction_id}


async def test_an_epoch_is_told_again_with_what_it_did_not_say_and_the_newest_is_champion(pool: store.Pool) -> None:
    for epoch, auroc in ((2, None), (3, None), (2, 0.6), (3, 0.7), (3, None), (1, 0.5)):
        await promoted(pool, epoch, auroc)
    async with store.transaction(pool) as connection:
        found = await answers.champion(connection)
    assert found is not None
    assert (found.epoch, found.model, found.validation_auroc) == (3, PROMOTED.model, 0.7)


# --- the judgement


async def test_the_newest_answers_of_the_champions_epoch_that_are_old_enough_are_judged(
    pool: store.Pool, predict: Predict
) -> None:
    former, present, young = predict(50, epoch=2), predict(700, epoch=3), predict(40, epoch=3)
    now = datetime.now(UTC)
    young = [event.model_copy(update={"at": now - timedelta(days=1)}) for event in young]
    everything = [*former, *present, *young]
    await predicted(pool, everything)
    assert (await judge_performance(pool, POLICY)).state is State.NO_CHAMPION
    await promoted(pool, 3)
    await on_outcomes_recorded(outcomes(everything, right=True), pool=pool)
    policy = LivePolicy(window_rows=600, min_rows=300, outcomes_after=timedelta(days=2))
    found = await judge_performance(pool, policy)
    assert (found.state, found.epoch, found.window_rows) == (State.SOUND, 3, 600)
    assert (found.window_from, found.window_to) == (present[100].at, present[-1].at)
    assert await announced(pool) == []


async def test_encounters_of_one_patient_are_known_to_be_of_one(pool: store.Pool, predict: Predict) -> None:
    events = [event.model_copy(update={"patient_key": f"{place % 20}"}) for place, event in enumerate(predict(400))]
    await predicted(pool, events)
    await promoted(pool, 1)
    await on_outcomes_recorded(outcomes(events, right=True), pool=pool)
    found = await judge_performance(pool, POLICY)
    assert (found.state, found.patients_not_readmitted) == (State.TOO_FEW, 20)
    assert found.patients_readmitted <= 20


async def test_a_loss_is_said_once_until_it_has_come_back(pool: store.Pool, predict: Predict) -> None:
    before = sample("performance_degraded_total")
    await promoted(pool, 4, 0.6)

    async def live(*, right: bool, seed: int) -> Performance:
        events = predict(600, epoch=4)
        await predicted(pool, events)
        await on_outcomes_recorded(outcomes(events, right=right, seed=seed), pool=pool)
        return await judge_performance(pool, POLICY)

    assert (await live(right=True, seed=1)).state is State.SOUND
    for seed in (2, 3):
        assert (await live(right=False, seed=seed)).state is State.DEGRADED
        assert (await judge_performance(pool, POLICY)).state is State.DEGRADED
    [said] = await announced(pool)
    assert (said.epoch, said.model, said.synthetic) == (4, PROMOTED.model, PROMOTED.synthetic)
    assert (said.window_rows, len(said.degraded)) == (600, 1)
    figure = said.degraded[0]
    assert (figure.name, figure.reference, figure.limit) == (AUROC, 0.6, pytest.approx(0.57))
    assert figure.low < figure.value < figure.high < figure.limit

    assert (await live(right=True, seed=5)).state is State.SOUND
    assert (await live(right=False, seed=6)).state is State.DEGRADED
    assert len(await announced(pool)) == 2
    assert sample("performance_degraded_total") == before + 2

    await promoted(pool, 5)  # another champion: nothing is known of it, and nothing is held against it
    assert (await judge_performance(pool, POLICY)).state is State.TOO_FEW


async def test_two_replicas_that_judge_at_once_say_it_once(pool: store.Pool, predict: Predict) -> None:
    events = predict(400)
    await predicted(pool, events)
    await promoted(pool, 1)
    await on_outcomes_recorded([outcome(event) for event in events[:380]], pool=pool)
    await on_outcomes_recorded([outcome(event, readmitted=False) for event in events[380:]], pool=pool)
    found = await asyncio.gather(
        judge_performance(pool, LivePolicy(min_rows=300, min_patients_per_class=10, outcomes_after=timedelta(0))),
        judge_performance(pool, LivePolicy(min_rows=300, min_patients_per_class=10, outcomes_after=timedelta(0))),
    )
    assert {performance.state for performance in found} == {State.DEGRADED}
    [said] = await announced(pool)
    assert IN_THE_LARGE in {figure.name for figure in said.degraded}


async def test_the_gauges_show_the_last_judgement_and_nothing_where_nothing_is_known(
    pool: store.Pool, predict: Predict
) -> None:
    events = predict(400)
    await predicted(pool, events)
    await promoted(pool, 1)
    await on_outcomes_recorded(outcomes(events, right=False), pool=pool)
    found = await judge_performance(pool, POLICY)
    show_performance(found)
    discrimination, calibration = found.figures
    assert sample("live_auroc_low") < sample("live_auroc") == discrimination.value < sample("live_auroc_high")
    assert sample("live_auroc_limit") == discrimination.limit
    assert sample("live_calibration_in_the_large") == calibration.value
    assert sample("live_degraded", figure=AUROC) == 1
    assert sample("live_degraded", figure=IN_THE_LARGE) == 0
    assert (sample("live_outcome_rows"), sample("live_intervened_rows")) == (400, 0)

    await promoted(pool, 2)
    show_performance(await judge_performance(pool, POLICY))
    for unknown in ("live_auroc", "live_auroc_high", "live_auroc_limit", "live_calibration_in_the_large_low"):
        assert np.isnan(sample(unknown))
    assert sample("live_degraded", figure=AUROC) == sample("live_outcome_rows") == 0
