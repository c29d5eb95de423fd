"""Says again and again what the pod serves, so that others know that it lives and what it lives with."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from datetime import UTC, datetime

from readmit_contracts.events import ModelLoaded

#: The last words of champion and challenger; None while there is nothing to say of one.
LastWords = Callable[[], Iterable[ModelLoaded | None]]


async def keep_beating(said: LastWords, announce: Callable[[ModelLoaded], None], interval_s: float) -> None:
    """Repeat the last words every `interval_s`; a pod without any says nothing. Runs until cancelled."""
    while True:
        await asyncio.sleep(interval_s)
        for loaded in said():
            if loaded is not None:
                announce(loaded.model_copy(update={"occasion": "heartbeat", "at": datetime.now(UTC)}))


def say_farewell(said: LastWords, announce: Callable[[ModelLoaded], None]) -> None:
    """Once, that the pod leaves; nothing where it was never heard of."""
    loaded = next((loaded for loaded in said() if loaded is not None), None)
    if loaded is not None:
        announce(loaded.model_copy(update={"occasion": "leaving", "at": datetime.now(UTC)}))
