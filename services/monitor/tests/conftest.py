"""Fixtures of the monitor's tests: encounters, predictions about them, and a database of its own for each test."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import uuid4

import numpy as np
import psycopg
import pytest

from readmit_chassis.migrations import apply_migrations
from readmit_chassis.testing import postgres_server
from readmit_contracts.encounter import COLUMNS
from readmit_contracts.events import ModelVersion, PredictionMade
from readmit_features.cleaning import clean_rows
from readmit_features.synthetic import sample_columns
from readmit_monitor import store

Encounter = dict[str, Any]
Predict = Callable[..., list[PredictionMade]]
#: When the predictions of a test begin.
START = datetime(2026, 11, 20, 8, 0, tzinfo=UTC)


@pytest.fixture(scope="session")
def encounters_in_order() -> list[Encounter]:
    """Clean encounters in the order of their numbers, which is that of time: payers are recorded from some day on."""
    cells = sample_columns(6_000, seed=11).values()
    keys = [column.key for column in COLUMNS]
    return [dict(zip(keys, row, strict=True)) for row in clean_rows(list(zip(*cells, strict=True))).rows]


@pytest.fixture(scope="session")
def encounters(encounters_in_order: list[Encounter]) -> list[Encounter]:
    """The same in no order: every part of them is a sample of one population."""
    order = np.random.default_rng(1).permutation(len(encounters_in_order))
    return [encounters_in_order[place] for place in order]


@pytest.fixture
def predict(encounters: list[Encounter]) -> Predict:
    """`prediction.made` for encounters drawn from the population, one a second; each call goes on in time."""
    rng = np.random.default_rng(3)
    clock = iter(range(1_000_000))

    def make(
        rows: int,
        *,
        epoch: int = 1,
        synthetic: bool = True,
        changed: Mapping[str, Any] | None = None,
        risk: Callable[[], float] | None = None,
    ) -> list[PredictionMade]:
        drawn = rng.integers(0, len(encounters), rows)
        draw = risk or (lambda: float(rng.beta(2, 14)))
        return [
            _prediction(encounters[i] | dict(changed or {}), next(clock), epoch, draw(), synthetic=synthetic)
            for i in drawn
        ]

    return make


def _prediction(encounter: Encounter, second: int, epoch: int, risk: float, *, synthetic: bool) -> PredictionMade:
    hidden = {"encounter_id", "patient_nbr", "readmitted"}
    return PredictionMade(
        prediction_id=uuid4(),
        pod_id="inference-1",
        model=ModelVersion(name="diabetes_readmission_lightgbm", version=str(epoch), family="lightgbm"),
        sha256="a1" * 32,
        epoch=epoch,
        synthetic=synthetic,
        risk=risk,
        threshold=0.125,
        readmitted_within_30_days=risk >= 0.125,
        latency_ms=0.4,
        features={key: value for key, value in encounter.items() if key not in hidden},
        at=START + timedelta(seconds=second),
    )


@pytest.fixture(scope="session")
def template_database(encounters: list[Encounter]) -> Iterator[str]:
    """A PostgreSQL whose database `template` has training rows, and is migrated by the monitor's unprivileged role."""
    with postgres_server() as superuser:
        with psycopg.connect(superuser, autocommit=True) as connection:
            connection.execute("CREATE ROLE readmit_monitor LOGIN")
            connection.execute("CREATE DATABASE template")
        template = superuser.replace("dbname=postgres", "dbname=template")
        with psycopg.connect(template, autocommit=True) as connection:
            connection.execute("CREATE SCHEMA monitoring AUTHORIZATION readmit_monitor")
            _training_rows(connection, encounters)
        apply_migrations(template.replace("user=postgres", "user=readmit_monitor"), "monitoring", "readmit_monitor")
        yield superuser


def _training_rows(connection: psycopg.Connection[Any], encounters: Sequence[Encounter]) -> None:
    """`clean_data.diabetes_train` as the ingestor makes it, with the monitor's rights on it: versions 1 and 2."""
    keys = [column.key for column in COLUMNS]
    types = {c.key: "bigint" if c.key in {"encounter_id", "patient_nbr"} else "integer" for c in COLUMNS if c.is_number}
    columns = ", ".join(f"{key} {types.get(key, 'text')}" for key in keys)
    connection.execute("CREATE SCHEMA clean_data")
    connection.execute(
        f"CREATE TABLE clean_data.diabetes_train (dataset_version integer, batch_id integer, {columns})".encode()
    )
    connection.execute("GRANT USAGE ON SCHEMA clean_data TO readmit_monitor")
    connection.execute("GRANT SELECT ON clean_data.diabetes_train TO readmit_monitor")
    names = ", ".join(("dataset_version", "batch_id", *keys))
    with connection.cursor().copy(f"COPY clean_data.diabetes_train ({names}) FROM STDIN".encode()) as copy:
        for number, encounter in enumerate(encounters):
            copy.write_row((1 + (number >= 4_000), 1, *(encounter[key] for key in keys)))


@pytest.fixture
def conninfo(template_database: str) -> str:
    """A migrated database of its own, as the monitor's role."""
    name = f"monitor_{uuid4().hex}"
    with psycopg.connect(template_database, autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {name} TEMPLATE template".encode())
    return template_database.replace("dbname=postgres", f"dbname={name}").replace(
        "user=postgres", "user=readmit_monitor"
    )


@pytest.fixture
async def pool(conninfo: str) -> AsyncIterator[store.Pool]:
    """An open pool on the test's database."""
    async with store.make_pool(conninfo) as opened:
        yield opened
