"""The composition root: settings in, an ASGI app out."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from typing import Any

from fastapi import FastAPI
from faststream.kafka import KafkaBroker
from starlette.types import ASGIApp, Receive, Scope, Send

from readmit_bundle import preload
from readmit_chassis.access.client import Limit
from readmit_chassis.envelope import Envelope
from readmit_chassis.health import Health, health_router
from readmit_chassis.kafka import follow, keep_starting, make_broker
from readmit_chassis.process import Process
from readmit_contracts.events import ModelLoaded, ModelPromoted, RolloutChanged
from readmit_contracts.topics import MODEL_LOADED, MODEL_PROMOTED, PREDICTION_MADE, ROLLOUT_CHANGED
from readmit_inference import problems
from readmit_inference.access.document import describe_access
from readmit_inference.access.entrance import Entrance, Issuer
from readmit_inference.announcer import Announcer, announcement
from readmit_inference.batch.description import describe_batch
from readmit_inference.batch.endpoint import BatchEndpoint
from readmit_inference.batch_publisher import BatchPublisher, Parcel
from readmit_inference.cache import BundleCache
from readmit_inference.challenger import Challenger
from readmit_inference.champion import LOADED, Champion
from readmit_inference.clinical.endpoints import ClinicalEndpoint, clinical_router
from readmit_inference.document import DESCRIPTION, TAGS, install_pages
from readmit_inference.handlers import PredictEndpoint, describe_predict, explain_router, state_router
from readmit_inference.heartbeat import keep_beating, say_farewell
from readmit_inference.loader import Loader
from readmit_inference.overload import Overload
from readmit_inference.prediction_event import encoder
from readmit_inference.prediction_log import PredictionLog
from readmit_inference.settings import Settings
from readmit_inference.slow_bodies import SlowBodies

SOURCE = "readmit-inference"
#: Of the API. Paths without one, which the original's clients call, mean the newest.
VERSION = "v1"
_VERSIONED = f"/{VERSION}/"
#: What is answered at once, where it can be.
_ONE = ("/predict", f"/{VERSION}/predict")
_LOG_DRAIN_S = 3.0
_FAREWELL_S = 1.0


def make_app(
    settings: Settings,
    get: Callable[[str], bytes],
    process: Process,
    *,
    warm_up: Callable[[], object] = lambda: None,
    on_warm: Callable[[], None] = lambda: None,
    tidy: Callable[[], object] = lambda: None,
) -> FastAPI:
    """The service. Kafka and the store that `get` reads may be away at start: what the cache holds is served.

    `warm_up` is called once that is done, in a thread: for what takes long and no answer needs. Then `on_warm` is.
    `tidy` is called in a thread after each load.
    """
    health = Health(LOADED)
    broker = make_broker(settings.kafka, SOURCE)
    speaker = BatchPublisher(settings.kafka, SOURCE, MODEL_LOADED.name)

    async def say_loaded(loaded: ModelLoaded) -> None:
        await speaker.publish([Parcel(announcement(loaded, SOURCE))])

    announcer = Announcer(say_loaded)
    loader = Loader(get, BundleCache(settings.cache_dir), tidy)
    champion = Champion(pod_id=settings.pod_id, loader=loader, announce=announcer.announce, health=health)
    challenger = Challenger(
        pod_id=settings.pod_id,
        champion=champion,
        loader=loader,
        announce=announcer.announce,
        is_logged=settings.log_predictions,
    )

    _follow_promoter(broker, champion, challenger, process)

    def last_words() -> tuple[ModelLoaded | None, ...]:
        return champion.said, challenger.said

    publisher = BatchPublisher(settings.kafka, SOURCE, PREDICTION_MADE.name)
    encode = encoder(settings.pod_id, SOURCE, settings.pseudonym_key)
    log = PredictionLog(encode, publisher.publish, capacity=settings.log_capacity) if settings.log_predictions else None

    overload = Overload(settings.shed_after_s)
    slow_bodies = SlowBodies(settings.body_timeout_s)

    entrance = _entrance(settings)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        await champion.restore()
        background = [
            champion.run(),
            challenger.run(),
            overload.watch(),
            slow_bodies.watch(),
            _talk(broker, announcer),
            _warm_up(warm_up, on_warm),
            *entrance.watches(),
        ]
        if log is not None:
            background.append(log.run())
        try:
            async with process.background(*background):
                async with process.background(keep_beating(last_words, announcer.announce, settings.heartbeat_s)):
                    yield
                say_farewell(last_words, announcer.announce)
                await announcer.finish(_FAREWELL_S)
                if log is not None:
                    await log.finish(_LOG_DRAIN_S)
        finally:
            loader.close()
            await asyncio.gather(speaker.close(), publisher.close())
            await broker.stop()

    batch = BatchEndpoint(
        champion,
        log,
        overload,
        max_row_bytes=settings.max_body_bytes,
        max_bytes=settings.max_batch_bytes,
        timeout_s=settings.body_timeout_s,
        folder=settings.cache_dir,
    )
    one = PredictEndpoint(champion, settings.max_body_bytes, log, overload, slow_bodies)
    app = FrontDoor(
        {"/predict": one, "/predict/batch": batch},
        entrance.around,
        title="Readmit inference",
        summary="Risk of readmission within 30 days",
        description=DESCRIPTION,
        openapi_tags=list(TAGS),
        version="1",
        servers=[
            {"url": "/", "description": "the newest version"},
            {"url": f"/{VERSION}", "description": "this version, for as long as it is offered"},
        ],
        docs_url=None,
        redoc_url=None,
        lifespan=lifespan,
    )
    problems.install(app)
    describe_predict(app)
    describe_batch(app)
    app.include_router(explain_router(champion, settings.max_body_bytes, overload, slow_bodies))
    app.include_router(state_router(champion, settings.pod_id))
    app.include_router(health_router(health))
    app.include_router(
        clinical_router(ClinicalEndpoint(champion, settings.max_fhir_body_bytes, log, overload, slow_bodies))
    )
    describe_access(app, asked_for=entrance.asks)
    install_pages(app)
    app.state.champion, app.state.challenger = champion, challenger
    app.state.posts_at_once = entrance.around_posts(dict.fromkeys(_ONE, one.at_once))
    return app


def _entrance(settings: Settings) -> Entrance:
    oidc, rate = settings.oidc, settings.rate
    return Entrance(
        api_keys_file=settings.api_keys_file,
        issuer=None if oidc is None else Issuer(oidc.issuer, oidc.audience, oidc.jwks_file),
        limit=None if rate is None else Limit(rate.requests_per_s, rate.burst),
        cors_origins=settings.cors_origins,
    )


def _follow_promoter(broker: KafkaBroker, champion: Champion, challenger: Challenger, process: Process) -> None:
    async def on_promoted(promoted: ModelPromoted, _: Envelope) -> None:
        champion.want(promoted)

    async def on_rollout(changed: RolloutChanged, _: Envelope) -> None:
        challenger.want(changed)

    follow(broker, topic=MODEL_PROMOTED.name, event_type=ModelPromoted, handle=on_promoted, process=process)
    follow(broker, topic=ROLLOUT_CHANGED.name, event_type=RolloutChanged, handle=on_rollout, process=process)


class FrontDoor(FastAPI):
    """FastAPI, with a way round its middleware and routing for what is all about speed, and a version before each path.

    What FastAPI does for a request takes longer than what the model does (`benchmarks/serving_ceiling.py`). What is
    for every request stands around both: `around` gives the layers.
    """

    def __init__(self, posts: Mapping[str, ASGIApp], around: Callable[[ASGIApp], ASGIApp], **how: Any) -> None:
        super().__init__(**how)
        self._posts = posts
        self._entrance = around(self._route)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self._entrance(scope, receive, send)

    async def _route(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            path: str = scope["path"]
            if path.startswith(_VERSIONED):
                path = path.removeprefix(_VERSIONED[:-1])
                scope = {**scope, "path": path, "raw_path": path.encode()}
            if scope["method"] == "POST" and (endpoint := self._posts.get(path)) is not None:
                await endpoint(scope, receive, send)
                return
        await super().__call__(scope, receive, send)


async def _talk(broker: KafkaBroker, announcer: Announcer) -> None:
    await keep_starting(broker)
    await announcer.run()


async def _warm_up(warm_up: Callable[[], object], on_warm: Callable[[], None]) -> None:
    await asyncio.to_thread(preload)
    await asyncio.to_thread(warm_up)
    on_warm()
