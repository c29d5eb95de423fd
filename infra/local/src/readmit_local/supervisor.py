"""Keeps parts running, and stops all of them: none outlives the supervisor unnoticed."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import Callable
from contextlib import suppress

from readmit_local.errors import LocalError
from readmit_local.part import Part
from readmit_local.process_identity import identity, is_ours
from readmit_local.state import State

GRACE_S = 15.0
_LONGEST_PAUSE_S = 10.0
_STEADY_S = 60.0
_DEATHS_BEFORE_READY = 3


class Supervisor:
    """Runs parts as sessions of their own, so that Ctrl-C reaches only us; output goes to the state's logs."""

    def __init__(self, state: State, say: Callable[[str], None]) -> None:
        self._state = state
        self._say = say
        self._keepers: dict[str, asyncio.Task[None]] = {}
        self._processes: dict[str, asyncio.subprocess.Process] = {}
        self._parts: dict[str, Part] = {}
        self._deaths: dict[str, int] = {}
        self._stopping = False

    async def start(self, part: Part, timeout_s: float = 90.0) -> None:
        """Start a part and wait until it is ready. Raises `LocalError` when it keeps dying or takes too long."""
        began = time.monotonic()
        self._parts[part.name] = part
        self._deaths[part.name] = 0
        self._keepers[part.name] = asyncio.create_task(self._keep(part))
        while not await part.ready():
            if self._deaths[part.name] >= _DEATHS_BEFORE_READY or self._keepers[part.name].done():
                raise LocalError(f"{part.name} does not start: {self._state.last_line(part.name)}")
            if time.monotonic() - began > timeout_s:
                log_file = self._state.log_file(part.name)
                raise LocalError(f"{part.name} was not ready within {timeout_s:.0f} s; its log is {log_file}")
            await asyncio.sleep(0.05)
        self._say(f"{part.name} is up ({time.monotonic() - began:.1f} s)")

    async def stop(self) -> None:
        """Stop all in the reverse order of their start, each politely first."""
        self._stopping = True
        for name in reversed(list(self._keepers)):
            keeper, process = self._keepers[name], self._processes.get(name)
            if process is None:
                keeper.cancel()
            else:
                with suppress(ProcessLookupError):
                    process.send_signal(self._parts[name].stop_signal)
            done, _ = await asyncio.wait([keeper], timeout=GRACE_S)
            if not done and process is not None:
                self._say(f"{name} did not stop within {GRACE_S:.0f} s: killed")
                _kill_session(process.pid)
                await asyncio.wait([keeper])

    async def _keep(self, part: Part) -> None:
        pause_s = 1.0
        while not self._stopping:
            began = time.monotonic()
            process = await self._spawn(part)
            code = await process.wait()
            _kill_session(process.pid)  # what it left behind would work on, unsupervised
            del self._processes[part.name]
            self._record()
            if self._stopping:
                return
            self._deaths[part.name] += 1
            if time.monotonic() - began > _STEADY_S:
                pause_s = 1.0
            self._say(f"{part.name} stopped ({_describe(code)}); starting it again in {pause_s:.0f} s")
            await asyncio.sleep(pause_s)
            pause_s = min(2 * pause_s, _LONGEST_PAUSE_S)

    async def _spawn(self, part: Part) -> asyncio.subprocess.Process:
        with self._state.log_file(part.name).open("ab") as output:
            process = await asyncio.create_subprocess_exec(
                *part.argv, env=dict(part.env), cwd=part.cwd, stdin=asyncio.subprocess.DEVNULL, stdout=output,
                stderr=output, start_new_session=True,
            )  # fmt: skip
        self._processes[part.name] = process
        self._record()
        return process

    def _record(self) -> None:
        pids = {name: process.pid for name, process in self._processes.items()}
        started = {name: identity(pid) for name, pid in pids.items()}
        self._state.write_stack(self._state.stack() | {"pids": pids, "started": started})


async def stop_leftovers(state: State) -> list[str]:
    """Stop what a killed `readmit up` left running; only processes that are provably the recorded ones."""
    stack = state.stack()
    stopped = []
    for name, pid in reversed(list(stack.get("pids", {}).items())):
        recorded = stack.get("started", {}).get(name)
        if recorded is None or not is_ours(pid, recorded):
            continue
        stopped.append(name)
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGTERM)
        deadline = time.monotonic() + GRACE_S
        while is_ours(pid, recorded) and time.monotonic() < deadline:  # noqa: ASYNC110  a stranger sends no event
            await asyncio.sleep(0.05)
        _kill_session(pid)
    if stack:
        state.write_stack(stack | {"pids": {}, "started": {}})
    return stopped


def _kill_session(pid: int) -> None:
    """End a part's whole process group; it leads one of its own, so the group's id is its pid."""
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(pid, signal.SIGKILL)


def _describe(code: int) -> str:
    return f"exit code {code}" if code >= 0 else signal.Signals(-code).name
