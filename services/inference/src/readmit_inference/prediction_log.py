"""Keeps every answer for the log, off the request path: a bounded buffer, and a task that carries it to Kafka."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Awaitable, Callable, Iterator, Sequence

import structlog

from readmit_chassis.failures import Transient
from readmit_inference import metrics
from readmit_inference.batch_publisher import Parcel
from readmit_inference.comparison import TimeShare, compare
from readmit_inference.domain import Answered
from readmit_inference.patience import patience
from readmit_inference.prediction_event import Encode, Logged, Record, logged

log = structlog.get_logger()

#: Delivers parcels. Raises `Transient`; some may have been delivered then, and all are sent again.
Publish = Callable[[Sequence[Parcel]], Awaitable[None]]

_FULL = metrics.PREDICTION_LOG_DROPPED.labels("full")
_SHUTDOWN = metrics.PREDICTION_LOG_DROPPED.labels("shutdown")
_SKIPPED = metrics.SHADOW_SKIPPED
#: How long answers gather before they leave: a delivery takes some 0.3 ms of the processor's time, for one as for
#: hundreds, and a pod that is killed loses what has gathered.
_LINGER_S = 0.1
#: Answers in one delivery, at most.
_DELIVERY = 2048
#: Answers encoded before requests get their turn again, some 0.3 ms, and as soon as so many wait. They share a message:
#: fewer at a time cost more each.
_SLICE = 64
#: Of what a full log keeps, the share that it loses at a time: what is packed already can only be lost together.
_PARCELS = 16
#: How long a row of a batch waits for room: longer than a delivery takes to fail. And how often it looks.
_ROOM_S, _ROOM_LOOK_S = 5.0, 0.02
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
        encode: Encode,
        publish: Publish,
        *,
        capacity: int,
        pauses: Callable[[], Iterator[float]] = patience,
        new_parcel: Callable[[], Parcel] = Parcel,
    ) -> None:
        self._encode = encode
        self._new_parcel = new_parcel
        self._publish = publish
        self._capacity = capacity
        self._parcel_answers = max(1, min(_DELIVERY, capacity // _PARCELS))
        self._slice = min(_SLICE, self._parcel_answers)
        self._pauses = pauses
        self._waiting: deque[Logged] = deque()
        self._packed: deque[Parcel] = deque()
        self._packed_answers = 0
        self._leaving: list[Parcel] = []
        self._news = asyncio.Event()
        self._slice_waits = asyncio.Event()
        self._tried = asyncio.Event()
        self._away = False
        self._asking = TimeShare(_ASKING_SHARE, _ASKING_SAVED_S)
        metrics.PREDICTION_LOG_BUFFERED.set_function(self.__len__)

    def __len__(self) -> int:
        return len(self._waiting) + self._packed_answers + sum(map(len, self._leaving))

    @property
    def _is_full(self) -> bool:
        return len(self._waiting) + self._packed_answers >= self._capacity

    def add(self, answered: Answered, latency_s: float) -> None:
        """Keep an answer that was just given; returns at once."""
        waiting = self._waiting
        if self._is_full:
            self._lose_oldest()
        waiting.append(logged(answered, latency_s, time.time()))
        if len(waiting) == 1:  # where more wait, it was said, or whoever delivers is about to look
            self._news.set()
        if len(waiting) >= self._slice:
            self._slice_waits.set()

    async def room(self) -> None:
        """Wait until an answer can be added and none is lost for it; not at all for a Kafka that is away."""
        until = time.monotonic() + _ROOM_S
        while self._is_full and not self._away and time.monotonic() < until:  # noqa: ASYNC110  a rare wait
            await asyncio.sleep(_ROOM_LOOK_S)

    async def run(self) -> None:
        """Carry answers to Kafka until cancelled; what is still here then is counted as lost."""
        try:
            async with asyncio.TaskGroup() as both:
                both.create_task(self._keep_packing())
                both.create_task(self._keep_delivering())
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

    async def _keep_packing(self) -> None:
        while True:
            await self._slice_waits.wait()
            self._slice_waits.clear()
            while len(self._waiting) >= self._slice:
                self._pack_slice()
                await asyncio.sleep(0)

    async def _keep_delivering(self) -> None:
        while True:
            await self._news.wait()
            self._news.clear()
            await asyncio.sleep(_LINGER_S)
            if len(self._waiting) < self._slice:
                self._pack_slice()
            # What is left, or packed from here on, waits for the next time: many small deliveries cost more, and in a
            # busy pod something is always left.
            if self._waiting:
                self._news.set()
            due = self._packed_answers
            while due > 0 and self._packed:
                due -= self._take()
                await self._deliver()

    def _take(self) -> int:
        """Set aside the oldest parcels, as many as are delivered at once; how many answers they are."""
        taken = 0
        while self._packed and (not taken or taken + len(self._packed[0]) <= _DELIVERY):
            parcel = self._packed.popleft()
            self._leaving.append(parcel)
            taken += len(parcel)
        self._packed_answers -= taken
        return taken

    async def _deliver(self) -> None:
        for pause_s in self._pauses():
            try:
                await self._publish(self._leaving)
            except Transient as away:
                self._away = True
                self._tried.set()
                log.warning("prediction_log_waits", events=len(self), error=str(away), retry_in_s=pause_s)
                await asyncio.sleep(pause_s)
            else:
                metrics.PREDICTION_LOG_PUBLISHED.inc(sum(map(len, self._leaving)))
                self._leaving = []
                self._away = False
                self._tried.set()
                return

    def _pack_slice(self) -> None:
        answers: list[Logged] = []
        left = self._slice
        while left > 0 and self._waiting:
            answer = self._waiting.popleft()
            if answer.beside is not None:
                answer = self._compared(answer)
                left -= 0 if answer.other is None else _COMPARED
            answers.append(answer)
            left -= 1
        for record in self._encode(answers):
            self._pack(record)

    def _pack(self, record: Record) -> None:
        is_open = bool(self._packed) and len(self._packed[-1]) + record.events <= self._parcel_answers
        if not is_open or not self._packed[-1].add(record):
            parcel = self._new_parcel()
            parcel.add(record)
            self._packed.append(parcel)
        self._packed_answers += record.events

    def _lose_oldest(self) -> None:
        if self._packed:
            lost = len(self._packed.popleft())
            self._packed_answers -= lost
        else:
            self._waiting.popleft()
            lost = 1
        _FULL.inc(lost)

    def _compared(self, answer: Logged) -> Logged:
        """With what the other model says. A log or a pod that has much to do goes without that first."""
        beside = answer.beside
        if beside is None or beside.other is None:
            return answer
        if len(self._waiting) * 2 > self._capacity or not self._asking.is_left():
            _SKIPPED.inc()
            return answer
        other = compare(
            beside, beside.other, risk=answer.risk, readmitted_within_30_days=answer.readmitted_within_30_days
        )
        self._asking.spend(other.score_s)
        return answer._replace(other=other)
