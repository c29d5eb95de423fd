"""Models are loaded in one thread, which leaves the processor to the requests."""

from __future__ import annotations

import os
import sys
import threading

import pytest

from readmit_inference.loading_thread import LoadingThread


async def test_it_is_one_thread_and_survives_what_fails_in_it() -> None:
    loading = LoadingThread()
    try:
        first = await loading.run(threading.get_ident)
        with pytest.raises(ZeroDivisionError):
            await loading.run(lambda: 1 // 0)
        assert await loading.run(threading.get_ident) == first != threading.get_ident()
    finally:
        loading.close()


@pytest.mark.skipif(sys.platform != "linux", reason="threads have no priority of their own")
async def test_it_steps_back_alone() -> None:
    loading = LoadingThread()
    try:
        priority = await loading.run(lambda: os.getpriority(os.PRIO_PROCESS, threading.get_native_id()))
        assert priority > os.getpriority(os.PRIO_PROCESS, threading.get_native_id())
    finally:
        loading.close()
