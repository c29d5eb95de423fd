"""Background work that fails stops the process; work that is cancelled does not."""

from __future__ import annotations

import asyncio

import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient

from readmit_chassis.failures import Transient
from readmit_chassis.health import Health, health_router
from readmit_chassis.outages import answer_outages
from readmit_chassis.process import Process, end_if_cancelled
from readmit_chassis.s3 import StoreUnavailable


async def test_a_background_failure_is_kept_and_announced_once() -> None:
    process = Process()
    woken = asyncio.Event()
    process.on_fail(woken.set)

    async def broken() -> None:
        raise RuntimeError("first")

    async with process.background(broken()):
        await asyncio.wait_for(woken.wait(), 5)
    process.fail(RuntimeError("second"))
    assert str(process.failure) == "first"


async def test_background_work_ends_with_its_block_without_failing_the_process() -> None:
    process = Process()
    async with process.background(asyncio.Event().wait()):  # type: ignore[arg-type]  its result does not matter
        pass
    assert process.failure is None


async def test_a_cancellation_that_got_lost_ends_a_loop_in_its_next_round() -> None:
    news = asyncio.Event()
    rounds = 0

    async def loop() -> None:
        nonlocal rounds
        while True:
            # It comes just when what is waited for is there: until Python 3.12, `wait_for` then returns.
            await asyncio.wait_for(news.wait(), 60)
            rounds += 1
            end_if_cancelled()
            await asyncio.sleep(0)

    task = asyncio.create_task(loop())
    await asyncio.sleep(0.01)
    news.set()
    await asyncio.sleep(0)
    task.cancel()
    done, _ = await asyncio.wait({task}, timeout=5)
    assert task in done
    assert task.cancelled()
    assert rounds <= 1


def test_readiness_names_what_it_waits_for_and_liveness_does_not_care() -> None:
    health = Health("kafka", "model")
    app = FastAPI()
    app.include_router(health_router(health))
    with TestClient(app) as client:
        assert client.get("/livez").status_code == 200
        health.set("kafka", True)
        waiting = client.get("/readyz")
        assert (waiting.status_code, waiting.json()["waiting_for"]) == (503, ["model"])
        health.set("model", True)
        assert client.get("/readyz").status_code == 200
        assert 'readiness{condition="model"} 1.0' in client.get("/metrics").text
        assert client.get("/metrics").headers["content-type"].startswith("text/plain; version=")


def test_an_outage_behind_a_route_is_503_with_a_hint_and_a_bug_is_not_hidden_by_it() -> None:
    app = FastAPI()
    answer_outages(app, Transient, detail="The table is away.")

    @app.get("/away")
    async def away() -> None:
        raise StoreUnavailable("s3://b/k")

    @app.get("/bug")
    async def bug() -> None:
        raise TypeError("a bug")

    with TestClient(app, raise_server_exceptions=False) as client:
        answer = client.get("/away")
        assert (answer.status_code, answer.json()["detail"]) == (503, "The table is away.")
        assert answer.headers["retry-after"].isdecimal()
        assert answer.headers["content-type"] == "application/problem+json"
        assert client.get("/bug").status_code == 500


@pytest.fixture(autouse=True)
def _quiet_logs(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("CRITICAL")
