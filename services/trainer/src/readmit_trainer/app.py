"""The composition root: the only place where the trainer's parts are put together."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import psycopg
from fastapi import FastAPI
from psycopg_pool import AsyncConnectionPool

from readmit_chassis.documentation import serve_docs
from readmit_chassis.failures import Transient
from readmit_chassis.health import Health, health_router
from readmit_chassis.kafka import consume, keep_starting, make_broker, publisher
from readmit_chassis.lag import watch_lag
from readmit_chassis.migrations import apply_migrations
from readmit_chassis.outages import answer_outages
from readmit_chassis.outbox import OutboxRelay
from readmit_chassis.process import Process
from readmit_contracts.events import BatchReady, TrainingRequested
from readmit_contracts.topics import BATCH_READY, TRAINING_REQUESTED
from readmit_trainer import metrics
from readmit_trainer.child import serve
from readmit_trainer.domain import WARM_STARTING, consumer_group
from readmit_trainer.handlers import jobs_router, on_batch_ready, on_training_requested, trainings_router
from readmit_trainer.lineage import code_version
from readmit_trainer.runner import Runner
from readmit_trainer.settings import Settings
from readmit_trainer.store import JobStore
from readmit_trainer.trainings import SCHEMA, TrainingStore
from readmit_trainer.worker import Serve, Worker


def make_app(settings: Settings, process: Process, serve: Serve = serve) -> FastAPI:
    """The trainer as an ASGI app; its lifespan starts and stops everything. `serve` is the fitting process's loop."""
    conninfo = settings.postgres.conninfo()
    pool = AsyncConnectionPool(conninfo, min_size=1, max_size=4, open=False)
    store = JobStore(
        pool,
        families=settings.families,
        skip_superseded=settings.superseded == "skip",
        in_order=WARM_STARTING if settings.warm_start else (),
    )
    trainings = TrainingStore(pool)
    group = consumer_group(settings.families)
    worker = Worker(settings, serve)
    runner = Runner(store, worker)
    broker = make_broker(settings.kafka, "trainer")
    health = Health("database", "kafka")
    ask_for_training = on_training_requested(trainings, settings.families, code_version(), runner.wake)
    consume(
        broker,
        topic=BATCH_READY.name,
        dead_letter=BATCH_READY.dead_letter,
        group=group,
        event_type=BatchReady,
        handle=on_batch_ready(store, settings.families, code_version(), runner.wake),
        process=process,
    )
    consume(
        broker,
        topic=TRAINING_REQUESTED.name,
        dead_letter=TRAINING_REQUESTED.dead_letter,
        group=f"{group}-requests",  # of its own: whoever joins or leaves one group does not stop the other
        event_type=TrainingRequested,
        handle=ask_for_training,
        process=process,
    )
    relay = OutboxRelay(SCHEMA, conninfo, publisher(broker))

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        await asyncio.to_thread(worker.start)
        await asyncio.to_thread(apply_migrations, conninfo, SCHEMA, "readmit_trainer")
        async with pool:
            metrics.show_fits(await store.newest_fits())
            health.set("database", True)
            started = keep_starting(broker, lambda: health.set("kafka", True))
            try:
                async with process.background(started, relay.run(), runner.run(), watch_lag(broker)):
                    yield
            finally:
                await broker.stop()
                worker.stop()

    app = FastAPI(title="Readmit trainer", lifespan=lifespan, docs_url=None, redoc_url=None)
    serve_docs(app)
    app.include_router(health_router(health))
    app.include_router(jobs_router(store))
    app.include_router(trainings_router(trainings, ask_for_training))
    answer_outages(app, Transient, psycopg.OperationalError, detail="The jobs cannot be read now.")
    return app
