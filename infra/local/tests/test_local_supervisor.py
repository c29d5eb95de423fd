"""Keeping processes running, and ending them."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys

import pytest

from readmit_local.errors import LocalError
from readmit_local.part import Part, child_env
from readmit_local.process_identity import identity
from readmit_local.state import State
from readmit_local.supervisor import Supervisor, stop_leftovers

SLEEPER = "import os, time; print('here', os.getpid(), flush=True); time.sleep(600)"


def part(state: State, name: str, code: str) -> Part:
    """A Python program that is ready when it has said `here`."""

    async def ready() -> bool:
        log_file = state.log_file(name)
        return log_file.exists() and "here" in log_file.read_text()

    return Part(name, (sys.executable, "-c", code), child_env({}), ready)


async def test_a_part_that_dies_is_started_again_and_all_are_stopped(state: State) -> None:
    said: list[str] = []
    supervisor = Supervisor(state, said.append)
    await supervisor.start(part(state, "first", SLEEPER))
    await supervisor.start(part(state, "second", SLEEPER))
    killed = state.stack()["pids"]["second"]
    os.kill(killed, signal.SIGKILL)
    async with asyncio.timeout(20):
        while state.stack()["pids"].get("second", killed) == killed:  # noqa: ASYNC110  the supervisor writes a file
            await asyncio.sleep(0.02)
    assert any("second stopped (SIGKILL); starting it again" in line for line in said)
    running = state.stack()["pids"]
    await supervisor.stop()
    assert [identity(pid) for pid in running.values()] == [None, None]
    assert state.stack()["pids"] == {}


async def test_what_a_part_left_behind_ends_with_it(state: State) -> None:
    parent = f"import subprocess, sys; subprocess.Popen([sys.executable, '-c', {SLEEPER!r}]).wait()"
    supervisor = Supervisor(state, lambda _: None)
    await supervisor.start(part(state, "parent", parent))
    grandchild = int(state.log_file("parent").read_text().split()[-1])
    assert identity(grandchild) is not None
    os.kill(state.stack()["pids"]["parent"], signal.SIGKILL)  # it can no longer look after its child
    async with asyncio.timeout(20):
        while identity(grandchild) is not None:  # noqa: ASYNC110  a stranger sends no event
            await asyncio.sleep(0.02)
    await supervisor.stop()


async def test_a_part_that_never_starts_says_its_last_words(state: State) -> None:
    supervisor = Supervisor(state, lambda _: None)
    with pytest.raises(LocalError, match="broken does not start: no such luck"):
        await supervisor.start(part(state, "broken", "import sys; sys.exit('no such luck')"))
    await supervisor.stop()


async def test_leftovers_are_stopped_but_never_a_stranger_with_the_same_pid(state: State) -> None:
    def start() -> subprocess.Popen[bytes]:
        return subprocess.Popen([sys.executable, "-c", SLEEPER], stdout=subprocess.DEVNULL, start_new_session=True)

    ours, stranger = start(), start()
    try:
        state.write_stack(
            {
                "pids": {"ours": ours.pid, "stranger": stranger.pid},
                "started": {"ours": identity(ours.pid), "stranger": "another boot:1"},
            }
        )
        assert await stop_leftovers(state) == ["ours"]
        assert ours.wait(timeout=10) == -signal.SIGTERM
        assert stranger.poll() is None
    finally:
        stranger.kill()
        stranger.wait()
