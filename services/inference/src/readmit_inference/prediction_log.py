"""Keeps every answer for the log, off the request path: a bounded buffer, and a task that carries it to Kafka."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator

import structlog

from readmit_chassis.failures import Transient
from readmit_inference import metrics
from readmit_inference.comparison import TimeShare, compare
from readmit_inference.domain import Answered
from readmit_inference.patience import patience
from readmit_inference.prediction_event import Logged, Record

log = structlog.get_logger()

#: Delivers the records. Raises `Transient`; some may have been delivered then, and all are sent again.
Publish = Callable[[AsyncIterator[Record]], Awaitable[None]]

_FULL = metrics.PREDICTION_LOG_DROPPED.labels("full")
_SHUTDOWN = metrics.PREDICTION_LOG_DROPPED.labels("shutdown")
_SKIPPED = metrics.SHADOW_SKIPPED
#: How long answers gather before they leave: a delivery costs about the same for one as for hundreds.
_LINGER_S = 0.05
#: Answers in one delivery, at most.
_DELIVERY = 2048
#: How long a row of a batch waits for room: longer than a delivery takes to fail.
_ROOM_S = 5.0
#: Answers encoded before requests get their turn again (some 0.4 ms), and so many for each that was given in the last
#: turn: slices of one size would fall behind. What waits does not say how many, since requests would then wait longest
#: when the pod has fallen behind.
_SLICE, _FOR_EACH = 32, 1.5
#: What asking the other model takes of a slice: as much as encoding so many answers.
_COMPARED = 4
#: Of the time, what asking the other model may take; of a second's share, what was not needed is saved up.
_ASKING_SHARE, _ASKING_SAVED_S = 0.1, 0.1


class PredictionLog:
    """A log that never makes a request wait: what doesn't fit is lost, oldest first, and counted.

    `capacity` answers wait at most, and up to 2,048 more are on their way. `add` is all that a request pays for.
    """

    def __init__(
        self,
        encode: Callable[[Logged], Record],
        publish: Publish,
        *,
        capacity: int,
        pauses: Callable[[], Iterator[float]] = patience,
    ) -> None:
        self._encode = encode
        self._publish = publish
        self._capacity = capacity
        self._pauses = pauses
        self._waiting: deque[Logged] = deque()
        self._leaving: list[Logged] = []
        self._news = asyncio.Event()
        self._tried = asyncio.Event()
        self._away = False
        self._added = 0
        self._asking = TimeShare(_ASKING_SHARE, _ASKING_SAVED_S)
        metrics.PREDICTION_LOG_BUFFERED.set_function(self.__len__)

    def __len__(self) -> int:
        return len(self._waiting) + len(self._leaving)

    @property
    def _is_full(self) -> bool:
        return len(self._waiting) >= self._capacity

    def add(self, answered: Answered, latency_s: float) -> None:
        """Keep an answer that was just given; returns at once."""
        if self._is_full:
            self._waiting.popleft()
            _FULL.inc()
        self._waiting.append(Logged(answered, latency_s, time.time()))
        self._added += 1
        self._news.set()

    async def room(self) -> None:
        """Wait until an answer can be added and none is lost for it; not at all for a Kafka that is away."""
        until = time.monotonic() + _ROOM_S
        while self._is_full and not self._away and time.monotonic() < until:  # noqa: ASYNC110  a rare wait
            await asyncio.sleep(_LINGER_S)

    async def run(self) -> None:
        """Carry answers to Kafka until cancelled; what is still here then is counted as lost."""
        try:
            while True:
                await self._news.wait()
                self._news.clear()
                await asyncio.sleep(_LINGER_S)
                await self._drain()
        finally:
            # A batch that is cut off on its way may have arrived: the count is an upper bound.
            _SHUTDOWN.inc(len(self))

    async def finish(self, timeout_s: float) -> None:
        """Wait until all is delivered, but no longer than `timeout_s`, and not at all for a Kafka that is away."""
        try:
            async with asyncio.timeout(timeout_s):
                while len(self) and not self._away:
                    self._tried.clear()
                    await self._tried.wait()
        except TimeoutError:
            log.warning("prediction_log_not_drained", events=len(self))

    async def _drain(self) -> None:
        pauses = self._pauses()
        while len(self):
            if not self._leaving:
                self._leaving = [self._waiting.popleft() for _ in range(min(len(self._waiting), _DELIVERY))]
            try:
                await self._publish(self._encoded())
            except Transient as away:
                self._away = True
                self._tried.set()
                pause_s = next(pauses)
                log.warning("prediction_log_waits", events=len(self), error=str(away), retry_in_s=pause_s)
                await asyncio.sleep(pause_s)
            else:
                metrics.PREDICTION_LOG_PUBLISHED.inc(len(self._leaving))
                self._leaving = []
                self._away = False
                self._tried.set()
                pauses = self._pauses()

    async def _encoded(self) -> AsyncIterator[Record]:
        """What leaves, encoded one by one as it is packed, so that warm memory is used again."""
        left, due, added = 0, 0, self._added
        for at, logged in enumerate(self._leaving):
            if left <= 0 and due <= 0:
                await asyncio.sleep(0)
                left, due, added = _SLICE, int((self._added - added) * _FOR_EACH), self._added
            left, due = left - 1, due - 1
            if logged.answered.beside is not None and logged.other is None:
                self._leaving[at] = logged = self._compared(logged)  # noqa: PLW2901  kept, should it be sent again
                left -= 0 if logged.other is None else _COMPARED
            yield self._encode(logged)

    def _compared(self, logged: Logged) -> Logged:
        """With what the other model says. A log or a pod that has much to do goes without that first."""
        beside = logged.answered.beside
        if beside is None or beside.other is None:
            return logged
        if len(self._waiting) * 2 > self._capacity or not self._asking.is_left():
            _SKIPPED.inc()
            return logged._replace(answered=logged.answered._replace(beside=beside._replace(other=None)))
        other = compare(beside, beside.other, logged.answered)
        self._asking.spend(other.score_s)
        return logged._replace(other=other)
