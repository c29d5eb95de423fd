"""The composition root: the only place where the promoter's parts meet."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

import httpx
from fastapi import FastAPI

from readmit_chassis.access.api_keys import ApiKeys
from readmit_chassis.access.watched_file import WatchedFile
from readmit_chassis.broker import Broker
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
from readmit_chassis.s3 import ObjectStore, S3Store
from readmit_contracts.events import DriftDetected, ModelLoaded, PerformanceDegraded, PredictionsMade
from readmit_contracts.topics import (
    DRIFT_DETECTED,
    MODEL_LOADED,
    MODEL_REGISTERED,
    PERFORMANCE_DEGRADED,
    PREDICTION_MADE,
    Topic,
)
from readmit_promoter import candidates, governor, handlers, pods, reactions, store
from readmit_promoter.announcement import Announcement
from readmit_promoter.api import reading_router
from readmit_promoter.commands import Command, answer_problems, candidate_commands, champion_commands
from readmit_promoter.policy import Policy
from readmit_promoter.registry import MlflowRegistry
from readmit_promoter.replays import replays_router
from readmit_promoter.roles import SCOPES, Doorkeeper
from readmit_promoter.settings import Settings

_GROUP = "promoter"
#: Groups of their own: each consumer that joins a group stops all of it for seconds.
_GROUPS = {
    PREDICTION_MADE: "promoter.predictions",
    DRIFT_DETECTED: "promoter.drift",
    PERFORMANCE_DEGRADED: "promoter.performance",
}
#: One that cannot be read whole is refused in the ledger, and not in the dead-letter topic alone.
_READ_AS = {MODEL_REGISTERED: Announcement}
#: How often a trial and a convergence are looked at without news.
_WATCH_S = 0.5


def make_app(settings: Settings, policy: Policy, process: Process, objects: ObjectStore | None = None) -> FastAPI:
    """Connect everything; nothing is opened before the application starts. `objects` replaces the S3 server.

    Raises `Unusable` where the file of keys can't be used.
    """
    conninfo = settings.postgres.conninfo()
    pool = store.make_pool(conninfo)
    broker = make_broker(settings.kafka, "promoter")
    objects = objects or S3Store(settings.s3)
    health = Health("ledger", "kafka")
    rollout = policy.rollout
    registered, heard, decided = asyncio.Event(), asyncio.Event(), asyncio.Event()

    doorkeeper, keys_file = _doorkeeper(settings)

    def changed() -> None:
        for news in (registered, heard, decided):
            news.set()

    async def on_registered(announcement: Announcement, envelope: Envelope) -> None:
        await candidates.take(announcement, envelope, pool, policy, changed)

    async def on_loaded(event: ModelLoaded, _: Envelope) -> None:
        await pods.note_pod(pool, event)
        heard.set()

    async def on_predictions(event: PredictionsMade, _: Envelope) -> None:
        await handlers.take_answers(event, pool, rollout)

    async def on_noticed(event: DriftDetected | PerformanceDegraded, envelope: Envelope) -> None:
        await reactions.react(event, envelope, pool, rollout)
        changed()

    _hear(
        broker,
        process,
        {
            MODEL_REGISTERED: on_registered,
            MODEL_LOADED: on_loaded,
            PREDICTION_MADE: on_predictions,
            DRIFT_DETECTED: on_noticed,
            PERFORMANCE_DEGRADED: on_noticed,
        },
    )

    async def judge() -> object:
        judged = await handlers.judge_next(pool, objects, policy)
        if judged is not None:
            changed()
        return judged

    async def watch() -> None:
        await handlers.watch(pool, rollout)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        await asyncio.to_thread(apply_migrations, conninfo, store.SCHEMA, "readmit_promoter")
        async with pool, httpx.AsyncClient(base_url=str(settings.mlflow_url), timeout=10, trust_env=False) as client:
            async with store.writing(pool) as connection:
                await governor.announce_again(connection)
            health.set("ledger", True)
            reconciling = partial(
                handlers.keep_reconciled, pool, MlflowRegistry(client), interval_s=settings.reconcile_interval_s
            )
            background = process.background(
                OutboxRelay(store.SCHEMA, conninfo, publisher(broker)).run(),
                handlers.repeat(judge, news=registered, interval_s=2.0, name="judging"),
                handlers.repeat(watch, news=heard, interval_s=_WATCH_S, name="watching"),
                reconciling(decided=decided),
                keep_starting(broker, lambda: health.set("kafka", True)),
                watch_lag(broker),
                *([] if keys_file is None else [keys_file.watch()]),
            )
            try:
                async with background:
                    yield
            finally:
                await broker.stop()

    app = FastAPI(title="Readmit promoter", lifespan=lifespan, docs_url=None, redoc_url=None)
    serve_docs(app)
    command = Command(pool, doorkeeper, changed)
    for router in (
        health_router(health),
        reading_router(pool, doorkeeper, rollout),
        replays_router(pool, doorkeeper, policy, objects),
        champion_commands(command),
        candidate_commands(command, rollout),
    ):
        app.include_router(router)
    answer_problems(app)
    answer_outages(app, Transient, detail="The ledger or the object store cannot be read now.")
    return app


def _hear(broker: Broker, process: Process, handles: Mapping[Topic, Any]) -> None:
    for topic, handle in handles.items():
        consume(
            broker, topic=topic.name, dead_letter=topic.dead_letter, group=_GROUPS.get(topic, _GROUP),
            event_type=_READ_AS.get(topic, topic.event),
            handle=handle, process=process,
        )  # fmt: skip


def _doorkeeper(settings: Settings) -> tuple[Doorkeeper, WatchedFile | None]:
    if settings.api_keys_file is None:
        return Doorkeeper(None, open_reading=settings.open_reading), None
    keys = ApiKeys(SCOPES)
    file = WatchedFile(settings.api_keys_file, keys.use, "keys")
    file.read()
    return Doorkeeper(keys, open_reading=settings.open_reading), file
