"""One ingestion is one transaction: raw rows, clean rows, batches and events become visible together or not at all.

Rows stream through: read and clean (in a thread, ahead of PostgreSQL), raw COPY, COPY into a staging table that keeps
each row as one text; what needs the whole source (order, doubles) is done there, and the rows come back in their order
to be counted, digested and copied into their tables. So memory does not grow with the source.
"""

from __future__ import annotations

import json
import tempfile
from collections import Counter, deque
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import IO, TypeVar
from uuid import UUID

from psycopg import sql

from readmit_chassis.envelope import Envelope
from readmit_chassis.tracing import span
from readmit_contracts.encounter import schema_sha256
from readmit_ingestor.batches import (
    BATCH_COLUMNS,
    Batch,
    Connection,
    announce_batch,
    describe,
    encounter_of,
    note_batches,
    refuse_leakage,
)
from readmit_ingestor.errors import SourceFault
from readmit_ingestor.preparation import Prepared, prepare
from readmit_ingestor.reading import KEYS, Reader
from readmit_ingestor.replay import Replay, mark_replayed

T = TypeVar("T")

#: How many `field: problem` are worth telling.
_REASONS_SHOWN = 20
_SPOOL_BYTES = 32 * 1024 * 1024


@dataclass(slots=True)
class Progress:
    """How far an ingestion is; what a person who waits wants to see."""

    stage: str = "reading"
    bytes_read: int = 0
    bytes_total: int | None = None
    rows_read: int = 0
    rows_quarantined: int = 0
    rows_excluded: int = 0
    batches_written: int = 0
    synthetic: bool = False
    quarantined_by: Counter[str] = field(default_factory=Counter)
    changes: Counter[str] = field(default_factory=Counter)


@dataclass(frozen=True, slots=True)
class Ingested:
    """What came of it. `unchanged`: this content was there already, as this version."""

    dataset_version: int
    synthetic: bool
    unchanged: bool


@dataclass(frozen=True, slots=True)
class Rules:
    """What an operator, or who asks, may set."""

    batch_rows: int
    max_bad_share: float
    batch_order: str = "encounter"
    spool_dir: Path | None = None  #: where rows wait for their table when they are many; None: the system's choice
    tell: Callable[[Progress], None] = field(default=lambda _: None)


@dataclass(frozen=True, slots=True)
class Asked:
    """Who asked for what, for the lineage. `replay`: the corrected rows that the source holds."""

    source: str
    synthetic: bool
    request_id: UUID | None = None
    replay: Replay | None = None
    cause: Envelope | None = None


def ingest(connection: Connection, reader: Reader, asked: Asked, rules: Rules) -> Ingested:
    """Ingest a source in the connection's transaction, which the caller commits. Raises `SourceFault`."""
    progress = Progress(synthetic=asked.synthetic)
    _prepare_session(connection)
    # One ingestion at a time: versions are numbered in the order in which they become visible.
    connection.execute("SELECT pg_advisory_xact_lock(hashtext('clean_data.datasets'))")
    previous = _value(connection, "SELECT coalesce(max(version), 0) FROM clean_data.datasets")
    version = previous + 1
    _make_staging(connection)
    with span("read and copy", dataset_version=version) as reading:
        for prepared in _ahead(prepare(version, chunk) for chunk in reader.chunks()):
            _copy(connection, prepared, progress)
            progress.bytes_read, progress.bytes_total = reader.bytes_read, reader.bytes_total
            rules.tell(progress)
        reading.set_attributes({"rows": progress.rows_read, "quarantined": progress.rows_quarantined})
    known = connection.execute(
        "SELECT version, synthetic FROM clean_data.datasets"
        " WHERE content_sha256 = %s AND schema_sha256 = %s AND batch_order = %s AND batch_rows = %s",
        (reader.content_sha256, schema_sha256(), rules.batch_order, rules.batch_rows),
    ).fetchone()
    if known is not None:
        return Ingested(known[0], known[1], unchanged=True)
    _refuse_if_too_bad(progress, asked.source, rules.max_bad_share)
    progress.stage = "splitting"
    rules.tell(progress)
    with span("split") as splitting:
        _set_doubles_apart(connection)
        batches, progress.rows_excluded = _distribute(connection, version, rules, reader.content_sha256)
        refuse_leakage(connection, version)
        splitting.set_attributes({"batches": len(batches), "excluded": progress.rows_excluded})
    progress.stage = "announcing"
    rules.tell(progress)
    _note_version(connection, version, previous, reader, asked, rules, progress, len(batches))
    note_batches(connection, version, batches)
    for batch in batches:
        announce_batch(connection, version, batch.number, asked.cause)
    if asked.replay is not None:
        mark_replayed(connection, asked.replay, version)
    progress.batches_written = len(batches)
    rules.tell(progress)
    return Ingested(version, progress.synthetic, unchanged=False)


