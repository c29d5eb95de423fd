"""The composition root: the only place where the ingestor's parts meet."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta
from functools import partial

import psycopg
from fastapi import FastAPI

from readmit_chassis.documentation import serve_docs
from readmit_chassis.failures import Transient
from readmit_chassis.health import Health, health_router
from readmit_chassis.kafka import consume, consume_batch, keep_starting, make_broker, publisher
from readmit_chassis.lag import watch_lag
from readmit_chassis.migrations import apply_migrations
from readmit_chassis.outages import answer_outages
from readmit_chassis.outbox import OutboxRelay
from readmit_chassis.process import Process
from readmit_chassis.s3 import S3Store
from readmit_contracts.events import IngestionRequested, PredictionsMade
from readmit_contracts.topics import INGESTION_REQUESTED, PREDICTION_MADE
from readmit_ingestor import store
from readmit_ingestor.api import ingestion_router
from readmit_ingestor.feedback import FeedbackWatch
from readmit_ingestor.handlers import on_ingestion_requested, on_predictions_made
from readmit_ingestor.outcomes_api import outcomes_router
from readmit_ingestor.quarantine import show_counts
from readmit_ingestor.quarantine_api import quarantine_router
from readmit_ingestor.runner import Runner
from readmit_ingestor.schedule import Schedule
from readmit_ingestor.settings import Settings
from readmit_ingestor.sources import Places

#: Messages of `prediction.made` taken at a time; each tells of up to some dozens of answers.
_MESSAGES = 32


def make_app(settings: Settings, process: Process) -> FastAPI:
    """Connect everything; nothing is opened before the application starts."""
    conninfo = settings.postgres.conninfo()
    pool = store.make_pool(conninfo)
    broker = make_broker(settings.kafka, "ingestor")
    health = Health("database", "kafka")
    objects = S3Store(settings.s3) if settings.s3 else None
    places = Places(settings.cache_dir, settings.source_url, objects, settings.max_source_bytes)
    schedule = None
    if settings.schedule_hours:
        every = timedelta(hours=settings.schedule_hours)
        schedule = Schedule(partial(store.request, pool), settings.schedule_source, every)
    runner = Runner(conninfo, places, settings.batch_rows, settings.max_bad_share)

    consume(
        broker, topic=INGESTION_REQUESTED.name, dead_letter=INGESTION_REQUESTED.dead_letter, group="ingestor",
        event_type=IngestionRequested, handle=on_ingestion_requested(pool), process=process,
    )  # fmt: skip
    # A group of its own: a flood of predictions never makes a request wait.
    consume_batch(
        broker, topic=PREDICTION_MADE.name, dead_letter=PREDICTION_MADE.dead_letter, group="ingestor-predictions",
        event_type=PredictionsMade, handle=on_predictions_made(pool), process=process, max_records=_MESSAGES,
    )  # fmt: skip

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        await asyncio.to_thread(apply_migrations, conninfo, store.SCHEMA, "readmit_ingestor")
        async with pool:
            health.set("database", True)
            await show_counts(pool)
            scheduled = [schedule.run()] if schedule else []
            background = process.background(
                runner.run(),
                OutboxRelay(store.SCHEMA, conninfo, publisher(broker)).run(),
                keep_starting(broker, lambda: health.set("kafka", True)),
                watch_lag(broker),
                FeedbackWatch(conninfo, settings.feedback_rows).run(),
                *scheduled,
            )
            try:
                async with background:
                    yield
            finally:
                await broker.stop()

    app = FastAPI(title="Readmit ingestor", lifespan=lifespan, docs_url=None, redoc_url=None)
    serve_docs(app)
    app.include_router(health_router(health))
    app.include_router(ingestion_router(pool))
    app.include_router(quarantine_router(pool))
    app.include_router(outcomes_router(pool, conninfo, settings.feedback_rows))
    answer_outages(app, Transient, psycopg.OperationalError, detail="The database is away; ask again.")
    return app
