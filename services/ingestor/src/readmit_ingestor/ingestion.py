"""One ingestion is one transaction: raw rows, clean rows, batches and events become visible together or not at all.

Rows stream through: read, raw COPY, clean, COPY into a staging table; what needs the whole file (order, duplicates,
batches, digests) is done by the database. So memory does not grow with the file.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import psycopg
from psycopg import sql

from readmit_chassis.envelope import Envelope, new_envelope
from readmit_chassis.outbox import enqueue_sync
from readmit_contracts.encounter import COLUMNS, NOT_READMITTABLE, POSITIVE_OUTCOME, schema_sha256
from readmit_contracts.events import BatchReady
from readmit_contracts.prediction import FieldError
from readmit_contracts.topics import BATCH_READY
from readmit_features.cleaning import clean_rows
from readmit_features.split import split_of
from readmit_features.synthetic import FIRST_SYNTHETIC_ID
from readmit_ingestor.errors import SourceFault
from readmit_ingestor.reading import Chunk, CsvReader

Connection = psycopg.Connection[Any]

_KEYS = [column.key for column in COLUMNS]
_ENCOUNTER, _PATIENT, _DISPOSITION, _OUTCOME = (
    _KEYS.index(key) for key in ("encounter_id", "patient_nbr", "discharge_disposition_id", "readmitted")
)
_COLUMN_LIST = sql.SQL(", ").join(map(sql.Identifier, [*_KEYS, "readmitted_30d"]))


@dataclass(slots=True)
class Progress:
    """How far an ingestion is; what a person who waits wants to see."""

    stage: str = "reading"
    rows_read: int = 0
    rows_quarantined: int = 0
    rows_excluded: int = 0
    batches_written: int = 0
    synthetic: bool = False


@dataclass(frozen=True, slots=True)
class Ingested:
    """What came of it. `unchanged`: these bytes were there already, as this version."""

    dataset_version: int
    synthetic: bool
    unchanged: bool


@dataclass(frozen=True, slots=True)
class Rules:
    """What an operator may set."""

    batch_rows: int
    max_bad_share: float
    tell: Callable[[Progress], None] = field(default=lambda _: None)


def ingest(
    connection: Connection, reader: CsvReader, *, source: str, synthetic: bool, rules: Rules, cause: Envelope | None
) -> Ingested:
    """Ingest a CSV in the connection's transaction, which the caller commits. Raises `SourceFault`."""
    progress = Progress(synthetic=synthetic)
    # One ingestion at a time: versions are numbered in the order in which they become visible.
    connection.execute("SELECT pg_advisory_xact_lock(hashtext('clean_data.datasets'))")
    version = _value(connection, "SELECT coalesce(max(version), 0) + 1 FROM clean_data.datasets")
    _make_staging(connection)
    for chunk in reader.chunks():
        _take(connection, version, chunk, progress)
        rules.tell(progress)
    known = connection.execute(
        "SELECT version, synthetic FROM clean_data.datasets WHERE content_sha256 = %s", (reader.content_sha256,)
    ).fetchone()
    if known is not None:
        return Ingested(known[0], known[1], unchanged=True)
    _refuse_if_too_bad(progress, source, rules.max_bad_share)
    progress.stage = "splitting"
    rules.tell(progress)
    progress.rows_excluded = _distribute(connection, version, rules.batch_rows)
    _refuse_leakage(connection, version)
    progress.stage = "announcing"
    synthetic = progress.synthetic
    batches = _describe_batches(connection, version, synthetic)
    connection.execute(
        "INSERT INTO clean_data.datasets (version, content_sha256, schema_sha256, source, synthetic, rows_raw,"
        " rows_quarantined, rows_excluded, batches_total) VALUES (%s, %s, %s, %s, %s, %s, %s, %s, %s)",
        (version, reader.content_sha256, schema_sha256(), source, synthetic, progress.rows_read,
         progress.rows_quarantined, progress.rows_excluded, len(batches)),
    )  # fmt: skip
    for batch, rows, positives, digest in batches:
        event = BatchReady(
            dataset_version=version, content_sha256=reader.content_sha256, schema_sha256=schema_sha256(), batch=batch,
            batches_total=len(batches), rows=rows, positives=positives, batch_sha256=digest, synthetic=synthetic,
        )  # fmt: skip
        envelope = new_envelope(event.EVENT_TYPE, source="ingestor", subject=f"{version}/{batch}", cause=cause)
        enqueue_sync(connection, "raw_data", topic=BATCH_READY.name, key=str(version), event=event, envelope=envelope)
    progress.batches_written = len(batches)
    rules.tell(progress)
    return Ingested(version, progress.synthetic, unchanged=False)


