"""A schedule asks once per slot, whoever runs it and however often it starts."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from readmit_chassis.envelope import Envelope
from readmit_chassis.failures import Transient
from readmit_contracts.events import IngestionRequested
from readmit_ingestor import schedule
from readmit_ingestor.schedule import Schedule

NOW = datetime(2026, 11, 25, 9, 0, tzinfo=UTC)


class Asked:
    """What was asked for; `away` times the database is not there."""

    def __init__(self, away: int = 0) -> None:
        self.events: list[IngestionRequested] = []
        self.away = away

    async def __call__(self, event: IngestionRequested, envelope: Envelope) -> None:
        assert envelope.subject == str(event.request_id)
        if self.away:
            self.away -= 1
            raise Transient("away")
        self.events.append(event)

    @property
    def ids(self) -> set[UUID]:
        return {event.request_id for event in self.events}


@given(st.integers(0, 10**8), st.floats(0.1, 100))
def test_one_slot_is_one_request_and_the_next_another(seconds: int, hours: float) -> None:
    now, every = NOW + timedelta(seconds=seconds), timedelta(hours=hours)

    def request_at(at: datetime) -> UUID:
        return Schedule(Asked(), "uci", every, lambda: at).request().request_id

    assert request_at(now) == request_at(now)
    assert request_at(now) != request_at(now + every * 1.01)
    assert request_at(now) != Schedule(Asked(), "other", every, lambda: now).request().request_id


async def test_it_asks_at_the_start_and_two_replicas_ask_for_the_same() -> None:
    asked = Asked()
    runs = [asyncio.create_task(Schedule(asked, "uci", timedelta(hours=25), lambda: NOW).run()) for _ in range(2)]
    async with asyncio.timeout(10):
        while len(asked.events) < 2:  # noqa: ASYNC110  what is awaited is in the tasks
            await asyncio.sleep(0.01)
    for run in runs:
        run.cancel()
    await asyncio.gather(*runs, return_exceptions=True)
    assert len(asked.ids) == 1
    assert {(event.source, event.requested_by) for event in asked.events} == {("uci", "schedule")}


async def test_each_slot_is_asked_for_when_it_begins() -> None:
    asked = Asked()
    run = asyncio.create_task(Schedule(asked, "uci", timedelta(seconds=0.1)).run())
    async with asyncio.timeout(20):
        while len(asked.ids) < 4:  # noqa: ASYNC110
            await asyncio.sleep(0.01)
    run.cancel()
    await asyncio.gather(run, return_exceptions=True)


async def test_a_database_that_is_away_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(schedule, "_PAUSE_S", 0.0)
    asked = Asked(away=3)
    await Schedule(asked, "uci", timedelta(hours=1)).ask_for_this_slot()
    assert len(asked.events) == 1
