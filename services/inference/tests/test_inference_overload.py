"""A pod that is overrun turns requests away at once, and takes them again when it has caught up."""

from __future__ import annotations

import asyncio
import time

import pytest
from prometheus_client import REGISTRY

from readmit_chassis.s3 import MemoryStore
from readmit_contracts.encounter import example_encounter
from readmit_contracts.prediction import Problem
from readmit_inference.errors import Overloaded
from readmit_inference.overload import Overload
from readmit_inference.settings import Settings
from readmit_inference.testing import promote, running, tiny_bundle


def works(seconds: float) -> None:
    """What a thousand requests at once are to a loop."""
    end = time.thread_time() + seconds
    while time.thread_time() < end:
        pass


async def test_a_loop_that_works_without_a_pause_turns_away_until_it_has_caught_up() -> None:
    overload = Overload(limit_s=0.1)
    overload.check()
    watching = asyncio.create_task(overload.watch())
    await asyncio.sleep(0.05)
    overload.check()
    works(0.2)
    with pytest.raises(Overloaded):
        overload.check()
    await asyncio.sleep(0.05)
    overload.check()
    watching.cancel()


async def test_a_process_that_had_to_wait_for_the_machine_turns_nobody_away() -> None:
    overload = Overload(limit_s=0.1)
    watching = asyncio.create_task(overload.watch())
    await asyncio.sleep(0.05)
    time.sleep(0.3)  # noqa: ASYNC251  as if the machine had given its time to others
    overload.check()
    watching.cancel()


async def test_what_would_wait_too_long_is_turned_away_and_counted(settings: Settings, store: MemoryStore) -> None:
    def counted() -> float:
        return REGISTRY.get_sample_value("prediction_requests_total", {"outcome": "overloaded"}) or 0.0

    before = counted()
    never_in_time = settings.model_copy(update={"shed_after_s": -1.0})
    async with running(never_in_time, store) as service:
        await service.settle(promote(store, tiny_bundle(1), epoch=1))
        response = await service.predict(example_encounter())
        problem = Problem.model_validate_json(response.content)
        assert (response.status_code, problem.type) == (503, "urn:readmit:problem:overloaded")
        assert int(response.headers["retry-after"]) > 0
        assert (await service.client.get("/readyz")).status_code == 200  # else every pod would be taken out at once
    assert counted() == before + 1


async def test_one_client_that_never_pauses_is_no_flood(settings: Settings, store: MemoryStore) -> None:
    impatient = settings.model_copy(update={"shed_after_s": 0.2})
    async with running(impatient, store) as service:
        await service.settle(promote(store, tiny_bundle(1), epoch=1))
        end_s = time.thread_time() + 0.5
        while time.thread_time() < end_s:
            assert (await service.predict(example_encounter())).status_code == 200
