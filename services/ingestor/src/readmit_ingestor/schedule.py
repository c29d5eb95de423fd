"""A source that is asked for every so many hours, by the same path as any other request.

Slots are counted from a fixed moment, and a slot's request has an id of its own: so several replicas, and a process
that starts again, ask once per slot. A slot that was missed while nothing ran is asked for at the start.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from uuid import UUID, uuid5

import structlog
from apscheduler.schedulers.asyncio import AsyncIOScheduler
from apscheduler.triggers.interval import IntervalTrigger

from readmit_chassis.envelope import Envelope, new_envelope
from readmit_chassis.failures import Transient
from readmit_contracts.events import IngestionRequested

log = structlog.get_logger()

Ask = Callable[[IngestionRequested, Envelope], Awaitable[None]]

_FIRST_SLOT = datetime(2026, 1, 1, tzinfo=UTC)
_NAMESPACE = UUID("6c1d5f0e-3f0b-4e43-9d42-5b6a0f6f1d2c")
_PAUSE_S = 5.0


class Schedule:
    """Asks for `source` at the start, unless the slot has been asked for, and at the beginning of each slot."""

    def __init__(
        self, ask: Ask, source: str, every: timedelta, now: Callable[[], datetime] = lambda: datetime.now(UTC)
    ) -> None:
        self._ask = ask
        self._source = source
        self._every = every
        self._now = now

    async def run(self) -> None:
        """Ask until cancelled; an outage of the database is waited out."""
        scheduler = AsyncIOScheduler(timezone=UTC)
        scheduler.add_job(
            self.ask_for_this_slot,
            IntervalTrigger(seconds=self._every.total_seconds(), start_date=_FIRST_SLOT, timezone=UTC),
            coalesce=True, max_instances=1, misfire_grace_time=None,
        )  # fmt: skip
        await self.ask_for_this_slot()
        scheduler.start()
        try:
            await asyncio.Event().wait()
        finally:
            scheduler.shutdown(wait=False)

    async def ask_for_this_slot(self) -> None:
        """Ask, again and again while the database is away."""
        event = self.request()
        while True:
            try:
                await self._ask(event, new_envelope(event.EVENT_TYPE, source="ingestor", subject=str(event.request_id)))
            except Transient as error:
                log.warning("schedule_waits", error=str(error), retry_in_s=_PAUSE_S)
                await asyncio.sleep(_PAUSE_S)
            else:
                log.info("ingestion_scheduled", request_id=str(event.request_id))
                return

    def request(self) -> IngestionRequested:
        """The request of the slot that it is now."""
        now = self._now()
        slot = (now - _FIRST_SLOT) // self._every
        return IngestionRequested(
            request_id=uuid5(_NAMESPACE, f"{self._source} {self._every.total_seconds()} {slot}"), source=self._source,
            requested_by="schedule", requested_at=now,
        )  # fmt: skip
