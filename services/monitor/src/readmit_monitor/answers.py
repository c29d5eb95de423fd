"""Predictions with their outcomes, champions, and the last judgement on them, in PostgreSQL (schema `monitoring`)."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from psycopg.types.json import Jsonb

from readmit_contracts.events import ModelPromoted, ModelVersion, OutcomeRecorded, PredictionMade
from readmit_monitor.performance import Answer, Champion, Performance
from readmit_monitor.store import ChampionsAnswer, Connection

#: Of rows that are too old, as many go with each judgement: it never waits for a mountain of them.
_PRUNED_AT_ONCE = 5_000

# A pod's clock that runs ahead must not keep its predictions for ever.
_PUT_PREDICTION = """
INSERT INTO monitoring.answers AS known (prediction_id, since, at, epoch, risk, patient_key)
VALUES (
    %(prediction_id)s, least(%(at)s, clock_timestamp()), least(%(at)s, clock_timestamp()), %(epoch)s, %(risk)s,
    %(patient_key)s
)
ON CONFLICT (prediction_id) DO UPDATE SET
    since = excluded.since, at = excluded.at, epoch = excluded.epoch, risk = excluded.risk,
    patient_key = excluded.patient_key
WHERE known.risk IS NULL
"""
# What was recorded last counts, in whichever order it is heard, and however often.
_PUT_OUTCOME = """
INSERT INTO monitoring.answers AS known (prediction_id, since, readmitted, intervened, recorded_at)
VALUES (
    %(prediction_id)s, least(%(recorded_at)s, clock_timestamp()), %(readmitted_within_30_days)s, %(intervened)s,
    %(recorded_at)s
)
ON CONFLICT (prediction_id) DO UPDATE SET
    readmitted = excluded.readmitted, intervened = excluded.intervened, recorded_at = excluded.recorded_at
WHERE known.recorded_at IS NULL OR excluded.recorded_at > known.recorded_at
"""
# Told again, an epoch may say what it did not say before.
_PUT_CHAMPION = """
INSERT INTO monitoring.champions AS known (epoch, model_name, model_version, model_family, synthetic, validation_auroc)
VALUES (%s, %s, %s, %s, %s, %s)
ON CONFLICT (epoch) DO UPDATE SET validation_auroc = excluded.validation_auroc WHERE known.validation_auroc IS NULL
"""
_WINDOW = """
SELECT at, coalesce(patient_key, prediction_id::text) AS patient, risk, readmitted,
    coalesce(intervened, false) AS intervened
FROM monitoring.answers
WHERE epoch = %s AND risk IS NOT NULL AND readmitted IS NOT NULL AND at <= %s
ORDER BY at DESC LIMIT %s
"""
_PUT_PERFORMANCE = """
INSERT INTO monitoring.performance (figures, degraded) VALUES (%s, %s)
ON CONFLICT (only_one) DO UPDATE SET figures = excluded.figures, degraded = excluded.degraded
"""
_PRUNE = """
DELETE FROM monitoring.answers WHERE prediction_id IN (
    SELECT prediction_id FROM monitoring.answers WHERE since < %s ORDER BY since LIMIT %s FOR UPDATE SKIP LOCKED
)
"""


async def put_predictions(connection: Connection, answered: Sequence[tuple[PredictionMade, ChampionsAnswer]]) -> None:
    """Keep what the champion said of encounters until their outcome is known, and as long as they count."""
    fields = {"prediction_id", "at", "epoch", "patient_key"}
    rows = [event.model_dump(include=fields) | {"risk": said.risk} for event, said in answered]
    async with connection.cursor() as cursor:
        await cursor.executemany(_PUT_PREDICTION, rows)


async def put_outcomes(connection: Connection, events: Sequence[OutcomeRecorded]) -> int:
    """Keep outcomes; how many of them were news."""
    fields = {"prediction_id", "readmitted_within_30_days", "intervened", "recorded_at"}
    # In one order everywhere: two transactions with the same rows then never wait for each other.
    ordered = sorted(events, key=lambda event: event.prediction_id)
    async with connection.cursor() as cursor:
        await cursor.executemany(_PUT_OUTCOME, [event.model_dump(include=fields) for event in ordered])
        return cursor.rowcount


async def put_champion(connection: Connection, event: ModelPromoted) -> None:
    """Remember who is champion in an epoch."""
    model = event.model
    row = (event.epoch, model.name, model.version, model.family, event.synthetic, event.validation_auroc)
    await connection.execute(_PUT_CHAMPION, row)


async def champion(connection: Connection) -> Champion | None:
    """The champion of the newest epoch."""
    row = await (await connection.execute("SELECT * FROM monitoring.champions ORDER BY epoch DESC LIMIT 1")).fetchone()
    if row is None:
        return None
    model = ModelVersion(name=row["model_name"], version=row["model_version"], family=row["model_family"])
    return Champion(
        epoch=row["epoch"], model=model, synthetic=row["synthetic"], validation_auroc=row["validation_auroc"]
    )


async def window(connection: Connection, epoch: int, rows: int, *, until: datetime) -> list[Answer]:
    """The newest predictions of an epoch up to a time whose outcome is known, newest first."""
    return [Answer(**row) async for row in await connection.execute(_WINDOW, (epoch, until, rows))]


async def last_performance(connection: Connection) -> tuple[Performance | None, frozenset[str]]:
    """The last judgement, and what is degraded by then."""
    row = await (await connection.execute("SELECT figures, degraded FROM monitoring.performance")).fetchone()
    return (Performance.model_validate(row["figures"]), frozenset(row["degraded"])) if row else (None, frozenset())


async def put_performance(connection: Connection, performance: Performance, degraded: frozenset[str]) -> None:
    """Replace the last judgement."""
    await connection.execute(_PUT_PERFORMANCE, (Jsonb(performance.model_dump(mode="json")), sorted(degraded)))


async def prune(connection: Connection, before: datetime) -> None:
    """Forget what is older; some of it, where it is much."""
    await connection.execute(_PRUNE, (before, _PRUNED_AT_ONCE))
