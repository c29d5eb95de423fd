"""The composition root: the only place where the monitor's parts meet."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from itertools import count

from fastapi import FastAPI

from readmit_chassis.documentation import serve_docs
from readmit_chassis.envelope import Envelope
from readmit_chassis.failures import Transient
from readmit_chassis.health import Health, health_router
from readmit_chassis.kafka import consume, keep_starting, make_broker, publisher
from readmit_chassis.lag import watch_lag
from readmit_chassis.migrations import apply_migrations
from readmit_chassis.outages import answer_outages
from readmit_chassis.outbox import OutboxRelay
from readmit_chassis.process import Process
from readmit_contracts.events import BatchReady, PredictionMade
from readmit_contracts.topics import BATCH_READY, PREDICTION_MADE
from readmit_monitor import handlers, store
from readmit_monitor.api import drift_router
from readmit_monitor.domain import Policy
from readmit_monitor.settings import Settings

_GROUP = "monitor"


def make_app(settings: Settings, process: Process) -> FastAPI:
    """Connect everything; nothing is opened before the application starts."""
    conninfo = settings.postgres.conninfo()
    pool = store.make_pool(conninfo)
    broker = make_broker(settings.kafka, "monitor")
    policy = Policy(window_rows=settings.window_rows, min_rows=settings.min_rows)
    health = Health("store", "kafka")
    due = asyncio.Event()
    taken = count(1)

    async def on_batch(event: BatchReady, _: Envelope) -> None:
        await handlers.on_batch_ready(event, pool=pool)
        due.set()

    async def on_prediction(event: PredictionMade, _: Envelope) -> None:
        if await handlers.on_prediction_made(event, pool=pool) and next(taken) % settings.evaluate_every_rows == 0:
            due.set()

    consume(
        broker, topic=BATCH_READY.name, dead_letter=BATCH_READY.dead_letter, group=_GROUP,
        event_type=BatchReady, handle=on_batch, process=process,
    )  # fmt: skip
    consume(
        broker, topic=PREDICTION_MADE.name, dead_letter=PREDICTION_MADE.dead_letter, group=_GROUP,
        event_type=PredictionMade, handle=on_prediction, process=process,
    )  # fmt: skip

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        await asyncio.to_thread(apply_migrations, conninfo, store.SCHEMA, "readmit_monitor")
        async with pool:
            health.set("store", True)
            background = process.background(
                OutboxRelay(store.SCHEMA, conninfo, publisher(broker)).run(),
                handlers.keep_judging(pool, policy, due=due, interval_s=settings.evaluate_every_s),
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
    answer_outages(app, Transient, detail="The window cannot be read now.")
    return app
