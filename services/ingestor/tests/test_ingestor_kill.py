"""The whole service, killed with kill -9 wherever it happens to be: started again, it ends as if nothing had been."""

from __future__ import annotations

import asyncio
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from uuid import uuid4

import psycopg
import pytest
from aiokafka import AIOKafkaConsumer
from psycopg import sql

from readmit_chassis.kafka import create_topics
from readmit_chassis.testing import embedded_kafka, free_port
from readmit_contracts.events import BatchReady, IngestionFinished
from readmit_contracts.topics import TOPICS

pytestmark = pytest.mark.stack

Database = psycopg.Connection[Any]

_ROWS = 20_000


def until(condition: Callable[[], bool], timeout_s: float = 60.0) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, "it never came to be"
        time.sleep(0.005)  # the condition is in another process


@contextmanager
def ingestor(environment: dict[str, str]) -> Iterator[subprocess.Popen[bytes]]:
    process = subprocess.Popen(
        [sys.executable, "-m", "readmit_ingestor"], env={**os.environ, **environment},
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def environment_of(database: Database, kafka: str, folder: Path) -> dict[str, str]:
    parts = database.info
    return {
        "INGESTOR_PORT": str(free_port()),
        "INGESTOR_KAFKA__BOOTSTRAP_SERVERS": kafka,
        "INGESTOR_KAFKA__IDEMPOTENT_PRODUCER": "false",
        "INGESTOR_POSTGRES__HOST": "127.0.0.1",
        "INGESTOR_POSTGRES__PORT": str(parts.port),
        "INGESTOR_POSTGRES__DATABASE": parts.dbname,
        "INGESTOR_POSTGRES__USER": parts.user,
        "INGESTOR_POSTGRES__PASSWORD": "unused",
        "INGESTOR_CACHE_DIR": str(folder / "cache"),
        "INGESTOR_BATCH_ROWS": "1000",
        "INGESTOR_SCHEDULE_HOURS": "0",
    }


def ask(database: Database, rows: int) -> None:
    database.execute(
        "INSERT INTO raw_data.ingestions (request_id, source, requested_by) VALUES (%s, %s, 'test')",
        (uuid4(), f"sample:{rows}"),
    )


def status_in(database: Database) -> str:
    row = database.execute("SELECT status FROM raw_data.ingestions").fetchone()
    return str(row and row[0])


async def heard(address: str, topic: str, enough: Callable[[list[bytes]], bool]) -> list[bytes]:
    """What a topic holds, read from its beginning until it is enough."""
    consumer = AIOKafkaConsumer(topic, bootstrap_servers=address, auto_offset_reset="earliest")
    await consumer.start()
    values: list[bytes] = []
    try:
        async with asyncio.timeout(60):
            while not enough(values):
                values.append((await consumer.getone()).value)
    finally:
        await consumer.stop()
    return values


@pytest.mark.timeout(240)
@pytest.mark.parametrize("seed", range(int(os.environ.get("READMIT_KILLS", "1"))))
def test_killed_twice_at_any_moment_and_once_more_while_it_announces_it_doubles_and_loses_nothing(
    seed: int, database: Database, tmp_path: Path
) -> None:
    moments = random.Random(seed)
    with embedded_kafka() as address:
        asyncio.run(create_topics(address, [(topic.name, 1, {}) for topic in TOPICS]))
        environment = environment_of(database, address, tmp_path)
        ask(database, _ROWS)

        def status() -> str:
            return status_in(database)

        for _ in range(2):
            if status() == "done":
                break
            with ingestor(environment) as process:
                until(lambda: status() != "requested")
                time.sleep(moments.uniform(0.0, 0.6))  # wherever it is by then
                process.kill()
        with ingestor(environment) as process:
            until(lambda: status() == "done")
            process.kill()  # committed: some events may be in Kafka, the others wait in the outbox
        with ingestor(environment):
            until(lambda: database.execute("SELECT count(*) FROM raw_data.outbox").fetchone() == (0,))
        batches = database.execute("SELECT batch_id, rows, sha256 FROM clean_data.batch_info ORDER BY 1").fetchall()
        wanted = {batch for batch, _, _ in batches}

        def whole(values: list[bytes]) -> bool:
            return wanted <= {BatchReady.model_validate_json(value).batch for value in values}

        ready = asyncio.run(heard(address, "batch.ready", whole))
        events = {event.batch: event for event in map(BatchReady.model_validate_json, ready)}
        assert [(event.batch, event.rows, event.batch_sha256) for _, event in sorted(events.items())] == batches
        [finished] = asyncio.run(heard(address, "ingestion.finished", bool))
        assert IngestionFinished.model_validate_json(finished).rows_read == _ROWS
    assert database.execute("SELECT version, rows_raw FROM clean_data.datasets").fetchall() == [(1, _ROWS)]
    assert database.execute("SELECT count(*), count(DISTINCT line) FROM raw_data.diabetes").fetchone() == (_ROWS, _ROWS)
    places = Counter(
        encounter
        for table in ("train", "validation", "test", "excluded")
        for (encounter,) in database.execute(
            sql.SQL("SELECT encounter_id FROM {}").format(sql.Identifier("clean_data", f"diabetes_{table}"))
        ).fetchall()
    )
    assert set(places.values()) == {1}
    assert len(places) == _ROWS


def test_told_to_stop_in_the_middle_of_an_ingestion_it_ends_at_once_and_the_next_start_completes(
    database: Database, tmp_path: Path
) -> None:
    with embedded_kafka() as address:
        asyncio.run(create_topics(address, [(topic.name, 1, {}) for topic in TOPICS]))
        environment = environment_of(database, address, tmp_path)
        ask(database, 200_000)
        with ingestor(environment) as process:
            until(lambda: status_in(database) == "running")
            process.send_signal(signal.SIGTERM)
            assert process.wait(timeout=20) in {0, -signal.SIGTERM}
        left = database.execute("SELECT count(*) FROM raw_data.diabetes").fetchone()
        assert (status_in(database), left) in {("running", (0,)), ("done", (200_000,))}
        with ingestor(environment):
            until(lambda: status_in(database) == "done")
    assert database.execute("SELECT version, rows_raw FROM clean_data.datasets").fetchall() == [(1, 200_000)]
