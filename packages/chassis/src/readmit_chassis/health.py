"""Health and metrics endpoints. Liveness says that the loop turns; readiness that the process can do its job."""

from __future__ import annotations

from fastapi import APIRouter, Response
from fastapi.responses import JSONResponse, PlainTextResponse
from prometheus_client import CONTENT_TYPE_LATEST, REGISTRY, CollectorRegistry, generate_latest

from readmit_chassis.metrics import READINESS


class Health:
    """Named conditions that must all hold before the process is ready."""

    def __init__(self, *conditions: str) -> None:
        self._conditions: dict[str, bool] = {}
        for condition in conditions:
            self.set(condition, False)

    def set(self, condition: str, holds: bool) -> None:
        """Say whether a condition holds now."""
        self._conditions[condition] = holds
        READINESS.labels(condition).set(holds)

    @property
    def waiting_for(self) -> list[str]:
        """The conditions that do not hold; empty means ready."""
        return [name for name, holds in self._conditions.items() if not holds]


def health_router(health: Health, registry: CollectorRegistry = REGISTRY) -> APIRouter:
    """`/livez`, `/readyz` and `/metrics` (Prometheus text format)."""
    router = APIRouter(tags=["operations"])

    @router.get("/livez", summary="Liveness")
    async def livez() -> dict[str, str]:
        return {"status": "ok"}

    @router.get(
        "/readyz",
        summary="Readiness",
        responses={503: {"description": "Not ready; `waiting_for` says what is missing"}},
    )
    async def readyz() -> JSONResponse:
        waiting = health.waiting_for
        return JSONResponse(
            {"status": "waiting" if waiting else "ok", "waiting_for": waiting},
            status_code=503 if waiting else 200,
        )

    @router.get("/metrics", summary="Metrics, for Prometheus", response_class=PlainTextResponse)
    async def metrics() -> Response:
        return Response(generate_latest(registry), media_type=CONTENT_TYPE_LATEST)

    return router