def _value(connection: Connection, query: str) -> int:
    row = connection.execute(query.encode()).fetchone()
    return int(row[0]) if row else 0


def _make_staging(connection: Connection) -> None:
    connection.execute(
        "CREATE TEMP TABLE staging (LIKE clean_data.diabetes_test INCLUDING DEFAULTS) ON COMMIT DROP;"
        "ALTER TABLE staging DROP COLUMN dataset_version, ADD COLUMN line bigint, ADD COLUMN split text,"
        " ADD COLUMN reason text"
    )


def _take(connection: Connection, version: int, chunk: Chunk, progress: Progress) -> None:
    """One chunk: raw as received, then clean into staging, or into quarantine with every reason."""
    raw_columns = sql.SQL(", ").join(map(sql.Identifier, ["dataset_version", "line", *_KEYS]))
    with (
        connection.cursor() as cursor,
        cursor.copy(sql.SQL("COPY raw_data.diabetes ({}) FROM STDIN").format(raw_columns)) as copy,
    ):
        for line, row in zip(chunk.lines, chunk.rows, strict=True):
            copy.write_row((version, line, *row))
    cleaned = clean_rows(chunk.rows) if chunk.rows else None
    bad: list[tuple[int, list[str], list[FieldError]]] = [
        (line, row, [FieldError(field="*", value=len(row), problem="has another number of cells than the header",
                                allowed=f"{len(_KEYS)} cells or as many as the header")])
        for line, row in chunk.misshapen
    ]  # fmt: skip
    if cleaned is not None:
        bad += [(chunk.lines[index], chunk.rows[index], errors) for index, errors in cleaned.refused.items()]
        target = sql.SQL("COPY staging ({}, line, split, reason) FROM STDIN").format(_COLUMN_LIST)
        with connection.cursor() as cursor, cursor.copy(target) as copy:
            for values, index in zip(cleaned.rows, cleaned.line_index, strict=True):
                # A sample that was written to a file and comes back as one is still a sample.
                progress.synthetic = progress.synthetic or int(values[_ENCOUNTER] or 0) >= FIRST_SYNTHETIC_ID
                reason = "not_readmittable" if values[_DISPOSITION] in NOT_READMITTABLE else None
                split = split_of(int(values[_PATIENT] or 0))
                copy.write_row((*values, values[_OUTCOME] == POSITIVE_OUTCOME, chunk.lines[index], split, reason))
    if bad:
        with (
            connection.cursor() as cursor,
            cursor.copy("COPY raw_data.quarantine (dataset_version, line, row, reasons) FROM STDIN") as copy,
        ):
            for line, row, errors in sorted(bad, key=lambda each: each[0]):
                copy.write_row((version, line, json.dumps(row), json.dumps([error.model_dump() for error in errors])))
    progress.rows_read += len(chunk.rows) + len(chunk.misshapen)
    progress.rows_quarantined += len(bad)


def _refuse_if_too_bad(progress: Progress, source: str, max_bad_share: float) -> None:
    if progress.rows_quarantined > max_bad_share * progress.rows_read:
        raise SourceFault(
            "too_many_bad_rows",
            f"{source}: {progress.rows_quarantined} of {progress.rows_read} rows do not fit the encounter schema, more"
            f" than {max_bad_share:.0%}; check delimiter, columns and codes",
        )


