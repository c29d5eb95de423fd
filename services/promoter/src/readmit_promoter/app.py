"""The composition root: the only place where the promoter's parts meet."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import httpx
from fastapi import FastAPI

from readmit_chassis.envelope import Envelope
from readmit_chassis.failures import Transient
from readmit_chassis.health import Health, health_router
from readmit_chassis.kafka import consume, keep_starting, make_broker, publisher
from readmit_chassis.lag import watch_lag
from readmit_chassis.migrations import apply_migrations
from readmit_chassis.outages import answer_outages
from readmit_chassis.outbox import OutboxRelay
from readmit_chassis.process import Process
from readmit_chassis.s3 import ObjectStore, S3Store
from readmit_contracts.events import ModelLoaded, ModelRegistered
from readmit_contracts.topics import MODEL_LOADED, MODEL_REGISTERED
from readmit_promoter import handlers, store
from readmit_promoter.api import ledger_router
from readmit_promoter.policy import load_policy
from readmit_promoter.registry import MlflowRegistry
from readmit_promoter.settings import Settings

_GROUP = "promoter"


def make_app(settings: Settings, process: Process, objects: ObjectStore | None = None) -> FastAPI:
    """Connect everything; nothing is opened before the application starts. `objects` replaces the S3 server."""
    conninfo = settings.postgres.conninfo()
    pool = store.make_pool(conninfo)
    broker = make_broker(settings.kafka, "promoter")
    objects = objects or S3Store(settings.s3)
    policy = load_policy(settings.policy_file)
    health = Health("ledger", "kafka")
    decided = asyncio.Event()

    async def on_registered(event: ModelRegistered, envelope: Envelope) -> None:
        await handlers.judge(event, envelope, pool=pool, objects=objects, policy=policy)
        decided.set()

    async def on_loaded(event: ModelLoaded, _: Envelope) -> None:
        await store.note_pod(pool, event)
        await handlers.observe(pool)

    consume(
        broker, topic=MODEL_REGISTERED.name, dead_letter=MODEL_REGISTERED.dead_letter, group=_GROUP,
        event_type=ModelRegistered, handle=on_registered, process=process,
    )  # fmt: skip
    consume(
        broker, topic=MODEL_LOADED.name, dead_letter=MODEL_LOADED.dead_letter, group=_GROUP,
        event_type=ModelLoaded, handle=on_loaded, process=process,
    )  # fmt: skip

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        await asyncio.to_thread(apply_migrations, conninfo, store.SCHEMA, "readmit_promoter")
        async with pool, httpx.AsyncClient(base_url=str(settings.mlflow_url), timeout=10, trust_env=False) as client:
            await store.announce_champion(pool)
            health.set("ledger", True)
            background = process.background(
                OutboxRelay(store.SCHEMA, conninfo, publisher(broker)).run(),
                handlers.keep_reconciled(
                    pool, MlflowRegistry(client), decided=decided, interval_s=settings.reconcile_interval_s
                ),
                keep_starting(broker, lambda: health.set("kafka", True)),
                watch_lag(broker),
            )
            try:
                async with background:
                    yield
            finally:
                await broker.stop()

    app = FastAPI(title="Readmit promoter", lifespan=lifespan)
    app.include_router(health_router(health))
    app.include_router(ledger_router(pool))
    answer_outages(app, Transient, detail="The ledger cannot be read now.")
    return app