def _ahead(items: Iterator[T], depth: int = 2) -> Iterator[T]:
    """The same items, the next ones being made in a thread while the caller works on this one."""
    with ThreadPoolExecutor(1, thread_name_prefix="ingestion-reader") as pool:
        coming = deque(pool.submit(next, items, None) for _ in range(depth))
        while (item := coming.popleft().result()) is not None:
            coming.append(pool.submit(next, items, None))
            yield item


def _value(connection: Connection, query: str, *parameters: object) -> int:
    row = connection.execute(query.encode(), parameters).fetchone()
    return int(row[0]) if row else 0


def _prepare_session(connection: Connection) -> None:
    """Sorting 15,000 rows should need no disk, and compiling a query that runs once never pays."""
    connection.execute("SET LOCAL temp_buffers = '64MB'; SET LOCAL work_mem = '64MB'; SET LOCAL jit = off")


def _make_staging(connection: Connection) -> None:
    connection.execute(
        "CREATE TEMP TABLE staging (line bigint, encounter_id bigint, split text, reason text, row text) ON COMMIT DROP"
    )


#: CSV in form, but a row within keeps its commas and quotes as they are.
_ROWS = sql.SQL("(FORMAT csv, DELIMITER E'\\x1f', QUOTE E'\\x1e')")
_RAW = sql.SQL("COPY raw_data.diabetes (dataset_version, line, {}) FROM STDIN (FORMAT csv, NULL '\\N')").format(
    sql.SQL(", ").join(map(sql.Identifier, KEYS))
)
_STAGING = sql.SQL("COPY staging FROM STDIN {}").format(_ROWS)
_QUARANTINE = "COPY raw_data.quarantine (dataset_version, line, part, part_line, row, reasons) FROM STDIN"


def _copy(connection: Connection, prepared: Prepared, progress: Progress) -> None:
    """One chunk: raw as received, then clean into staging, or into quarantine with every reason."""
    with connection.cursor() as cursor:
        for statement, data in ((_RAW, prepared.raw), (_STAGING, prepared.clean)):
            if len(data):
                with cursor.copy(statement) as copy:
                    copy.write(data)
        if prepared.quarantined:
            with cursor.copy(_QUARANTINE) as copy:
                for row in prepared.quarantined:
                    copy.write_row(
                        (prepared.version, row.line, row.part, row.part_line, json.dumps(row.row),
                         json.dumps([error.model_dump() for error in row.reasons]))
                    )  # fmt: skip
    progress.synthetic = progress.synthetic or prepared.synthetic
    progress.rows_read += prepared.rows
    progress.rows_quarantined += len(prepared.quarantined)
    progress.changes.update(prepared.changes)
    progress.quarantined_by.update(
        reason
        for row in prepared.quarantined
        for reason in {f"{error.field}: {error.problem}" for error in row.reasons}
    )


def most_frequent(reasons: Counter[str]) -> dict[str, int]:
    """The reasons worth telling, most frequent first."""
    return dict(reasons.most_common(_REASONS_SHOWN))


def _refuse_if_too_bad(progress: Progress, source: str, max_bad_share: float) -> None:
    if progress.rows_quarantined > max_bad_share * progress.rows_read:
        why = "; ".join(f"{reason} ({rows} rows)" for reason, rows in progress.quarantined_by.most_common(3))
        raise SourceFault(
            "too_many_bad_rows",
            f"{source}: {progress.rows_quarantined} of {progress.rows_read} rows do not fit the encounter schema, more"
            f" than {max_bad_share:.0%}: {why}; mend the source, or allow a larger share",
        )


def _set_doubles_apart(connection: Connection) -> None:
    """The first row of an encounter stays; whether a later one says the same or something else is worth knowing."""
    connection.execute("CREATE TEMP TABLE doubled (encounter_id bigint, first_line bigint) ON COMMIT DROP")
    found = connection.execute(
        "INSERT INTO doubled SELECT encounter_id, min(line) FROM staging GROUP BY encounter_id HAVING count(*) > 1"
    )
    if found.rowcount:
        connection.execute(
            "UPDATE staging AS s SET reason ="
            " CASE WHEN s.row = f.row THEN 'duplicate_encounter' ELSE 'conflicting_encounter' END"
            " FROM doubled AS d JOIN staging AS f ON f.line = d.first_line"
            " WHERE s.encounter_id = d.encounter_id AND s.line <> d.first_line"
        )