def _distribute(connection: Connection, version: int, batch_rows: int) -> int:
    """Staged rows into their tables, in encounter order. Returns how many were set apart."""
    connection.execute(
        "UPDATE staging SET reason = 'duplicate_encounter' FROM ("
        " SELECT line, row_number() OVER (PARTITION BY encounter_id ORDER BY line) AS nth FROM staging"
        ") AS seen WHERE seen.line = staging.line AND seen.nth > 1"
    )
    fill = sql.SQL(
        "INSERT INTO clean_data.{table} (dataset_version, {columns}{extra}) SELECT {version}, {columns}{value}"
        " FROM staging WHERE {condition} ORDER BY encounter_id, line"
    )
    for split in ("validation", "test"):
        connection.execute(
            fill.format(
                table=sql.Identifier(f"diabetes_{split}"), columns=_COLUMN_LIST, extra=sql.SQL(""), value=sql.SQL(""),
                version=sql.Literal(version),
                condition=sql.SQL("reason IS NULL AND split = {}").format(sql.Literal(split)),
            )
        )  # fmt: skip
    connection.execute(
        fill.format(
            table=sql.Identifier("diabetes_train"), columns=_COLUMN_LIST, extra=sql.SQL(", batch_id"),
            value=sql.SQL(", (row_number() OVER (ORDER BY encounter_id) - 1) / {} + 1").format(sql.Literal(batch_rows)),
            version=sql.Literal(version), condition=sql.SQL("reason IS NULL AND split = 'train'"),
        )
    )  # fmt: skip
    excluded = connection.execute(
        fill.format(
            table=sql.Identifier("diabetes_excluded"), columns=_COLUMN_LIST, extra=sql.SQL(", reason"),
            value=sql.SQL(", reason"), version=sql.Literal(version), condition=sql.SQL("reason IS NOT NULL"),
        )
    )  # fmt: skip
    return excluded.rowcount


def _refuse_leakage(connection: Connection, version: int) -> None:
    """The split is a function of the patient, so this cannot happen; if it ever does, nothing may be committed."""
    leaked = connection.execute(
        "SELECT count(*) FROM (SELECT patient_nbr FROM ("
        " SELECT DISTINCT patient_nbr FROM clean_data.diabetes_train WHERE dataset_version = %(v)s UNION ALL"
        " SELECT DISTINCT patient_nbr FROM clean_data.diabetes_validation WHERE dataset_version = %(v)s UNION ALL"
        " SELECT DISTINCT patient_nbr FROM clean_data.diabetes_test WHERE dataset_version = %(v)s"
        ") AS splits GROUP BY patient_nbr HAVING count(*) > 1) AS leaked",
        {"v": version},
    ).fetchone()
    if leaked is None or leaked[0]:
        raise RuntimeError(f"{leaked and leaked[0]} patients stand in more than one split")


def _describe_batches(connection: Connection, version: int, synthetic: bool) -> list[tuple[int, int, int, str]]:
    """Write `batch_info`: rows, positives, and a digest over the batch's rows as PostgreSQL prints them, in order."""
    batches = connection.execute(
        "SELECT batch_id, count(*), count(*) FILTER (WHERE readmitted_30d) FROM clean_data.diabetes_train"
        " WHERE dataset_version = %s GROUP BY batch_id ORDER BY batch_id",
        (version,),
    ).fetchall()
    described = []
    for batch, rows, positives in batches:
        digest = hashlib.sha256()
        query = sql.SQL(
            "COPY (SELECT {} FROM clean_data.diabetes_train WHERE dataset_version = {} AND batch_id = {}"
            " ORDER BY encounter_id) TO STDOUT (FORMAT csv)"
        ).format(_COLUMN_LIST, sql.Literal(version), sql.Literal(batch))
        with connection.cursor() as cursor, cursor.copy(query) as copy:
            for block in copy:
                digest.update(block)
        connection.execute(
            "INSERT INTO clean_data.batch_info (dataset_version, batch_id, rows, positives, sha256, synthetic)"
            " VALUES (%s, %s, %s, %s, %s, %s)",
            (version, batch, rows, positives, digest.hexdigest(), synthetic),
        )
        described.append((batch, rows, positives, digest.hexdigest()))
    return described
