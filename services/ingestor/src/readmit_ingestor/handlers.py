"""What the ingestor does on each event."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from readmit_chassis.envelope import Envelope
from readmit_contracts.events import IngestionRequested, PredictionMade
from readmit_ingestor import predictions, store
from readmit_ingestor.metrics import PREDICTIONS_STORED


def on_ingestion_requested(pool: store.Pool) -> Callable[[IngestionRequested, Envelope], Awaitable[None]]:
    """Note the request; a runner takes it up."""

    async def handle(event: IngestionRequested, envelope: Envelope) -> None:
        await store.request(pool, event, envelope)

    return handle


def on_prediction_made(pool: store.Pool) -> Callable[[PredictionMade, Envelope], Awaitable[None]]:
    """Keep the prediction."""

    async def handle(event: PredictionMade, _: Envelope) -> None:
        if await predictions.keep(pool, event):
            PREDICTIONS_STORED.inc()

    return handle
