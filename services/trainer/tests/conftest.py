"""A PostgreSQL with a committed dataset in it, as the ingestor leaves one, and a batch event for it."""

from __future__ import annotations

import csv
import hashlib
import io
import os
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import psycopg
import pytest
from psycopg_pool import AsyncConnectionPool

from readmit_chassis.migrations import apply_migrations
from readmit_chassis.settings import KafkaSettings, PostgresSettings, S3Settings
from readmit_chassis.testing import free_port, postgres_server
from readmit_contracts.encounter import COLUMNS, POSITIVE_OUTCOME, schema_sha256
from readmit_contracts.events import BatchReady
from readmit_features.cleaning import clean_rows
from readmit_features.split import split_of
from readmit_features.synthetic import write_sample
from readmit_trainer.domain import FAMILIES
from readmit_trainer.settings import Settings

# The fitting process imports its stand-ins by name, with the path that it is given.
sys.path.append(str(Path(__file__).parent))

#: Digests of the sample's batches, once a server holds them.
DIGESTS: dict[int, str] = {}

TYPES = ", ".join(f"{c.key} {'bigint' if c.is_number else 'text'}" for c in COLUMNS)
KEYS = tuple(c.key for c in COLUMNS)


def sample_frame(rows: int) -> pd.DataFrame:
    """Cleaned encounters of a synthetic sample."""
    text = io.StringIO()
    write_sample(text, rows)
    text.seek(0)
    cleaned = clean_rows(list(csv.reader(text))[1:])
    frame = pd.DataFrame(cleaned.rows, columns=list(KEYS), dtype=object).sort_values("encounter_id", ignore_index=True)
    frame["readmitted_30d"] = frame["readmitted"] == POSITIVE_OUTCOME
    frame["split"] = frame["patient_nbr"].map(split_of)
    return frame


@pytest.fixture(scope="session")
def encounters() -> pd.DataFrame:
    return sample_frame(12_000)


@pytest.fixture(scope="session")
def server(encounters: pd.DataFrame) -> Iterator[str]:
    """Connection string of a server whose `clean_data` holds the sample as dataset 1, in batches of 4,000 rows."""
    with postgres_server() as conninfo:
        with psycopg.connect(conninfo) as connection:
            connection.execute("CREATE SCHEMA training")
            connection.execute("CREATE SCHEMA clean_data")
            connection.execute(
                "CREATE TABLE clean_data.batch_info (dataset_version int, batch_id int, rows int, positives int,"
                " sha256 text, created_at timestamptz DEFAULT '2026-11-01T00:00:00Z')"
            )
            connection.execute(
                "CREATE TABLE clean_data.datasets (version int, content_sha256 text, schema_sha256 text,"
                " synthetic bool, batches_total int)"
            )
            for split in ("train", "validation"):
                table = f"clean_data.diabetes_{split}"
                connection.execute(
                    f"CREATE TABLE {table} (dataset_version int, batch_id int, {TYPES}, readmitted_30d bool)".encode()
                )
                _copy(connection, table, encounters[encounters["split"] == split])
            connection.execute(
                "INSERT INTO clean_data.batch_info SELECT dataset_version, batch_id, count(*),"
                " count(*) FILTER (WHERE readmitted_30d), ''"
                " FROM clean_data.diabetes_train GROUP BY 1, 2"
            )
            _note_digests(connection)
            connection.execute(
                "INSERT INTO clean_data.datasets SELECT 1, repeat('c', 64), %s, true, count(*)"
                " FROM clean_data.batch_info",
                (schema_sha256(),),
            )
        apply_migrations(conninfo, "training", "readmit_trainer")
        yield conninfo


