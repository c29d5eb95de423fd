"""Predictions made in service (`raw_data.predictions`): the way back in, one row each, once."""

from __future__ import annotations

from typing import Any

import psycopg
from psycopg.types.json import Jsonb

from readmit_chassis.failures import BadMessage, Transient
from readmit_contracts.events import PredictionMade
from readmit_ingestor.store import Pool

_INSERT = """
INSERT INTO raw_data.predictions (
    prediction_id, at, pod_id, model_name, model_version, sha256, epoch, synthetic, risk, threshold, readmitted,
    latency_ms, patient_key, features
) VALUES (
    %(prediction_id)s, %(at)s, %(pod_id)s, %(model_name)s, %(model_version)s, %(sha256)s, %(epoch)s, %(synthetic)s,
    %(risk)s, %(threshold)s, %(readmitted)s, %(latency_ms)s, %(patient_key)s, %(features)s
) ON CONFLICT (prediction_id) DO NOTHING
"""


async def keep(pool: Pool, event: PredictionMade) -> bool:
    """Keep one prediction; False when it was there already.

    Raises `Transient` while the database is away, `BadMessage` for what no column can hold.
    """
    try:
        async with pool.connection() as connection:
            return (await connection.execute(_INSERT, _row(event))).rowcount == 1
    except psycopg.OperationalError as error:
        raise Transient(f"database away: {error}") from error
    except psycopg.DataError as error:  # its text may hold values
        raise BadMessage(f"the prediction cannot be stored: {type(error).__name__}") from error


def _row(event: PredictionMade) -> dict[str, Any]:
    return {
        "prediction_id": event.prediction_id,
        "at": event.at,
        "pod_id": event.pod_id,
        "model_name": event.model.name,
        "model_version": event.model.version,
        "sha256": event.sha256,
        "epoch": event.epoch,
        "synthetic": event.synthetic,
        "risk": event.risk,
        "threshold": event.threshold,
        "readmitted": event.readmitted_within_30_days,
        "latency_ms": event.latency_ms,
        "patient_key": event.patient_key,
        "features": Jsonb(event.features),
    }
