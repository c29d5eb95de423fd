"""What runs on a state, and stopping it from another terminal."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections import Counter
from typing import Any

from readmit_local.client import Services
from readmit_local.errors import LocalError
from readmit_local.part import listens
from readmit_local.process_identity import is_ours
from readmit_local.state import State
from readmit_local.supervisor import stop_leftovers

_STOP_WITHIN_S = 180.0
_PORT_OF = {"s3-gate": "kafka_internal"}


async def stack_status(state: State) -> dict[str, Any]:
    """Parts with address, pid and state; datasets, fits by status, champion. JSON-ready."""
    stack = state.stack()
    if not state.is_running():
        left = sorted(name for name, pid in stack.get("pids", {}).items() if is_ours(pid, stack["started"][name]))
        return {"running": False, "state_dir": str(state.root), "left_over": left}
    services = Services(stack["urls"])
    try:
        datasets = [dataset.model_dump() for dataset in await services.datasets()]
        jobs = (await services.jobs(datasets[-1]["version"]) if datasets else None) or []
        champion = await services.champion()
    finally:
        await services.close()
    parts = {}
    for name, pid in stack["pids"].items():
        port = stack["ports"][_PORT_OF.get(name, name)]
        alive = is_ours(pid, stack["started"][name])
        answering = alive and await listens(port)()
        state_word = "up" if answering else "starting" if alive else "down"
        parts[name] = {"address": f"127.0.0.1:{port}", "pid": pid, "state": state_word}
    return {
        "running": True,
        "state_dir": str(state.root),
        "urls": stack["urls"],
        "parts": parts,
        "datasets": datasets,
        "jobs": dict(Counter(job.status for job in jobs)),
        "champion": champion,
    }


async def stop_running(state: State) -> list[str]:
    """Stop the `readmit up` of a state and wait for its end; then whatever a killed one left. Lines to print."""
    if state.is_running():
        pid = state.stack()["up"]["pid"]
        os.kill(pid, signal.SIGTERM)
        deadline = time.monotonic() + _STOP_WITHIN_S
        while state.is_running():
            if time.monotonic() > deadline:
                raise LocalError(f"`readmit up` (pid {pid}) did not stop within {_STOP_WITHIN_S:.0f} s; kill it")
            await asyncio.sleep(0.1)
        return ["stopped; the state is kept"]
    if not state.root.is_dir():
        return [f"nothing runs on {state.root}"]
    with state.locked():
        left = await stop_leftovers(state)
    return [f"{name} was left over: stopped" for name in left] or [f"nothing runs on {state.root}"]
