"""The window on a real PostgreSQL: what is kept, once, how long, and that drift and its event are one."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import psycopg
import pytest
from prometheus_client import REGISTRY

from readmit_chassis.failures import BadMessage, Transient
from readmit_contracts.encounter import FEATURE_COLUMNS
from readmit_contracts.events import BatchReady, DriftDetected, ModelVersion, OtherAnswer, PredictionMade
from readmit_contracts.examples import EXAMPLES
from readmit_monitor import store
from readmit_monitor.domain import RISK, Evaluation, Policy, State
from readmit_monitor.handlers import judge, on_batch_ready, on_predictions_made
from readmit_monitor.metrics import show

pytestmark = pytest.mark.stack

Encounter = dict[str, Any]
Predict = Callable[..., list[PredictionMade]]
BATCH = next(example for example in EXAMPLES if isinstance(example, BatchReady)).model_copy(update={"synthetic": True})
POLICY = Policy(window_rows=600, min_rows=500)


async def rows(pool: store.Pool, query: str) -> list[dict[str, Any]]:
    async with pool.connection() as connection:
        return await (await connection.execute(query.encode())).fetchall()


async def take(pool: store.Pool, events: Sequence[PredictionMade]) -> int:
    """How many of these predictions were new."""
    return await on_predictions_made(events, pool=pool)


async def announced(pool: store.Pool) -> list[DriftDetected]:
    found = await rows(pool, "SELECT payload FROM monitoring.outbox WHERE topic = 'drift.detected' ORDER BY id")
    return [DriftDetected.model_validate(row["payload"]) for row in found]


async def learn(pool: store.Pool, version: int = 1, *, synthetic: bool = True) -> None:
    await on_batch_ready(BATCH.model_copy(update={"dataset_version": version, "synthetic": synthetic}), pool=pool)


async def test_a_reference_is_the_training_rows_of_its_version(pool: store.Pool, encounters: list[Encounter]) -> None:
    await learn(pool, 1)
    async with store.transaction(pool) as connection:
        known = await store.reference(connection, synthetic=True)
        counts = await store.count_training_rows(connection, 1)
        assert await store.reference(connection, synthetic=False) is None
    assert known is not None
    assert (known.dataset_version, known.rows) == (1, 4000)
    for column in FEATURE_COLUMNS:
        assert counts[column.key] == Counter(encounter[column.key] for encounter in encounters[:4000])
        assert known.features[column.key].rows == 4000


async def test_the_newest_version_of_the_models_kind_is_the_reference(pool: store.Pool) -> None:
    await learn(pool, 1, synthetic=False)
    await learn(pool, 2, synthetic=True)
    await learn(pool, 1, synthetic=False)  # heard again
    async with store.transaction(pool) as connection:
        real = await store.reference(connection, synthetic=False)
        generated = await store.reference(connection, synthetic=True)
    assert real is not None
    assert generated is not None
    assert (real.dataset_version, real.rows, generated.dataset_version, generated.rows) == (1, 4000, 2, 2000)


async def test_of_an_encounter_that_a_challenger_answered_the_champions_answer_counts(
    pool: store.Pool, predict: Predict
) -> None:
    challenger = ModelVersion(name="diabetes_readmission_lightgbm", version="9", family="lightgbm")
    said = {"sha256": "b7" * 32, "score_ms": 0.05}
    answered, unasked, failed, plain = predict(4, epoch=3)
    champions = OtherAnswer(role="champion", model=answered.model, risk=0.3, readmitted_within_30_days=True, **said)
    silent = champions.model_copy(update={"risk": None, "readmitted_within_30_days": None})
    shadow = champions.model_copy(update={"role": "challenger", "model": challenger})
    canary = {"role": "challenger", "model": challenger, "risk": 0.01, "readmitted_within_30_days": False}
    events = [
        answered.model_copy(update=canary | {"other": champions}),
        unasked.model_copy(update=canary),
        failed.model_copy(update=canary | {"other": silent}),
        plain.model_copy(update={"other": shadow}),
    ]
    assert await take(pool, events) == 2
    kept = await rows(pool, "SELECT model_version, epoch, risk, readmitted FROM monitoring.predictions ORDER BY at")
    assert [tuple(row.values()) for row in kept] == [
        ("3", 3, 0.3, True), ("3", 3, plain.risk, plain.readmitted_within_30_days),
    ]  # fmt: skip


async def test_a_batch_whose_rows_are_not_there_is_a_bad_message(pool: store.Pool) -> None:
    with pytest.raises(BadMessage, match="dataset version 9"):
        await learn(pool, 9)


async def test_the_monitor_can_read_no_other_table_and_write_none_of_the_ingestors(pool: store.Pool) -> None:
    with pytest.raises(psycopg.errors.InsufficientPrivilege):
        await rows(pool, "DELETE FROM clean_data.diabetes_train RETURNING 1")


async def test_a_prediction_counts_once_however_often_it_is_heard(pool: store.Pool, predict: Predict) -> None:
    events = predict(5)
    assert await take(pool, [*events, *events[::-1]]) == 5
    kept = await rows(pool, "SELECT * FROM monitoring.predictions ORDER BY at")
    assert [row["prediction_id"] for row in kept] == [event.prediction_id for event in events]
    assert set(kept[0]["features"]) == {column.key for column in FEATURE_COLUMNS}
    assert set(kept[0]) == {
        "prediction_id", "at", "model_name", "model_version", "model_family", "epoch", "synthetic", "risk",
        "readmitted", "features",
    }  # fmt: skip


async def test_a_prediction_from_a_clock_that_runs_ahead_is_dated_now(pool: store.Pool, predict: Predict) -> None:
    [event] = predict(1)
    await take(pool, [event.model_copy(update={"at": datetime.now(UTC) + timedelta(days=400)})])
    [kept] = await rows(pool, "SELECT at <= clock_timestamp() AS sane FROM monitoring.predictions")
    assert kept["sane"]


async def test_what_postgresql_cannot_hold_is_a_bad_message_without_the_value(
    pool: store.Pool, predict: Predict
) -> None:
    [event] = predict(1, changed={"payer_code": "secret\x00"})
    with pytest.raises(BadMessage) as refused:
        await take(pool, [event])
    assert "secret" not in str(refused.value)


async def test_a_database_that_is_away_is_transient(predict: Predict) -> None:
    nowhere = store.make_pool("host=127.0.0.1 port=1 dbname=none connect_timeout=1")
    nowhere.timeout = 0.2
    async with nowhere:
        with pytest.raises(Transient):
            await take(nowhere, predict(1))


async def test_the_same_patients_raise_nothing_and_only_two_windows_are_kept(
    pool: store.Pool, predict: Predict
) -> None:
    await learn(pool)
    await take(pool, predict(1500))
    evaluation = await judge(pool, POLICY)
    assert (evaluation.state, evaluation.window_rows, evaluation.reference_rows) == (State.STABLE, 600, 4000)
    assert await announced(pool) == []
    [kept] = await rows(pool, "SELECT count(*) AS rows FROM monitoring.predictions")
    assert kept["rows"] == 1200
    oldest = predict(1)[0].model_copy(update={"at": datetime(2020, 1, 1, tzinfo=UTC)})
    await take(pool, [oldest])
    assert (await judge(pool, POLICY)).window_from == evaluation.window_from
    [kept] = await rows(pool, "SELECT count(*) AS rows FROM monitoring.predictions")
    assert kept["rows"] == 1200


async def test_a_shift_is_announced_once_until_something_more_drifts_or_it_comes_back(
    pool: store.Pool, predict: Predict
) -> None:
    await learn(pool)
    detected = REGISTRY.get_sample_value("drift_detected_total") or 0.0
    await take(pool, predict(600))
    assert (await judge(pool, POLICY)).state is State.STABLE
    await take(pool, predict(500, changed={"payer_code": None}))
    for _ in range(3):
        assert (await judge(pool, POLICY)).state is State.DRIFTED
    [first] = await announced(pool)
    assert [drifted.feature for drifted in first.drifted] == ["payer_code"]
    assert first.drifted[0].psi > first.drifted[0].threshold
    assert (first.window_rows, first.reference_dataset_version, first.reference_rows) == (600, 1, 4000)
    assert first.synthetic
    assert REGISTRY.get_sample_value("drift_detected_total") == detected + 1

    await take(pool, predict(500, changed={"payer_code": None, "insulin": "Up"}))
    await judge(pool, POLICY)
    await take(pool, predict(600))
    assert (await judge(pool, POLICY)).state is State.STABLE
    await take(pool, predict(500, changed={"payer_code": None}))
    await judge(pool, POLICY)
    said = [{drifted.feature for drifted in event.drifted} for event in await announced(pool)]
    assert said == [{"payer_code"}, {"payer_code", "insulin"}, {"payer_code"}]


async def test_two_replicas_that_judge_at_once_say_it_once(pool: store.Pool, predict: Predict) -> None:
    await learn(pool)
    await take(pool, predict(600, changed={"payer_code": None}))
    evaluations = await asyncio.gather(judge(pool, POLICY), judge(pool, POLICY))
    assert {evaluation.state for evaluation in evaluations} == {State.DRIFTED}
    assert len(await announced(pool)) == 1


async def test_the_risk_is_watched_from_the_second_window_of_an_epoch_on(pool: store.Pool, predict: Predict) -> None:
    await learn(pool)
    await take(pool, predict(599, epoch=4))
    assert (await judge(pool, POLICY)).risk is None
    assert await rows(pool, "SELECT * FROM monitoring.risk_references") == []
    await take(pool, predict(600, epoch=4))
    evaluation = await judge(pool, POLICY)
    assert evaluation.risk is not None
    assert (evaluation.risk.reference_rows, evaluation.risk.window_rows, evaluation.risk.drifted) == (600, 599, False)

    await take(pool, predict(600, epoch=4, risk=lambda: 0.4))
    assert (await judge(pool, POLICY)).state is State.DRIFTED
    assert [drifted.feature for drifted in (await announced(pool))[-1].drifted] == [RISK]
    await take(pool, predict(600, epoch=5, risk=lambda: 0.4))
    fresh = await judge(pool, POLICY)
    assert (fresh.epoch, fresh.risk, fresh.state) == (5, None, State.STABLE)
    kept = await rows(pool, "SELECT epoch, rows FROM monitoring.risk_references ORDER BY epoch")
    assert kept == [{"epoch": 4, "rows": 600}, {"epoch": 5, "rows": 600}]


async def test_answers_of_a_synthetic_model_are_not_mixed_with_those_of_a_real_one(
    pool: store.Pool, predict: Predict
) -> None:
    await learn(pool)
    await take(pool, predict(600, epoch=1, changed={"payer_code": None}))
    await take(pool, predict(550, epoch=2, synthetic=False))
    waiting = await judge(pool, POLICY)
    assert (waiting.state, waiting.window_rows, waiting.synthetic) == (State.NO_REFERENCE, 550, False)
    await learn(pool, 2, synthetic=False)
    known = await judge(pool, POLICY)
    assert (known.state, known.reference_dataset_version) == (State.STABLE, 2)


async def test_the_last_evaluation_and_a_summary_by_model_can_be_asked_for(pool: store.Pool, predict: Predict) -> None:
    async with store.transaction(pool) as connection:
        assert await store.last_evaluation(connection) == (None, frozenset())
        assert await store.summary(connection, 600) == []
    await learn(pool)
    events = [*predict(100, epoch=1), *predict(550, epoch=2, changed={"payer_code": None})]
    await take(pool, events)
    evaluation = await judge(pool, POLICY)
    async with store.transaction(pool) as connection:
        assert await store.last_evaluation(connection) == (evaluation, frozenset({"payer_code"}))
        newest, older = await store.summary(connection, 600)
    assert (newest.epoch, newest.rows, older.epoch, older.rows) == (2, 550, 1, 50)
    assert newest.risk_mean == pytest.approx(sum(event.risk for event in events[100:]) / 550)
    assert newest.alert_rate == pytest.approx(sum(e.readmitted_within_30_days for e in events[100:]) / 550)
    assert newest.last_at == events[-1].at


async def test_the_gauges_show_the_last_evaluation(pool: store.Pool, predict: Predict) -> None:
    await learn(pool)
    await take(pool, predict(550, changed={"payer_code": None}))
    evaluation = await judge(pool, POLICY)
    show(evaluation)

    def sample(name: str, **labels: str) -> float:
        value = REGISTRY.get_sample_value(name, labels)
        assert value is not None
        return value

    assert sample("drift_psi", feature="payer_code") == evaluation.figures[0].psi > sample("drift_threshold_psi")
    assert sample("drift_psi", feature="age") < sample("drift_threshold_psi")
    assert sample("drift_window_rows") == 550
    assert sample("live_alert_rate") == evaluation.alert_rate
    assert sample("live_risk_mean") == evaluation.risk_mean
    assert sample("drift_risk_psi") != sample("drift_risk_psi")  # NaN: not known yet
    show(Evaluation(state=State.NO_PREDICTIONS, evaluated_at=datetime.now(UTC), min_rows=500))
    assert REGISTRY.get_sample_value("drift_psi", {"feature": "payer_code"}) is None
    assert sample("drift_window_rows") == 0
