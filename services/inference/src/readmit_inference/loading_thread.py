"""The thread that models are loaded in. It steps back behind the one that answers requests."""

from __future__ import annotations

import asyncio
import os
import sys
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")

#: A third of the processor that a busy event loop gets. Much less, and a loaded pod takes seconds to follow.
_NICE = 5


class LoadingThread:
    """One thread, always the same: what a load takes of the allocator is there for the next one."""

    def __init__(self) -> None:
        self._executor = ThreadPoolExecutor(1, thread_name_prefix="model-loading", initializer=_step_back)

    async def run(self, work: Callable[P, T], *arguments: P.args, **named: P.kwargs) -> T:
        """What `work` returns or raises, once what was asked for before is done."""
        return await asyncio.get_running_loop().run_in_executor(self._executor, partial(work, *arguments, **named))

    def close(self) -> None:
        """Take no more work; returns at once."""
        self._executor.shutdown(wait=False, cancel_futures=True)


def _step_back() -> None:
    if sys.platform == "linux":  # where threads have priorities of their own
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), _NICE)
