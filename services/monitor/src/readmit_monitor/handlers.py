"""What the monitor does on each event, and what it repeats by itself."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from datetime import UTC, datetime
from uuid import uuid4

import structlog

from readmit_chassis.envelope import new_envelope
from readmit_chassis.failures import Transient
from readmit_chassis.outbox import enqueue
from readmit_chassis.process import end_if_cancelled
from readmit_contracts.events import (
    MODEL_STREAM,
    BatchReady,
    DegradedFigure,
    DriftDetected,
    FeatureDrift,
    ModelPromoted,
    OutcomeRecorded,
    PerformanceDegraded,
    PredictionMade,
)
from readmit_contracts.topics import DRIFT_DETECTED, PERFORMANCE_DEGRADED
from readmit_monitor import answers, metrics, performance, store
from readmit_monitor.domain import Evaluation, Policy, carried, evaluate, newly_drifted, still_drifted
from readmit_monitor.performance import LivePolicy, Performance

log = structlog.get_logger()

SOURCE = "monitor"
_RETRY_S = 1.0


async def on_batch_ready(event: BatchReady, *, pool: store.Pool) -> None:
    """Make the reference of the dataset version anew, from all of its batches that are committed by now."""
    reference = await store.refresh_reference(pool, event.dataset_version, synthetic=event.synthetic)
    log.info("reference_made", dataset_version=reference.dataset_version, rows=reference.rows)


async def on_predictions_made(events: Sequence[PredictionMade], *, pool: store.Pool) -> int:
    """Take predictions into the window, and keep them for their outcomes; how many were not there yet.

    Of an encounter that a challenger answered, the champion's answer counts; one on which it was not asked does not.
    """
    # In one order everywhere: two transactions with the same rows then never wait for each other.
    ordered = sorted(events, key=lambda event: event.prediction_id)
    answered = [(event, said) for event in ordered if (said := store.champions_answer(event)) is not None]
    if not answered:
        return 0
    async with store.taking(pool) as connection:
        taken = await store.keep(connection, answered)
        await answers.put_predictions(connection, answered)
    metrics.OBSERVED.inc(taken)
    return taken


async def on_outcomes_recorded(events: Sequence[OutcomeRecorded], *, pool: store.Pool) -> None:
    """Keep what became of predictions, whether they have been heard of or not."""
    async with store.taking(pool) as connection:
        news = await answers.put_outcomes(connection, events)
    metrics.OUTCOMES.inc(news)


async def on_model_promoted(event: ModelPromoted, *, pool: store.Pool) -> None:
    """Remember who is champion, and what it was promoted for."""
    async with store.taking(pool) as connection:
        await answers.put_champion(connection, event)


async def judge(pool: store.Pool, policy: Policy) -> Evaluation:
    """Evaluate the newest window and keep the result; say `drift.detected` when something more has drifted.

    One replica at a time; result, event and pruning are one transaction. Raises `Transient`.
    """
    async with store.transaction(pool) as connection:
        await store.lock(connection, "evaluation")
        last, drifted = await store.last_evaluation(connection)
        window = await store.window(connection, policy.window_rows)
        reference = risk = None
        before = drifted
        if window:
            newest = max(window, key=lambda observed: observed.epoch)
            before = carried(last, drifted, newest.epoch)
            reference = await store.reference(connection, synthetic=newest.synthetic)
            risk = await store.risk_since_reference(connection, newest.epoch, policy.window_rows)
        evaluation = await asyncio.to_thread(
            evaluate, window, reference, risk, before=before, policy=policy, now=datetime.now(UTC)
        )
        detected = announcement(evaluation) if newly_drifted(evaluation, before) else None
        if detected is not None:
            envelope = new_envelope(DriftDetected.EVENT_TYPE, source=SOURCE, subject=str(detected.drift_id))
            await enqueue(
                connection, store.SCHEMA, topic=DRIFT_DETECTED.name, key=MODEL_STREAM, event=detected, envelope=envelope
            )
        await store.put_evaluation(connection, evaluation, still_drifted(evaluation, before))
        # One window for the risk's reference, one for what came after it.
        await store.prune(connection, 2 * policy.window_rows)
    if detected is not None:
        metrics.DETECTED.inc()
        features = [figure.feature for figure in detected.drifted]
        log.warning("drift_detected", features=features, window_rows=detected.window_rows, epoch=detected.epoch)
    return evaluation


def announcement(evaluation: Evaluation) -> DriftDetected:
    """The event of an evaluation that has found drift."""
    return DriftDetected(
        drift_id=uuid4(),
        drifted=tuple(FeatureDrift(**f.model_dump(include=set(FeatureDrift.model_fields))) for f in evaluation.drifted),
        detected_at=evaluation.evaluated_at,
        **{name: getattr(evaluation, name) for name in DriftDetected.model_fields if name in Evaluation.model_fields},
    )


async def judge_performance(pool: store.Pool, policy: LivePolicy) -> Performance:
    """Judge the champion by outcomes and keep the result; say `performance.degraded` when more of it is degraded.

    One replica at a time; result, event and pruning are one transaction. Raises `Transient`.
    """
    now = datetime.now(UTC)
    async with store.transaction(pool) as connection:
        await store.lock(connection, "performance")
        last, degraded = await answers.last_performance(connection)
        champion = await answers.champion(connection)
        known = []
        if champion is not None:
            until = now - policy.outcomes_after
            known = await answers.window(connection, champion.epoch, policy.window_rows, until=until)
        before = performance.carried(last, degraded, champion)
        found = await asyncio.to_thread(performance.assess, champion, known, before=before, policy=policy, now=now)
        event = degradation(found) if performance.newly_degraded(found, before) else None
        if event is not None:
            envelope = new_envelope(PerformanceDegraded.EVENT_TYPE, source=SOURCE, subject=str(event.degradation_id))
            await enqueue(
                connection, store.SCHEMA, topic=PERFORMANCE_DEGRADED.name, key=MODEL_STREAM, event=event,
                envelope=envelope,
            )  # fmt: skip
        await answers.put_performance(connection, found, performance.still_degraded(found, before))
        await answers.prune(connection, now - policy.kept_for)
    if event is not None:
        metrics.DEGRADED.inc()
        figures = {figure.name: round(figure.value, 4) for figure in event.degraded}
        log.warning("performance_degraded", figures=figures, window_rows=event.window_rows, epoch=event.epoch)
    return found


def degradation(found: Performance) -> PerformanceDegraded:
    """The event of a judgement that has found the champion degraded."""
    return PerformanceDegraded(
        degradation_id=uuid4(),
        degraded=tuple(DegradedFigure.model_validate(figure.model_dump()) for figure in found.degraded),
        detected_at=found.evaluated_at,
        **{
            name: getattr(found, name)
            for name in PerformanceDegraded.model_fields.keys() & Performance.model_fields.keys()
        },
    )


async def keep_judging(
    pool: store.Pool, policy: Policy, live: LivePolicy, *, due: asyncio.Event, interval_s: float
) -> None:
    """Judge at the start, whenever it is due, and every `interval_s`; outages of the database are waited out."""
    while True:
        due.clear()
        wait_s = interval_s
        try:
            metrics.show(await judge(pool, policy))
            metrics.show_performance(await judge_performance(pool, live))
        except Transient as error:
            log.warning("evaluation_waits", error=str(error), retry_in_s=_RETRY_S)
            wait_s = _RETRY_S
        end_if_cancelled()
        try:
            await asyncio.wait_for(due.wait(), wait_s)
        except TimeoutError:
            continue
