"""The model on trial beside the champion: follows rollouts, loads it as a champion is loaded, ends its trial."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime

import structlog

from readmit_bundle import BundleRefused
from readmit_chassis.failures import Transient
from readmit_contracts.events import ModelLoaded, RolloutChanged
from readmit_inference import metrics
from readmit_inference.champion import Champion
from readmit_inference.domain import Serving, renamed
from readmit_inference.loader import Loaded, Loader
from readmit_inference.patience import patience, pause
from readmit_inference.trial import Trial

log = structlog.get_logger()


class Challenger:
    """Holds the model on trial, and says to the champion which encounters are its own (`Champion.trial`).

    `wanted` is the newest rollout heard of. A trial begins once the model is loaded and the champion of the rollout's
    epoch answers; it ends with the rollout, or with the next promotion heard of. Everything but what blocks runs on the
    event loop. Nothing here keeps a pod from being ready.
    """

    def __init__(
        self,
        *,
        pod_id: str,
        champion: Champion,
        loader: Loader,
        announce: Callable[[ModelLoaded], None],
        is_logged: bool,
        pauses: Callable[[], Iterator[float]] = patience,
    ) -> None:
        """`is_logged`: answers are kept for Kafka; without that, a shadow has nobody to speak to."""
        self._pod_id = pod_id
        self._champion = champion
        self._loader = loader
        self._announce = announce
        self._is_logged = is_logged
        self._pauses = pauses
        self._news = asyncio.Event()
        self._load_s = 0.0
        self._refused = 0  # the newest revision whose model was refused
        self._is_untidy = False
        self._has_warned = False
        self.wanted: RolloutChanged | None = None
        #: What was last said of the model on trial.
        self.said: ModelLoaded | None = None
        champion.on_change = self._review

    def want(self, changed: RolloutChanged) -> None:
        """A rollout has begun, changed or ended. Older revisions than the newest known are ignored."""
        if self.wanted is not None and changed.revision <= self.wanted.revision:
            return
        self.wanted = changed
        if changed.stage == "shadow" and not self._is_logged and not self._has_warned:
            self._has_warned = True
            log.warning("shadow_without_log", rollout_id=str(changed.rollout_id))
        self._review()
        self._news.set()

    async def run(self) -> None:
        """Load the challenger whenever there is one; runs until cancelled."""
        while True:
            await self._news.wait()
            self._news.clear()
            await self._follow()

    async def _follow(self) -> None:
        pauses = self._pauses()
        while (missing := self._missing()) is not None:
            try:
                await self._load(missing)
            except Transient as away:
                pause_s = next(pauses)
                log.warning("challenger_store_away", revision=missing.revision, error=str(away), retry_in_s=pause_s)
                await pause(pause_s, self._news)
        if self._is_untidy:
            self._is_untidy = False
            await self._loader.tidy()

    def _missing(self) -> RolloutChanged | None:
        """The rollout whose model is still to be loaded."""
        wanted = self.wanted
        if wanted is None or self._is_over(wanted) or self._refused == wanted.revision or self._serving_of(wanted):
            return None
        return wanted

    async def _load(self, changed: RolloutChanged) -> None:
        started = time.perf_counter()
        try:
            loaded = await self._loader.load(changed)
        except BundleRefused as refused:
            if self.wanted is changed and not self._is_over(changed):
                self._refuse(changed, str(refused), time.perf_counter() - started)
            return
        if self.wanted is not None and self.wanted.bundle.sha256 == changed.bundle.sha256:
            self._load_s = time.perf_counter() - started
            self._champion.beside = loaded
            self._is_untidy = True
            self._review()

    def _is_over(self, changed: RolloutChanged) -> bool:
        promoted = self._champion.wanted
        return changed.stage == "ended" or (promoted is not None and promoted.epoch > changed.champion_epoch)

    def _serving_of(self, changed: RolloutChanged) -> Serving | None:
        """The model of the rollout, if it is in memory."""
        beside = self._champion.beside
        if beside is not None and beside.serving.model.sha256 == changed.bundle.sha256:
            return beside.serving
        return None

    def _review(self) -> None:
        """Begin, change or end the trial, as the newest rollout and the newest promotion say. Does nothing twice."""
        wanted, champion = self.wanted, self._champion
        if wanted is None:
            return
        if self._is_over(wanted):
            self._end()
            return
        if self._refused == wanted.revision:
            return
        serving = self._serving_of(wanted)
        if serving is None:
            self._end()
            serving = self._from_memory(wanted)
        elif serving.cause is not wanted:
            serving = self._renamed(serving, wanted)
        if serving is None:
            return
        if champion.serving is None or champion.serving.named.epoch != wanted.champion_epoch:
            champion.trial = None  # until the champion beside which it is to be tried answers
        elif self.said is None or self.said.rollout_revision != wanted.revision:
            self._begin(wanted, serving)

    def _from_memory(self, wanted: RolloutChanged) -> Serving | None:
        """The model of the rollout where the champion has it: a rollout of the model before takes no load."""
        for kept in (self._champion.kept, self._champion.serving):
            if kept is not None and kept.model.sha256 == wanted.bundle.sha256:
                self._load_s = 0.0
                return self._renamed(kept, wanted)
        return None

    def _renamed(self, known: Serving, wanted: RolloutChanged) -> Serving | None:
        """The same model under the newest revision; None, and it is refused, where that contradicts it."""
        beside = self._champion.beside
        try:
            serving = renamed(known, wanted)
        except BundleRefused as refused:
            self._refuse(wanted, str(refused), 0.0)
            return None
        self._champion.beside = Loaded(serving, None if beside is None else beside.bundle, "memory")
        return serving

    def _begin(self, wanted: RolloutChanged, serving: Serving) -> None:
        is_idle = wanted.stage == "shadow" and not self._is_logged
        self._champion.trial = None if is_idle else Trial(wanted, serving)
        named = serving.named
        metrics.CHALLENGER_INFO.clear()
        metrics.CHALLENGER_INFO.labels(named.name, named.version, named.sha256, wanted.stage).set(1)
        log.info("challenger_on_trial", model=named.name, version=named.version, stage=wanted.stage, share=wanted.share,
                 revision=wanted.revision, load_s=self._load_s)  # fmt: skip
        self._say(wanted, self._load_s, reason=None)

    def _end(self) -> None:
        """Nothing but the champion answers, and nothing of the challenger stays in memory."""
        champion = self._champion
        if self.said is not None:
            log.info("trial_ended", revision=self.said.rollout_revision)
        if champion.beside is not None:
            self._is_untidy = True
            self._news.set()
        champion.trial = champion.beside = self.said = None
        metrics.CHALLENGER_INFO.clear()

    def _refuse(self, wanted: RolloutChanged, reason: str, load_s: float) -> None:
        self._end()
        self._refused = wanted.revision
        log.error("challenger_refused", revision=wanted.revision, model=wanted.challenger.name, reason=reason)
        self._say(wanted, load_s, reason=reason)

    def _say(self, wanted: RolloutChanged, load_s: float, *, reason: str | None) -> None:
        self.said = ModelLoaded(
            pod_id=self._pod_id,
            outcome="serving" if reason is None else "refused",
            epoch=wanted.champion_epoch,
            model=wanted.challenger,
            sha256=wanted.bundle.sha256,
            load_ms=load_s * 1000,
            reason=reason,
            role="challenger",
            rollout_revision=wanted.revision,
            at=datetime.now(UTC),
        )
        self._announce(self.said)
