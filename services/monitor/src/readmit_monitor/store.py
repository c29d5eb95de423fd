"""References, the window and the last evaluation in PostgreSQL (schema `monitoring`); training rows in `clean_data`."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from datetime import datetime
from typing import Any, NamedTuple

import psycopg
from psycopg import sql
from psycopg.rows import DictRow, dict_row
from psycopg.types.json import Jsonb
from psycopg_pool import AsyncConnectionPool
from pydantic import BaseModel

from readmit_chassis.failures import BadMessage, Transient
from readmit_contracts.encounter import FEATURE_COLUMNS
from readmit_contracts.events import ModelVersion, PredictionMade
from readmit_monitor.binning import ValueCounts, distribution, features_of, numeric
from readmit_monitor.domain import Evaluation, Observed, Reference, RiskReference

SCHEMA = "monitoring"
Connection = psycopg.AsyncConnection[DictRow]
Pool = AsyncConnectionPool[Connection]

# A pod's clock that runs ahead must not keep its predictions in the window for ever.
_INSERT = """
INSERT INTO monitoring.predictions (
    prediction_id, at, model_name, model_version, model_family, epoch, synthetic, risk, readmitted, features
) VALUES (
    %(prediction_id)s, least(%(at)s, clock_timestamp()), %(model_name)s, %(model_version)s, %(model_family)s, %(epoch)s,
    %(synthetic)s, %(risk)s, %(readmitted)s, %(features)s
) ON CONFLICT (prediction_id) DO NOTHING
"""
# A window holds one kind of model: what real patients look like is no matter for a model of generated data.
_WINDOW = """
SELECT * FROM monitoring.predictions
WHERE synthetic = (SELECT synthetic FROM monitoring.predictions ORDER BY epoch DESC, at DESC LIMIT 1)
ORDER BY at DESC, prediction_id LIMIT %s
"""
_PUT_REFERENCE = """
INSERT INTO monitoring.references AS known (dataset_version, synthetic, rows, features)
VALUES (%(dataset_version)s, %(synthetic)s, %(rows)s, %(features)s)
ON CONFLICT (dataset_version) DO UPDATE SET
    synthetic = excluded.synthetic, rows = excluded.rows, features = excluded.features, computed_at = clock_timestamp()
"""
_REFERENCE = """
SELECT dataset_version, synthetic, rows, features FROM monitoring.references
WHERE synthetic = %s ORDER BY dataset_version DESC LIMIT 1
"""
_PUT_EVALUATION = """
INSERT INTO monitoring.evaluation (figures, drifted) VALUES (%s, %s)
ON CONFLICT (only_one) DO UPDATE SET figures = excluded.figures, drifted = excluded.drifted
"""
_PRUNE = """
DELETE FROM monitoring.predictions
WHERE at < (SELECT at FROM monitoring.predictions ORDER BY at DESC OFFSET %s LIMIT 1)
"""
_SUMMARY = """
SELECT model_name, model_version, model_family, epoch, synthetic, count(*) AS rows, min(at) AS first_at,
    max(at) AS last_at, avg(risk) AS risk_mean, avg(readmitted::integer)::float8 AS alert_rate
FROM (SELECT * FROM monitoring.predictions ORDER BY at DESC LIMIT %s) AS newest
GROUP BY model_name, model_version, model_family, epoch, synthetic ORDER BY epoch DESC
"""


class ServedModel(BaseModel):
    """What a model answered lately."""

    model: ModelVersion
    epoch: int
    synthetic: bool
    rows: int
    first_at: datetime
    last_at: datetime
    risk_mean: float
    alert_rate: float


class ChampionsAnswer(NamedTuple):
    """The champion's answer to an encounter, whoever answered the client."""

    model: ModelVersion
    risk: float
    readmitted: bool


def make_pool(conninfo: str) -> Pool:
    """A small pool, still closed."""
    return AsyncConnectionPool(
        conninfo, min_size=1, max_size=4, timeout=10, open=False, kwargs={"row_factory": dict_row}
    )


@asynccontextmanager
async def transaction(pool: Pool) -> AsyncIterator[Connection]:
    """One transaction. Raises `Transient` when the database is away; nothing is committed then."""
    try:
        async with pool.connection() as connection:
            yield connection
    except psycopg.OperationalError as error:
        raise Transient(f"database: {error}") from error


@asynccontextmanager
async def taking(pool: Pool) -> AsyncIterator[Connection]:
    """A transaction for the effect of events. Raises `Transient`, and `BadMessage` for what no column can hold."""
    try:
        async with transaction(pool) as connection:
            yield connection
    except psycopg.DataError as error:  # its text may hold values
        raise BadMessage(f"the event cannot be stored: {type(error).__name__}") from error


async def lock(connection: Connection, name: str) -> None:
    """Wait until no other transaction holds the lock of this name; it is held until the transaction ends."""
    await connection.execute("SELECT pg_advisory_xact_lock(hashtext(%s))", (f"{SCHEMA}.{name}",))


def champions_answer(event: PredictionMade) -> ChampionsAnswer | None:
    """What the champion says of the encounter; None where a challenger answered and the champion was not asked."""
    if event.role == "champion":
        return ChampionsAnswer(event.model, event.risk, event.readmitted_within_30_days)
    other = event.other
    if other is None or other.risk is None or other.readmitted_within_30_days is None:
        return None
    return ChampionsAnswer(other.model, other.risk, other.readmitted_within_30_days)


async def keep(connection: Connection, answered: Sequence[tuple[PredictionMade, ChampionsAnswer]]) -> int:
    """Take what the champion said of encounters into the window; how many of them were not there yet.

    One that is sent again after it was pruned is older than every window, and is pruned again.
    """
    async with connection.cursor() as cursor:
        await cursor.executemany(_INSERT, [_row(event, said) for event, said in answered])
        return cursor.rowcount


