"""A part: one process of the stack, how it is started, what it is told, when it is ready."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import httpx

from readmit_local.ports import HOST

#: What a process needs from its surroundings to run at all; never a credential.
_SURROUNDINGS = ("PATH", "HOME", "LANG", "LC_ALL", "TZ", "TMPDIR", "XDG_CACHE_HOME", "LD_LIBRARY_PATH")


@dataclass(frozen=True, slots=True)
class Part:
    """`env` is the whole environment. `ready` is asked until it says yes."""

    name: str
    argv: tuple[str, ...]
    env: Mapping[str, str]
    ready: Callable[[], Awaitable[bool]]
    stop_signal: signal.Signals = signal.SIGTERM
    cwd: Path | None = None


def child_env(own: Mapping[str, str], prefix: str | None = None, also: tuple[str, ...] = ()) -> dict[str, str]:
    """A child's environment: the surroundings, the caller's settings with this prefix, and what we give it."""
    inherited = {
        name: value
        for name, value in os.environ.items()
        if name in _SURROUNDINGS or name in also or (prefix is not None and name.startswith(prefix))
    }
    return {**inherited, "PYTHONUNBUFFERED": "1", **own}


def answers(url: str) -> Callable[[], Awaitable[bool]]:
    """Ready when a GET of the URL answers 200."""

    async def ask() -> bool:
        try:
            # Never through a proxy: everything is on this machine.
            async with httpx.AsyncClient(trust_env=False, timeout=5) as client:
                return (await client.get(url)).status_code == httpx.codes.OK
        except httpx.HTTPError:
            return False

    return ask


def listens(port: int) -> Callable[[], Awaitable[bool]]:
    """Ready when the port takes connections."""

    async def ask() -> bool:
        try:
            _, writer = await asyncio.open_connection(HOST, port)
        except OSError:
            return False
        writer.close()
        return True

    return ask
