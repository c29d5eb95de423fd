"""Which model answers: follows promotions, loads beside the running model, swaps one reference.

The model that answered before stays in memory, so that going back to it takes no load.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime

import structlog

from readmit_bundle import Bundle, BundleRefused
from readmit_chassis.failures import Transient
from readmit_chassis.health import Health
from readmit_contracts.events import ModelLoaded, ModelPromoted
from readmit_inference import metrics
from readmit_inference.domain import Serving, renamed
from readmit_inference.loader import Loaded, Loader, Source
from readmit_inference.patience import patience, pause
from readmit_inference.trial import Trial

log = structlog.get_logger()

#: The condition of readiness: a model answers. Not that it is the newest: with the store away, that would take every
#: pod out of service just when nothing but the pods still works.
LOADED = "model_loaded"


class Champion:
    """Holds the model that answers and the one before it, and moves to the newest promotion.

    `wanted` is the newest promotion heard of, `settled` the newest epoch that was either put in service or refused,
    `kept` the model that answered before. `beside` and `trial` are set by the challenger: its model, and how encounters
    are divided while it is on trial. Everything but what blocks runs on the event loop; requests read `serving` and
    `trial` once and keep what they read.
    """

    def __init__(
        self,
        *,
        pod_id: str,
        loader: Loader,
        announce: Callable[[ModelLoaded], None],
        health: Health,
        pauses: Callable[[], Iterator[float]] = patience,
    ) -> None:
        self._pod_id = pod_id
        self._loader = loader
        self._announce = announce
        self._health = health
        self._pauses = pauses
        self._news = asyncio.Event()
        #: What the cache does not name yet; None for a bundle that it has.
        self._uncached: tuple[ModelPromoted, Bundle | None] | None = None
        self.serving: Serving | None = None
        self.kept: Serving | None = None
        self.beside: Loaded | None = None
        self.trial: Trial | None = None
        self.wanted: ModelPromoted | None = None
        self.settled = 0
        #: What was last said of this pod's champion.
        self.said: ModelLoaded | None = None
        #: Called when a promotion was heard of, and when a model was put in service.
        self.on_change: Callable[[], None] = lambda: None

    def want(self, promoted: ModelPromoted) -> None:
        """A promotion was heard of. Older ones than the newest known are ignored.

        A model that is in memory answers when this returns, also while another one is being loaded.
        """
        if self.wanted is not None and promoted.epoch <= self.wanted.epoch:
            return
        self.wanted = promoted
        metrics.MODEL_EPOCH_KNOWN.set(promoted.epoch)
        self._take_from_memory(promoted)
        self.on_change()
        self._news.set()

    async def restore(self) -> None:
        """Serve what the cache holds, before any news. A cache that can't be used is ignored."""
        started = time.perf_counter()
        try:
            restored = await self._loader.restore()
        except BundleRefused as refused:
            metrics.MODEL_LOADS.labels("cache_unusable").inc()
            log.warning("cached_model_refused", reason=str(refused))
            return
        if restored is not None:
            promoted, serving = restored
            self.want(promoted)
            self._put_in_service(promoted, serving, time.perf_counter() - started, "cache")

    async def run(self) -> None:
        """Load the newest promotion whenever there is one; runs until cancelled."""
        while True:
            await self._news.wait()
            self._news.clear()
            await self._follow()

    async def _follow(self) -> None:
        pauses = self._pauses()
        while self.wanted is not None and self.wanted.epoch > self.settled:
            try:
                await self._load(self.wanted)
            except Transient as away:
                metrics.MODEL_LOADS.labels("retried").inc()
                pause_s = next(pauses)
                log.warning("model_store_away", epoch=self.wanted.epoch, error=str(away), retry_in_s=pause_s)
                await pause(pause_s, self._news)
        await self._write_cache()  # of what was taken from memory

    def _take_from_memory(self, promoted: ModelPromoted) -> bool:
        """Put a model that is in memory in service, or refuse it; False when there is none of that digest."""
        started = time.perf_counter()
        beside, bundle = (None, None) if self.beside is None else (self.beside.serving, self.beside.bundle)
        for loaded in (self.serving, self.kept, beside):
            if loaded is not None and loaded.model.sha256 == promoted.bundle.sha256:
                try:
                    serving = renamed(loaded, promoted)
                except BundleRefused as refused:
                    self._refuse(promoted, str(refused), time.perf_counter() - started)
                else:
                    self._uncached = promoted, bundle if loaded is beside else None
                    self._put_in_service(promoted, serving, time.perf_counter() - started, "memory")
                return True
        return False

    async def _load(self, promoted: ModelPromoted) -> None:
        if self._take_from_memory(promoted):
            return
        started = time.perf_counter()
        try:
            loaded = await self._loader.load(promoted)
        except BundleRefused as refused:
            if promoted.epoch > self.settled:
                self._refuse(promoted, str(refused), time.perf_counter() - started)
            return
        if promoted.epoch > self.settled:  # else a newer one was taken from memory meanwhile
            self._uncached = promoted, loaded.bundle
            self._put_in_service(promoted, loaded.serving, time.perf_counter() - started, loaded.source)
            await self._write_cache()
            del loaded
            await self._loader.tidy()

    async def _write_cache(self) -> None:
        """So that a restart finds what is in service, and what was before."""
        if self._uncached is None:
            return
        promoted, bundle = self._uncached
        self._uncached = None
        try:
            await self._loader.write_cache(promoted, bundle)
        except OSError as error:
            log.warning("model_not_cached", error=str(error))  # a restart will need the store; serving goes on

    def _put_in_service(self, promoted: ModelPromoted, serving: Serving, load_s: float, source: Source) -> None:
        if self.serving is not None and self.serving.model is not serving.model:
            self.kept = self.serving
        self.serving = serving
        named = serving.named
        self.settled = promoted.epoch
        self._health.set(LOADED, True)
        metrics.MODEL_INFO.clear()
        metrics.MODEL_INFO.labels(named.name, named.version, named.sha256, str(named.synthetic).lower()).set(1)
        metrics.MODEL_EPOCH.set(promoted.epoch)
        metrics.MODEL_LOAD_SECONDS.set(load_s)
        metrics.MODEL_LOADS.labels("serving").inc()
        metrics.MODEL_SOURCES.labels(source).inc()
        metrics.MODEL_KEPT.clear()
        if self.kept is not None:
            before = self.kept.named
            metrics.MODEL_KEPT.labels(before.name, before.version, before.sha256).set(1)
        log.info("model_in_service", model=named.name, version=named.version, epoch=promoted.epoch, load_s=load_s,
                 source=source)  # fmt: skip
        self._say(promoted, load_s, reason=None)
        self.on_change()

    def _refuse(self, promoted: ModelPromoted, reason: str, load_s: float) -> None:
        self.settled = promoted.epoch
        metrics.MODEL_LOADS.labels("refused").inc()
        log.error("model_refused", epoch=promoted.epoch, model=promoted.model.name, reason=reason)
        self._say(promoted, load_s, reason=reason)

    def _say(self, promoted: ModelPromoted, load_s: float, *, reason: str | None) -> None:
        self.said = ModelLoaded(
            pod_id=self._pod_id,
            outcome="serving" if reason is None else "refused",
            epoch=promoted.epoch,
            model=promoted.model,
            sha256=promoted.bundle.sha256,
            load_ms=load_s * 1000,
            reason=reason,
            at=datetime.now(UTC),
        )
        self._announce(self.said)
