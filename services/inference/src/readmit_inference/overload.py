"""Whether the pod is overrun: requests that would wait too long are turned away at once, instead of all waiting."""

from __future__ import annotations

import asyncio
import math
import time

from readmit_inference import metrics
from readmit_inference.errors import Overloaded

_LOOK_S = 0.02


class Overload:
    """Watches how long the event loop works without a pause: a timer of 20 ms stands in the same line as the requests.

    Of what has come at once, as much is answered as can be in time. The rest is turned away, which takes a fraction of
    answering it, so the pod has caught up when the timer's turn comes. What counts is the thread's processor time: a
    process that the machine has left waiting has not more to do for it, and turns nobody away.
    """

    def __init__(self, limit_s: float) -> None:
        """`limit_s`: how long the loop may work between two looks."""
        self._limit_s = limit_s
        self._looked_s = math.inf
        self._due_s = math.inf
        self._late_s = 0.0
        metrics.LOOP_LATE.set_function(lambda: self._late_s)

    def check(self) -> None:
        """Raises `Overloaded` where too much has come before this request."""
        # No thread works longer than time goes by; and the clock is cheap, its processor time a call of the system.
        if time.monotonic() > self._due_s and time.thread_time() - self._looked_s > self._limit_s:
            raise Overloaded("More requests than this pod can answer in time. Try again in a second, or add pods.")

    async def watch(self) -> None:
        """Runs until cancelled."""
        while True:
            now_s = time.monotonic()
            self._looked_s, self._due_s = time.thread_time(), now_s + self._limit_s
            await asyncio.sleep(_LOOK_S)
            self._late_s = max(0.0, time.monotonic() - now_s - _LOOK_S)
