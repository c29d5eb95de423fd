"""What the ingestor does on each event."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence

from readmit_chassis.envelope import Envelope
from readmit_contracts.events import IngestionRequested, PredictionsMade
from readmit_ingestor import predictions, store
from readmit_ingestor.metrics import PREDICTIONS_STORED


def on_ingestion_requested(pool: store.Pool) -> Callable[[IngestionRequested, Envelope], Awaitable[None]]:
    """Note the request; a runner takes it up."""

    async def handle(event: IngestionRequested, envelope: Envelope) -> None:
        await store.request(pool, event, envelope)

    return handle


def on_predictions_made(
    pool: store.Pool,
) -> Callable[[Sequence[tuple[PredictionsMade, Envelope]]], Awaitable[None]]:
    """Keep the predictions."""

    async def handle(events: Sequence[tuple[PredictionsMade, Envelope]]) -> None:
        made = [prediction for event, _ in events for prediction in event.predictions()]
        PREDICTIONS_STORED.inc(await predictions.keep_all(pool, made))

    return handle
