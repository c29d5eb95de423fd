"""Says in the background what this pod loaded; serving never waits for it."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Iterator

import structlog

from readmit_chassis.envelope import new_envelope
from readmit_chassis.failures import Transient
from readmit_contracts.events import ModelLoaded
from readmit_inference.patience import patience
from readmit_inference.prediction_event import Record

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
        self._tried = asyncio.Event()
        self._away = True  # until Kafka has been reached

    def announce(self, loaded: ModelLoaded) -> None:
        """Queue an announcement; returns at once. A heartbeat takes the place of one that still waits."""
        if loaded.occasion == "heartbeat":
            others = [said for said in self._queue if (said.occasion, said.role) != ("heartbeat", loaded.role)]
            self._queue.clear()
            self._queue.extend(others)
        self._queue.append(loaded)
        self._news.set()

    async def finish(self, timeout_s: float) -> None:
        """Wait until all is said, but no longer than `timeout_s`, and not at all for a Kafka that is away."""
        try:
            async with asyncio.timeout(timeout_s):
                while self._queue and not self._away:
                    self._tried.clear()
                    await self._tried.wait()
        except TimeoutError:
            log.warning("announcements_unsaid", announcements=len(self._queue))

    async def run(self) -> None:
        """Publish in order, each until it succeeds; runs until cancelled."""
        self._away = False
        while True:
            await self._news.wait()
            self._news.clear()
            pauses = self._pauses()
            while self._queue:
                loaded = self._queue[0]
                try:
                    await self._publish(loaded)
                except Transient as away:
                    self._away = True
                    self._tried.set()
                    pause_s = next(pauses)
                    log.warning("announcement_waits", epoch=loaded.epoch, error=str(away), retry_in_s=pause_s)
                    await asyncio.sleep(pause_s)
                else:
                    self._away = False
                    if self._queue and self._queue[0] is loaded:
                        self._queue.popleft()
                    self._tried.set()


def announcement(loaded: ModelLoaded, source: str) -> Record:
    """The announcement as a record."""
    headers = new_envelope(ModelLoaded.EVENT_TYPE, source=source, subject=loaded.pod_id).headers()
    return Record(
        loaded.pod_id.encode(),
        loaded.model_dump_json().encode(),
        [(name, value.encode()) for name, value in headers.items()],
        int(loaded.at.timestamp() * 1000),
    )
