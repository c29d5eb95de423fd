"""Says in the background what this pod loaded; serving never waits for it."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Iterator

import structlog

from readmit_chassis.failures import Transient
from readmit_contracts.events import ModelLoaded
from readmit_inference.patience import patience

log = structlog.get_logger()


class Announcer:
    """A short queue of announcements. Only the newest matter: when Kafka stays away, the oldest are dropped."""

    def __init__(
        self,
        publish: Callable[[ModelLoaded], Awaitable[None]],
        *,
        kept: int = 32,
        pauses: Callable[[], Iterator[float]] = patience,
    ) -> None:
        self._publish = publish
        self._pauses = pauses
        self._queue: deque[ModelLoaded] = deque(maxlen=kept)
        self._news = asyncio.Event()

    def announce(self, loaded: ModelLoaded) -> None:
        """Queue an announcement; returns at once."""
        self._queue.append(loaded)
        self._news.set()

    async def run(self) -> None:
        """Publish in order, each until it succeeds; runs until cancelled."""
        while True:
            await self._news.wait()
            self._news.clear()
            pauses = self._pauses()
            while self._queue:
                loaded = self._queue[0]
                try:
                    await self._publish(loaded)
                except Transient as away:
                    pause_s = next(pauses)
                    log.warning("announcement_waits", epoch=loaded.epoch, error=str(away), retry_in_s=pause_s)
                    await asyncio.sleep(pause_s)
                else:
                    if self._queue and self._queue[0] is loaded:
                        self._queue.popleft()
