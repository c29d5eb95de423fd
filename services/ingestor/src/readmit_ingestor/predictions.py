"""Predictions made in service (`raw_data.predictions`): the way back in, one row each, once."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Literal

import psycopg
from psycopg import sql

from readmit_chassis.failures import BadMessage, Transient
from readmit_contracts.encounter import NOT_READMITTABLE, Group, Kind
from readmit_contracts.events import PredictionMade
from readmit_features.cleaning import READERS
from readmit_ingestor.store import Pool

SetAside = Literal["no_patient", "incomplete", "not_clean", "not_readmittable"]

#: Why a prediction whose outcome is known becomes no row of a dataset. The first four are known when it comes in
#: (`set_aside`), the others when a batch is made.
WHY_SET_ASIDE: Mapping[str, str] = MappingProxyType(
    {
        "no_patient": "no patient's number came with the encounter, or the pods have no key to make a pseudonym of it:"
        " nobody can say which split the row belongs to",
        "incomplete": "a number that every row of a dataset has is absent",
        "not_clean": "a value is not one that cleaning makes",
        "not_readmittable": "the patient died or went to a hospice: nobody can be readmitted from there",
        "other_kind": "the model was trained on generated data and the newest dataset is real, or the other way round",
        "two_splits": "the patient's key stands in two splits; a patient belongs to one, for ever",
    }
)

_FEATURES = tuple(
    reader
    for reader in READERS
    if reader.column.kind is not Kind.IDENTIFIER and reader.column.group is not Group.OUTCOME
)
_COLUMNS = sql.SQL(
    "prediction_id, at, pod_id, model_name, model_version, sha256, epoch, synthetic, risk, threshold, readmitted,"
    " latency_ms, patient_key, split, set_aside, features"
)
#: A session keeps the table; its rows go with each transaction.
_MAKE = sql.SQL(
    "CREATE TEMP TABLE IF NOT EXISTS arrived ON COMMIT DELETE ROWS AS SELECT {} FROM raw_data.predictions WITH NO DATA"
).format(_COLUMNS)
_COPY = sql.SQL("COPY arrived ({}) FROM STDIN").format(_COLUMNS)
_INSERT = sql.SQL(
    "INSERT INTO raw_data.predictions ({0}) SELECT {0} FROM arrived ON CONFLICT (prediction_id) DO NOTHING"
).format(_COLUMNS)


async def keep_all(pool: Pool, events: Sequence[PredictionMade]) -> int:
    """Keep predictions, all in one statement; returns how many were not there yet.

    By COPY: 16,000 rows/s and more into the database alone, eight times as many as an insert each.
    Raises `Transient` while the database is away, and `BadMessage`, with none kept, where one of them fits no column.
    """
    # In one order everywhere: two consumers that are given the same events then never wait for each other.
    rows = [_row(event) for event in sorted(events, key=lambda event: (event.at, event.prediction_id))]
    if not rows:
        return 0
    try:
        async with pool.connection() as connection, connection.cursor() as cursor:
            await cursor.execute(_MAKE)
            async with cursor.copy(_COPY) as copy:
                for row in rows:
                    await copy.write_row(row)
            return (await cursor.execute(_INSERT)).rowcount
    except psycopg.OperationalError as error:
        raise Transient(f"database away: {error}") from error
    except psycopg.DataError as error:  # its text may hold values
        raise BadMessage(f"a prediction cannot be stored: {type(error).__name__}") from error


def set_aside(event: PredictionMade) -> SetAside | None:
    """Why a prediction can never become a row of a dataset, whatever its outcome; None where it can.

    Its values have to be what cleaning makes of an encounter, to the letter: nothing else may get into `clean_data`.
    """
    if event.split is None or not event.patient_key:
        return "no_patient"
    for reader in _FEATURES:
        value = event.features.get(reader.key)
        if value is None:
            if not reader.column.may_be_missing:
                return "incomplete"
        elif type(value) is not (int if reader.column.is_number else str) or reader.read(value).value != value:
            return "not_clean"
    return "not_readmittable" if event.features["discharge_disposition_id"] in NOT_READMITTABLE else None


def _row(event: PredictionMade) -> tuple[object, ...]:
    """In the order of `_COLUMNS`."""
    return (
        event.prediction_id, event.at, event.pod_id, event.model.name, event.model.version, event.sha256, event.epoch,
        event.synthetic, event.risk, event.threshold, event.readmitted_within_30_days, event.latency_ms,
        event.patient_key, event.split, set_aside(event), json.dumps(event.features),
    )  # fmt: skip
