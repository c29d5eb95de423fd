"""What the monitor does on each event, and what it repeats by itself."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime
from uuid import uuid4

import structlog

from readmit_chassis.envelope import new_envelope
from readmit_chassis.failures import Transient
from readmit_chassis.outbox import enqueue
from readmit_chassis.process import end_if_cancelled
from readmit_contracts.events import MODEL_STREAM, BatchReady, DriftDetected, FeatureDrift, PredictionMade
from readmit_contracts.topics import DRIFT_DETECTED
from readmit_monitor import metrics, store
from readmit_monitor.domain import Evaluation, Policy, carried, evaluate, newly_drifted, still_drifted

log = structlog.get_logger()

SOURCE = "monitor"
_RETRY_S = 1.0


async def on_batch_ready(event: BatchReady, *, pool: store.Pool) -> None:
    """Make the reference of the dataset version anew, from all of its batches that are committed by now."""
    reference = await store.refresh_reference(pool, event.dataset_version, synthetic=event.synthetic)
    log.info("reference_made", dataset_version=reference.dataset_version, rows=reference.rows)


async def on_prediction_made(event: PredictionMade, *, pool: store.Pool) -> bool:
    """Take the prediction into the window; False when it was there already."""
    taken = await store.keep(pool, event)
    if taken:
        metrics.OBSERVED.inc()
    return taken


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


async def keep_judging(pool: store.Pool, policy: Policy, *, due: asyncio.Event, interval_s: float) -> None:
    """Judge at the start, whenever it is due, and every `interval_s`; outages of the database are waited out."""
    while True:
        due.clear()
        wait_s = interval_s
        try:
            metrics.show(await judge(pool, policy))
        except Transient as error:
            log.warning("evaluation_waits", error=str(error), retry_in_s=_RETRY_S)
            wait_s = _RETRY_S
        end_if_cancelled()
        try:
            await asyncio.wait_for(due.wait(), wait_s)
        except TimeoutError:
            continue
