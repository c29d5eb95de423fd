"""Gives up on requests whose body does not come: one look a second at all of them, since a timer each costs more."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable
from typing import Any

from readmit_inference.errors import BodyTooSlow


class SlowBodies:
    """Which requests are still being read, and since when."""

    def __init__(self, limit_s: float) -> None:
        """`limit_s`: how long a body may take; it is noticed up to a second (or `limit_s`, if that is less) later."""
        self._limit_s = limit_s
        self._since: dict[asyncio.Task[Any], float] = {}

    async def read(self, reading: Awaitable[bytes]) -> bytes:
        """The body that `reading` gives. Raises `BodyTooSlow`, and whatever `reading` does."""
        task = asyncio.current_task()
        if task is None:
            raise RuntimeError("a request is read in a task")
        self._since[task] = time.monotonic()
        try:
            return await reading
        except asyncio.CancelledError as cancelled:
            if task in self._since:
                raise
            task.uncancel()
            raise BodyTooSlow(f"The body did not come within {self._limit_s:g} s: send it at once.") from cancelled
        finally:
            self._since.pop(task, None)

    async def watch(self) -> None:
        """Runs until cancelled."""
        while True:
            await asyncio.sleep(min(1.0, self._limit_s))
            oldest = time.monotonic() - self._limit_s
            for task in [task for task, since in self._since.items() if since < oldest]:
                del self._since[task]
                task.cancel()
