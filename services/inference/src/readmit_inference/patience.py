"""Pauses between attempts that may go on for ever."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

from readmit_chassis.kafka import backoff

_CEILING_S = 10.0


def patience() -> Iterator[float]:
    """Seconds: growing and jittered as in the chassis, then around the ceiling without end."""
    yield from backoff(6, ceiling_s=_CEILING_S)
    while True:
        yield from backoff(1, first_s=_CEILING_S, ceiling_s=_CEILING_S)


async def pause(pause_s: float, news: asyncio.Event) -> None:
    """Wait, but not longer than until there is news, which are taken note of."""
    try:
        await asyncio.wait_for(news.wait(), pause_s)
    except TimeoutError:
        return
    news.clear()