def _note_digests(connection: psycopg.Connection[Any]) -> None:
    """Write into `batch_info` what the ingestor would: the digest of each batch's cells as CSV."""
    for (number,) in connection.execute("SELECT batch_id FROM clean_data.batch_info").fetchall():
        query = (
            f"COPY (SELECT {', '.join(KEYS)}, readmitted_30d FROM clean_data.diabetes_train"  # noqa: S608  our own names
            f" WHERE batch_id = {number} ORDER BY encounter_id) TO STDOUT (FORMAT csv)"
        )
        digest = hashlib.sha256()
        with connection.cursor() as cursor, cursor.copy(query.encode()) as copy:
            for block in copy:
                digest.update(block)
        DIGESTS[number] = digest.hexdigest()
        connection.execute(
            "UPDATE clean_data.batch_info SET sha256 = %s WHERE batch_id = %s", (DIGESTS[number], number)
        )


def _copy(connection: psycopg.Connection[Any], table: str, frame: pd.DataFrame) -> None:
    size = 15_000 if len(frame) > 30_000 else 4_000
    query = f"COPY {table} (dataset_version, batch_id, {', '.join(KEYS)}, readmitted_30d) FROM STDIN"
    with connection.cursor() as cursor, cursor.copy(query.encode()) as copy:
        for number, row in enumerate(frame[[*KEYS, "readmitted_30d"]].itertuples(index=False)):
            copy.write_row((1, number // size + 1, *row))


def batch_event(number: int = 1, **changes: Any) -> BatchReady:
    fields: dict[str, Any] = {
        "dataset_version": 1, "content_sha256": "c" * 64, "schema_sha256": schema_sha256(), "batch": number,
        "batches_total": 5, "rows": 4000, "positives": 440, "synthetic": True,
        "batch_sha256": DIGESTS.get(number, hashlib.sha256(str(number).encode()).hexdigest()),
    }  # fmt: skip
    return BatchReady.model_validate({**fields, **changes})


@pytest.fixture
def make_event() -> Callable[..., BatchReady]:
    return batch_event


@pytest.fixture
def settings(request: pytest.FixtureRequest) -> Settings:
    """Settings that point at the test's server if it has one; nothing listens on the other addresses."""
    info: dict[str, Any] = {"host": "127.0.0.1", "port": 1, "dbname": "postgres", "user": "postgres"}
    if "server" in request.fixturenames:
        info |= psycopg.conninfo.conninfo_to_dict(request.getfixturevalue("server"))
    return Settings(
        kafka=KafkaSettings(bootstrap_servers="127.0.0.1:1"),
        postgres=PostgresSettings(
            host=info["host"], port=int(info["port"]), database=info["dbname"], user=info["user"], password="unused"
        ),
        s3=S3Settings(endpoint_url="http://127.0.0.1:1", access_key="unused", secret_key="unused"),
        mlflow_url="http://127.0.0.1:1",
        families=FAMILIES,
        timeout_s=60.0,
    )


@pytest.fixture
async def pool(server: str) -> AsyncIterator[AsyncConnectionPool]:
    """Connections to the server, with no jobs in it."""
    async with AsyncConnectionPool(server, min_size=1, max_size=4, open=False) as connections:
        async with connections.connection() as connection:
            await connection.execute(
                "TRUNCATE training.search_trials, training.jobs, training.requests, training.request_jobs,"
                " training.inbox, training.outbox"
            )
        yield connections


@pytest.fixture(scope="session")
def mlflow_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A real MLflow server; it takes some twenty seconds to start."""
    folder, port = tmp_path_factory.mktemp("mlflow"), free_port()
    command = [
        sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port), "--workers", "1",
        "--backend-store-uri", f"sqlite:///{folder}/mlflow.db", "--artifacts-destination", f"{folder}/artifacts",
    ]  # fmt: skip
    environment = os.environ | {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false", "MLFLOW_DISABLE_TELEMETRY": "true"}
    with (
        (folder / "server.log").open("wb") as log,
        subprocess.Popen(command, env=environment, cwd=folder, stdout=log, stderr=log) as server,
    ):
        try:
            yield f"http://127.0.0.1:{port}"
        finally:
            server.terminate()
