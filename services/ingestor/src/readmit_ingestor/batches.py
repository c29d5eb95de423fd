"""Training batches: what describes one, what is announced of it, and that no patient stands in two splits."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import psycopg
from psycopg import sql
from psycopg.rows import dict_row

from readmit_chassis.envelope import Envelope, new_envelope
from readmit_chassis.outbox import enqueue_sync
from readmit_contracts.events import BatchReady
from readmit_contracts.topics import BATCH_READY
from readmit_ingestor.reading import KEYS
from readmit_ingestor.store import SCHEMA

Connection = psycopg.Connection[Any]

#: The cells of a clean row.
BATCH_COLUMNS = sql.SQL(", ").join(map(sql.Identifier, [*KEYS, "readmitted_30d"]))


@dataclass(frozen=True, slots=True)
class Batch:
    """A batch of training rows. `sha256`: of its rows as PostgreSQL prints them as CSV, in encounter order."""

    number: int
    rows: int
    positives: int
    sha256: str
    first_encounter_id: int
    last_encounter_id: int


def describe(number: int, rows: Sequence[bytes]) -> Batch:
    """A batch by its rows as PostgreSQL prints them as CSV, in encounter order, at least one."""
    data = b"".join(rows)
    return Batch(
        number, len(rows), data.count(b",t\n"), hashlib.sha256(data).hexdigest(), encounter_of(rows[0]),
        encounter_of(rows[-1]),
    )  # fmt: skip


def encounter_of(row: bytes) -> int:
    """The number that a row begins with."""
    return int(row[: row.index(b",")])


def read_batch(connection: Connection, version: int, number: int) -> Batch:
    """Describe a batch that stands in the table."""
    query = sql.SQL(
        "COPY (SELECT {} FROM clean_data.diabetes_train WHERE dataset_version = {} AND batch_id = {}"
        " ORDER BY encounter_id) TO STDOUT (FORMAT csv)"
    ).format(BATCH_COLUMNS, sql.Literal(version), sql.Literal(number))
    with connection.cursor() as cursor, cursor.copy(query) as copy:
        rows = b"".join(bytes(block) for block in copy).splitlines(keepends=True)
    if not rows:
        raise RuntimeError(f"batch {number} of dataset {version} holds no row")
    return describe(number, rows)


def note_batches(
    connection: Connection, version: int, batches: Sequence[Batch], *, origin: str = "source", intervened: int = 0
) -> None:
    """Write `batch_info`. The dataset version has to be there already."""
    with connection.cursor() as cursor:
        cursor.executemany(
            "INSERT INTO clean_data.batch_info (dataset_version, batch_id, rows, positives, sha256, synthetic, origin,"
            " intervened, schema_sha256, first_encounter_id, last_encounter_id)"
            " SELECT version, %s, %s, %s, %s, synthetic, %s, %s, schema_sha256, %s, %s"
            " FROM clean_data.datasets WHERE version = %s",
            [
                (batch.number, batch.rows, batch.positives, batch.sha256, origin, intervened, batch.first_encounter_id,
                 batch.last_encounter_id, version)
                for batch in batches
            ],
        )  # fmt: skip


def announce_batch(connection: Connection, version: int, batch: int, cause: Envelope | None) -> None:
    """`batch.ready` of a described batch, in the transaction that made it."""
    with connection.cursor(row_factory=dict_row) as cursor:
        cursor.execute(
            "SELECT d.version AS dataset_version, d.content_sha256, d.schema_sha256, b.batch_id AS batch,"
            " d.batches_total, b.rows, b.positives, b.sha256 AS batch_sha256, b.synthetic, b.origin, b.intervened"
            " FROM clean_data.batch_info AS b JOIN clean_data.datasets AS d ON d.version = b.dataset_version"
            " WHERE b.dataset_version = %s AND b.batch_id = %s",
            (version, batch),
        )
        event = BatchReady.model_validate(cursor.fetchone())
    envelope = new_envelope(event.EVENT_TYPE, source="ingestor", subject=f"{version}/{batch}", cause=cause)
    enqueue_sync(connection, SCHEMA, topic=BATCH_READY.name, key=str(version), event=event, envelope=envelope)


def refuse_leakage(connection: Connection, version: int) -> None:
    """The split is a function of the patient, so this cannot happen; if it ever does, nothing may be committed."""
    row = connection.execute(
        "SELECT count(*) FROM (SELECT patient_nbr FROM ("
        " SELECT patient_nbr, 1 AS split FROM clean_data.diabetes_train WHERE dataset_version = %s UNION ALL"
        " SELECT patient_nbr, 2 FROM clean_data.diabetes_validation WHERE dataset_version = %s UNION ALL"
        " SELECT patient_nbr, 3 FROM clean_data.diabetes_test WHERE dataset_version = %s"
        ") AS placed GROUP BY patient_nbr HAVING min(split) <> max(split)) AS leaked",
        (version, version, version),
    ).fetchone()
    leaked = row[0] if row else 0
    if leaked:
        raise RuntimeError(f"{leaked} patients stand in more than one split of dataset {version}")
