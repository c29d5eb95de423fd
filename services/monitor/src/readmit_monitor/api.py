"""The REST face: how far served patients are from the training data, what was answered, and what became of it."""

from __future__ import annotations

from datetime import UTC, datetime

from fastapi import APIRouter
from pydantic import BaseModel

from readmit_monitor import answers, performance, store
from readmit_monitor.domain import Evaluation, Policy, State


class Summary(BaseModel):
    """The newest predictions by model, newest epoch first."""

    rows: int
    models: list[store.ServedModel]


def drift_router(pool: store.Pool, policy: Policy) -> APIRouter:
    """`/drift`, `/predictions/summary`."""
    router = APIRouter(tags=["drift"])

    @router.get("/drift")
    async def drift() -> Evaluation:
        """The last evaluation, some seconds old at most while predictions come in."""
        async with store.transaction(pool) as connection:
            evaluation, _ = await store.last_evaluation(connection)
        return evaluation or Evaluation(
            state=State.NO_PREDICTIONS, evaluated_at=datetime.now(UTC), min_rows=policy.min_rows
        )

    @router.get("/predictions/summary")
    async def summary() -> Summary:
        """Over as many predictions as a window holds."""
        async with store.transaction(pool) as connection:
            models = await store.summary(connection, policy.window_rows)
        return Summary(rows=sum(served.rows for served in models), models=models)

    return router


def performance_router(pool: store.Pool, policy: performance.LivePolicy) -> APIRouter:
    """`/performance`."""
    router = APIRouter(tags=["performance"])

    @router.get("/performance")
    async def last() -> performance.Performance:
        """The last judgement on the champion by known outcomes, some seconds old at most."""
        async with store.transaction(pool) as connection:
            found, _ = await answers.last_performance(connection)
        return found or performance.assess(None, [], before=frozenset(), policy=policy, now=datetime.now(UTC))

    return router
