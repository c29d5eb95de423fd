"""Models are loaded in one thread, which leaves the processor and the interpreter to the requests."""

from __future__ import annotations

import os
import sys
import threading

import pytest

from readmit_inference.loading_thread import LoadingThread


async def test_it_is_one_thread_and_switches_often_only_while_it_works() -> None:
    usual = sys.getswitchinterval()
    loading = LoadingThread()
    try:
        first = await loading.run(lambda: (threading.get_ident(), sys.getswitchinterval()))
        second = await loading.run(lambda: (threading.get_ident(), sys.getswitchinterval()))
        assert first == second
        assert first[0] != threading.get_ident()
        assert first[1] < usual
        assert sys.getswitchinterval() == usual
        with pytest.raises(ZeroDivisionError):
            await loading.run(lambda: 1 // 0)
        assert sys.getswitchinterval() == usual
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
