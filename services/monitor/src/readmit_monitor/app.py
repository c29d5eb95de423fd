"""The composition root: the only place where the monitor's parts meet."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta

from fastapi import FastAPI

from readmit_chassis.documentation import serve_docs
from readmit_chassis.envelope import Envelope
from readmit_chassis.failures import Transient
from readmit_chassis.health import Health, health_router
from readmit_chassis.kafka import consume, consume_batch, keep_starting, make_broker, publisher
from readmit_chassis.lag import watch_lag
from readmit_chassis.migrations import apply_migrations
from readmit_chassis.outages import answer_outages
from readmit_chassis.outbox import OutboxRelay
from readmit_chassis.process import Process
from readmit_contracts.events import BatchReady, ModelPromoted, OutcomeRecorded, PredictionsMade
from readmit_contracts.topics import BATCH_READY, MODEL_PROMOTED, OUTCOME_RECORDED, PREDICTION_MADE
from readmit_monitor import handlers, store
from readmit_monitor.api import drift_router, performance_router
from readmit_monitor.domain import Policy
from readmit_monitor.performance import LivePolicy
from readmit_monitor.settings import Settings

_GROUP = "monitor"
#: Groups of their own: each consumer that joins a group stops all of it for seconds.
_OUTCOMES_GROUP = "monitor.outcomes"
_CHAMPIONS_GROUP = "monitor.champions"
#: Messages of `prediction.made` taken at a time; each tells of up to some dozens of answers.
_MESSAGES = 32


def make_app(settings: Settings, process: Process) -> FastAPI:
    """Connect everything; nothing is opened before the application starts."""
    conninfo = settings.postgres.conninfo()
    pool = store.make_pool(conninfo)
    broker = make_broker(settings.kafka, "monitor")
    policy, live = Policy(window_rows=settings.window_rows, min_rows=settings.min_rows), _live_policy(settings)
    health = Health("store", "kafka")
    due = asyncio.Event()
    unjudged = 0

    async def on_batch(event: BatchReady, _: Envelope) -> None:
        await handlers.on_batch_ready(event, pool=pool)
        due.set()

    async def on_predictions(made: list[tuple[PredictionsMade, Envelope]]) -> None:
        nonlocal unjudged
        predictions = [prediction for event, _ in made for prediction in event.predictions()]
        unjudged += await handlers.on_predictions_made(predictions, pool=pool)
        if unjudged >= settings.evaluate_every_rows:
            unjudged = 0
            due.set()

    async def on_outcomes(recorded: list[tuple[OutcomeRecorded, Envelope]]) -> None:
        await handlers.on_outcomes_recorded([event for event, _ in recorded], pool=pool)

    async def on_promoted(event: ModelPromoted, _: Envelope) -> None:
        await handlers.on_model_promoted(event, pool=pool)

    consume(
        broker, topic=BATCH_READY.name, dead_letter=BATCH_READY.dead_letter, group=_GROUP,
        event_type=BatchReady, handle=on_batch, process=process,
    )  # fmt: skip
    consume_batch(
        broker, topic=PREDICTION_MADE.name, dead_letter=PREDICTION_MADE.dead_letter, group=_GROUP,
        event_type=PredictionsMade, handle=on_predictions, process=process, max_records=_MESSAGES,
    )  # fmt: skip
    consume_batch(
        broker, topic=OUTCOME_RECORDED.name, dead_letter=OUTCOME_RECORDED.dead_letter, group=_OUTCOMES_GROUP,
        event_type=OutcomeRecorded, handle=on_outcomes, process=process,
    )  # fmt: skip
    consume(
        broker, topic=MODEL_PROMOTED.name, dead_letter=MODEL_PROMOTED.dead_letter, group=_CHAMPIONS_GROUP,
        event_type=ModelPromoted, handle=on_promoted, process=process,
    )  # fmt: skip

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        await asyncio.to_thread(apply_migrations, conninfo, store.SCHEMA, "readmit_monitor")
        async with pool:
            health.set("store", True)
            background = process.background(
                OutboxRelay(store.SCHEMA, conninfo, publisher(broker)).run(),
                handlers.keep_judging(pool, policy, live, due=due, interval_s=settings.evaluate_every_s),
                keep_starting(broker, lambda: health.set("kafka", True)),
                watch_lag(broker),
            )
            try:
                async with background:
                    yield
            finally:
                await broker.stop()

    app = FastAPI(title="Readmit monitor", lifespan=lifespan, docs_url=None, redoc_url=None)
    serve_docs(app)
    app.include_router(health_router(health))
    app.include_router(drift_router(pool, policy))
    app.include_router(performance_router(pool, live))
    answer_outages(app, Transient, detail="The window cannot be read now.")
    return app


def _live_policy(settings: Settings) -> LivePolicy:
    return LivePolicy(
        window_rows=settings.outcome_rows,
        min_rows=settings.min_outcomes,
        max_auroc_loss=settings.max_auroc_loss,
        max_calibration_error=settings.max_calibration_error,
        outcomes_after=timedelta(days=settings.outcomes_after_days),
        kept_for=timedelta(days=settings.keep_answers_days),
    )