def _row(event: PredictionMade, said: ChampionsAnswer) -> dict[str, Any]:
    return {
        "prediction_id": event.prediction_id,
        "at": event.at,
        "model_name": said.model.name,
        "model_version": said.model.version,
        "model_family": said.model.family,
        "epoch": event.epoch,
        "synthetic": event.synthetic,
        "risk": said.risk,
        "readmitted": said.readmitted,
        "features": Jsonb(features_of(event.features)),
    }


async def count_training_rows(connection: Connection, dataset_version: int) -> dict[str, ValueCounts]:
    """How often each value of each feature occurs in the committed training rows of a dataset version."""
    found: dict[str, ValueCounts] = {}
    for column in FEATURE_COLUMNS:
        query = sql.SQL(
            "SELECT {} AS value, count(*) AS rows FROM clean_data.diabetes_train WHERE dataset_version = %s GROUP BY 1"
        ).format(sql.Identifier(column.key))
        cursor = await connection.execute(query, (dataset_version,))
        found[column.key] = {row["value"]: row["rows"] async for row in cursor}
    return found


async def refresh_reference(pool: Pool, dataset_version: int, *, synthetic: bool) -> Reference:
    """Make the reference of a dataset version from what is committed of it. Raises `BadMessage` when nothing is."""
    async with transaction(pool) as connection:
        await lock(connection, "references")
        counts = await count_training_rows(connection, dataset_version)
        features = {column.key: distribution(column, counts[column.key]) for column in FEATURE_COLUMNS}
        rows = max(known.rows for known in features.values())
        if not rows:
            raise BadMessage(f"clean_data.diabetes_train has no rows of dataset version {dataset_version}")
        reference = Reference(dataset_version=dataset_version, synthetic=synthetic, rows=rows, features=features)
        await connection.execute(_PUT_REFERENCE, _dumped(reference, "features"))
    return reference


async def reference(connection: Connection, *, synthetic: bool) -> Reference | None:
    """The newest dataset version of this kind: what the newest model of the kind has learned from, or is about to."""
    row = await (await connection.execute(_REFERENCE, (synthetic,))).fetchone()
    return Reference.model_validate(row) if row else None


async def window(connection: Connection, rows: int) -> list[Observed]:
    """The newest predictions of the kind of model that serves, oldest first."""
    found = [_observed(row) async for row in await connection.execute(_WINDOW, (rows,))]
    return found[::-1]


async def risk_since_reference(
    connection: Connection, epoch: int, rows: int
) -> tuple[RiskReference, Sequence[float]] | None:
    """The risk's reference and the newest risks of the epoch after it; None until the epoch has filled a window.

    The reference is made here, once, and kept.
    """
    cursor = await connection.execute(
        "SELECT epoch, risks, until FROM monitoring.risk_references WHERE epoch = %s", (epoch,)
    )
    if row := await cursor.fetchone():
        known = RiskReference.model_validate(row)
    else:
        query = "SELECT risk, at FROM monitoring.predictions WHERE epoch = %s ORDER BY at, prediction_id LIMIT %s"
        first = await (await connection.execute(query, (epoch, rows))).fetchall()
        if len(first) < rows:
            return None
        counts: dict[Any, int] = {}
        for made in first:
            counts[made["risk"]] = counts.get(made["risk"], 0) + 1
        known = RiskReference(epoch=epoch, risks=numeric(counts), until=first[-1]["at"])
        await connection.execute(
            "INSERT INTO monitoring.risk_references (epoch, rows, risks, until) VALUES (%s, %s, %s, %s)",
            (epoch, rows, Jsonb(known.risks.model_dump()), known.until),
        )
    query = "SELECT risk FROM monitoring.predictions WHERE epoch = %s AND at > %s ORDER BY at DESC LIMIT %s"
    newer = await connection.execute(query, (epoch, known.until, rows))
    return known, [row["risk"] async for row in newer]


async def last_evaluation(connection: Connection) -> tuple[Evaluation | None, frozenset[str]]:
    """The last evaluation, and what has drifted by then."""
    row = await (await connection.execute("SELECT figures, drifted FROM monitoring.evaluation")).fetchone()
    return (Evaluation.model_validate(row["figures"]), frozenset(row["drifted"])) if row else (None, frozenset())


async def put_evaluation(connection: Connection, evaluation: Evaluation, drifted: frozenset[str]) -> None:
    """Replace the last evaluation."""
    await connection.execute(_PUT_EVALUATION, (Jsonb(evaluation.model_dump(mode="json")), sorted(drifted)))


async def prune(connection: Connection, kept_rows: int) -> None:
    """Forget all but the newest predictions."""
    await connection.execute(_PRUNE, (kept_rows - 1,))


async def summary(connection: Connection, rows: int) -> list[ServedModel]:
    """The newest predictions by model, newest epoch first."""
    return [
        ServedModel(model=_model(row), **{name: row[name] for name in ServedModel.model_fields if name != "model"})
        async for row in await connection.execute(_SUMMARY, (rows,))
    ]


def _observed(row: DictRow) -> Observed:
    return Observed(
        at=row["at"],
        model=_model(row),
        epoch=row["epoch"],
        synthetic=row["synthetic"],
        risk=row["risk"],
        readmitted=row["readmitted"],
        features=row["features"],
    )


def _model(row: DictRow) -> ModelVersion:
    return ModelVersion(name=row["model_name"], version=row["model_version"], family=row["model_family"])


def _dumped(model: BaseModel, *as_json: str) -> dict[str, Any]:
    row = model.model_dump(mode="json")
    return row | {name: Jsonb(row[name]) for name in as_json}