def _distribute(connection: Connection, version: int, rules: Rules, content_sha256: str) -> tuple[list[Batch], int]:
    """Staged rows into their tables, in order. Returns the batches, and how many rows were set apart."""
    for split in ("validation", "test"):
        with _staged(
            connection, rules.spool_dir, sql.SQL("reason IS NULL AND split = {}").format(sql.Literal(split))
        ) as rows:
            _fill(connection, f"diabetes_{split}", "", (_with(block, version) for block in _pieces(rows, 5_000)))
    order: sql.Composable = sql.SQL("encounter_id")
    if rules.batch_order == "shuffled":  # the same shuffle for the same content
        order = sql.SQL('md5(encounter_id || {}) COLLATE "C"').format(sql.Literal(content_sha256))
    batches: list[Batch] = []
    with _staged(connection, rules.spool_dir, sql.SQL("reason IS NULL AND split = 'train'"), order) as rows:
        _fill(connection, "diabetes_train", ", batch_id", _batches(rows, version, rules, batches))
    with _staged(
        connection, rules.spool_dir, sql.SQL("reason IS NOT NULL"), value=sql.SQL("row || ',' || reason")
    ) as rows:
        excluded = _fill(
            connection, "diabetes_excluded", ", reason", (_with(block, version) for block in _pieces(rows, 5_000))
        )
    return batches, excluded


@contextmanager
def _staged(
    connection: Connection,
    spool_dir: Path | None,
    condition: sql.Composable,
    order: sql.Composable = sql.SQL("encounter_id"),  # noqa: B008  never changed
    value: sql.Composable = sql.SQL("row"),  # noqa: B008
) -> Iterator[IO[bytes]]:
    """Rows as lines of CSV, in a file that is kept in memory while it is small."""
    query = sql.SQL("COPY (SELECT {} FROM staging WHERE {} ORDER BY {}, line) TO STDOUT {}")
    with tempfile.SpooledTemporaryFile(_SPOOL_BYTES, dir=str(spool_dir) if spool_dir else None) as file:
        with connection.cursor() as cursor, cursor.copy(query.format(value, condition, order, _ROWS)) as copy:
            for block in copy:
                file.write(block)
        file.seek(0)
        yield file


def _pieces(rows: IO[bytes], count: int) -> Iterator[list[bytes]]:
    while piece := list(islice(rows, count)):
        yield piece


def _with(rows: list[bytes], *values: int) -> bytes:
    """Whole numbers as last cells of each row."""
    return b"".join(rows).replace(b"\n", b"," + b",".join(b"%d" % value for value in values) + b"\n")


def _batches(rows: IO[bytes], version: int, rules: Rules, described: list[Batch]) -> Iterator[bytes]:
    """The batches as COPY data, each described on its way."""
    for number, piece in enumerate(_pieces(rows, rules.batch_rows), start=1):
        if rules.batch_order == "shuffled":
            piece.sort(key=encounter_of)
        described.append(describe(number, piece))
        yield _with(piece, version, number)


def _fill(connection: Connection, table: str, extra: str, blocks: Iterator[bytes]) -> int:
    """COPY into a clean table; returns the number of rows. `extra`: columns besides those of a row and the version."""
    # A reason stands before the version, a batch behind it.
    columns = ", reason, dataset_version" if extra == ", reason" else f", dataset_version{extra}"
    query = sql.SQL("COPY clean_data.{} ({}{}) FROM STDIN (FORMAT csv)").format(
        sql.Identifier(table), BATCH_COLUMNS, sql.SQL(columns)
    )
    with connection.cursor() as cursor:
        with cursor.copy(query) as copy:
            for block in _ahead(blocks):
                copy.write(block)
        return cursor.rowcount


def _note_version(
    connection: Connection, version: int, previous: int, reader: Reader, asked: Asked, rules: Rules, progress: Progress,
    batches: int,
) -> None:  # fmt: skip
    parts = [
        {"name": part.name, "sha256": part.sha256, "first_line": part.first_line, "rows": part.rows}
        for part in reader.parts_read
    ]
    connection.execute(
        "INSERT INTO clean_data.datasets (version, content_sha256, schema_sha256, source, synthetic, rows_raw,"
        " rows_quarantined, rows_excluded, batches_total, batch_order, batch_rows, request_id, previous_version,"
        " replay_of, parts, changes) VALUES (%s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s)",
        (version, reader.content_sha256, schema_sha256(), asked.source, progress.synthetic, progress.rows_read,
         progress.rows_quarantined, progress.rows_excluded, batches, rules.batch_order, rules.batch_rows,
         asked.request_id, previous or None, asked.replay and asked.replay.version, json.dumps(parts),
         json.dumps(progress.changes)),
    )  # fmt: skip
