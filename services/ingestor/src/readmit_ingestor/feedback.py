"""Predictions whose outcome came back, as the next training batch of the newest dataset version.

A batch of feedback is one transaction, under the lock of an ingestion: rows into the split of their patient, the
leakage check, `batch_info`, `batch.ready`, and the mark on each outcome that it is used.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import psycopg
import structlog
from psycopg import sql

from readmit_chassis.process import end_if_cancelled
from readmit_contracts.encounter import COLUMNS, POSITIVE_OUTCOME, Group, Kind, schema_sha256
from readmit_contracts.encounter_sql import Layer, column_type
from readmit_features.synthetic import FIRST_SYNTHETIC_ID
from readmit_ingestor import store
from readmit_ingestor.batches import BATCH_COLUMNS, announce_batch, note_batches, read_batch, refuse_leakage
from readmit_ingestor.metrics import BATCHES_WRITTEN, FEEDBACK_BATCHES, FEEDBACK_WAITING, show_newest
from readmit_ingestor.reading import KEYS

log = structlog.get_logger()

Connection = psycopg.Connection[Any]

#: Rows of feedback carry no number of an encounter or patient, so they get numbers of their own, from here on: far
#: above those of hospitals, and below those of generated rows, which begin at 9e15.
FIRST_FEEDBACK_ID = 8_000_000_000_000_000
#: So many bits of the digest of the patient's key tell patients apart: 5.6e14 numbers, which end below 9e15.
_PATIENT_BITS = 49


class NothingMade(Exception):  # noqa: N818  named for what is the case
    """No batch can be made now; `reason` says why, in one line."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


@dataclass(frozen=True, slots=True)
class Made:
    """A batch of feedback that is committed and announced."""

    dataset_version: int
    batch: int
    rows: int
    positives: int
    intervened: int
    validation_rows: int
    test_rows: int


def make_batch(conninfo: str, rows: int, *, at_least: int = 1) -> Made:
    """Make the next batch of the newest version out of the oldest labelled predictions, and commit it. Blocks.

    It holds at most `rows` rows of train patients, and as many of the other patients as were predicted meanwhile: they
    go into the version's validation and test split. Raises `NothingMade`, where fewer than `at_least` wait too.
    """
    with psycopg.connect(conninfo) as connection:
        try:
            made = _make(connection, rows, at_least)
        except (psycopg.DataError, psycopg.IntegrityError) as error:  # its text holds the row
            where = ", ".join(filter(None, (error.diag.table_name, error.diag.column_name, error.diag.constraint_name)))
            raise RuntimeError(f"PostgreSQL refused a row of feedback: {error.sqlstate} {where}".strip()) from None
        connection.commit()  # what was found unusable is noted, even where nothing is made
        if isinstance(made, NothingMade):
            raise made
        BATCHES_WRITTEN.inc()
        FEEDBACK_BATCHES.inc()
        show_newest(*store.newest_sizes(connection))
    log.info("feedback_batch_made", dataset_version=made.dataset_version, batch=made.batch, rows=made.rows)
    return made


def _make(connection: Connection, rows: int, at_least: int) -> Made | NothingMade:
    connection.execute("SET LOCAL jit = off")
    if not _lock(connection):
        return NothingMade("an ingestion is being written; ask again when it has ended")
    newest = connection.execute(
        "SELECT version, synthetic, schema_sha256 FROM clean_data.datasets ORDER BY version DESC LIMIT 1"
    ).fetchone()
    if newest is None:
        return NothingMade("there is no dataset that a batch could be appended to; ingest one first")
    version, synthetic, schema = newest
    if schema != schema_sha256():
        return NothingMade(f"dataset {version} was cleaned by another encounter schema; ingest its source again first")
    _choose(connection, synthetic=synthetic)
    _take_torn_out(connection, version)
    _leave_for_later(connection, rows)
    waiting = _count(connection, "train")
    if waiting < max(at_least, 1):
        _note_set_aside(connection)
        return NothingMade(
            f"{waiting} labelled predictions of train patients wait, {max(at_least, 1)} are needed;"
            " GET /outcomes/summary shows what is there"
        )
    _hold(connection)
    batch = _append(connection, version)
    refuse_leakage(connection, version)
    made = _describe(connection, version, batch)
    _note_set_aside(connection)
    return made


def _lock(connection: Connection) -> bool:
    """The lock of an ingestion, if none runs: versions and batches stand still until the transaction ends."""
    row = connection.execute("SELECT pg_try_advisory_xact_lock(hashtext('clean_data.datasets'))").fetchone()
    return bool(row and row[0])


_PATIENT = sql.SQL(
    "{first} + ('x' || encode(substr(sha256(convert_to(p.patient_key, 'UTF8')), 1, 8), 'hex'))::bit({bits})::bigint"
).format(first=sql.Literal(FIRST_FEEDBACK_ID), bits=sql.Literal(_PATIENT_BITS))


def _choose(connection: Connection, *, synthetic: bool) -> None:
    """All labelled predictions that may become rows."""
    connection.execute(
        sql.SQL(
            "CREATE TEMP TABLE chosen ON COMMIT DROP AS"
            " SELECT p.prediction_id, p.seq, p.split, {patient} AS patient_nbr"
            " FROM raw_data.outcomes AS o JOIN raw_data.predictions AS p USING (prediction_id)"
            " WHERE o.used_in_version IS NULL AND o.set_aside IS NULL AND p.set_aside IS NULL AND p.synthetic = {kind}"
        ).format(patient=_PATIENT, kind=sql.Literal(synthetic))
    )


def _take_torn_out(connection: Connection, version: int) -> None:
    """A key that stands in two splits: a pod that splits otherwise, or two patients that share a number."""
    placed = sql.SQL(" UNION ").join(
        sql.SQL(
            "SELECT patient_nbr, {split} FROM clean_data.{table} WHERE dataset_version = {version}"
            " AND patient_nbr >= {first} AND patient_nbr < {end}"
        ).format(
            split=sql.Literal(split), table=sql.Identifier(f"diabetes_{split}"), version=sql.Literal(version),
            first=sql.Literal(FIRST_FEEDBACK_ID), end=sql.Literal(FIRST_SYNTHETIC_ID),
        )
        for split in ("train", "validation", "test")
    )  # fmt: skip
    connection.execute(
        sql.SQL(
            "CREATE TEMP TABLE torn ON COMMIT DROP AS SELECT c.prediction_id FROM chosen AS c JOIN ("
            " SELECT patient_nbr FROM (SELECT patient_nbr, split FROM chosen UNION {placed}) AS placed"
            " GROUP BY patient_nbr HAVING count(*) > 1) AS twice USING (patient_nbr)"
        ).format(placed=placed)
    )
    connection.execute("DELETE FROM chosen AS c USING torn AS t WHERE c.prediction_id = t.prediction_id")


def _leave_for_later(connection: Connection, rows: int) -> None:
    """A batch takes the oldest, up to its last train row: what was predicted later waits for the next one."""
    connection.execute(
        "DELETE FROM chosen WHERE seq > (SELECT seq FROM chosen WHERE split = 'train' ORDER BY seq OFFSET %s LIMIT 1)",
        (rows - 1,),
    )


def _hold(connection: Connection) -> None:
    """From here on nobody corrects these outcomes. In the order in which those who correct lock them."""
    connection.execute(
        "SELECT FROM raw_data.outcomes AS o JOIN chosen AS c USING (prediction_id) ORDER BY o.prediction_id"
        " FOR UPDATE OF o"
    )


def _count(connection: Connection, split: str) -> int:
    row = connection.execute("SELECT count(*) FROM chosen WHERE split = %s", (split,)).fetchone()
    return int(row[0]) if row else 0


_FEATURES = [column for column in COLUMNS if column.kind is not Kind.IDENTIFIER and column.group is not Group.OUTCOME]
_AS_RECORD = sql.SQL(", ").join(
    sql.SQL("{} {}").format(sql.Identifier(column.key), sql.SQL(column_type(column, Layer.MODELLED)))
    for column in _FEATURES
)
#: The cells of one row that are no features, by the key of their column.
_OWN: Mapping[str, sql.Composable] = {
    "encounter_id": sql.SQL("{} + p.seq").format(sql.Literal(FIRST_FEEDBACK_ID)),
    "patient_nbr": sql.SQL("c.patient_nbr"),
    # Whether a patient came back later than after 30 days, nobody said.
    "readmitted": sql.SQL("CASE WHEN o.readmitted THEN {} END").format(sql.Literal(POSITIVE_OUTCOME)),
}
_CELLS = sql.SQL(", ").join([*(_OWN.get(key, sql.Identifier("f", key)) for key in KEYS), sql.SQL("o.readmitted")])


def _append(connection: Connection, version: int) -> int:
    """Rows into the split of their patient. Returns the number of the batch."""
    row = connection.execute(
        "UPDATE clean_data.datasets SET batches_total = batches_total + 1 WHERE version = %s RETURNING batches_total",
        (version,),
    ).fetchone()
    assert row is not None  # noqa: S101  versions are never deleted, and the lock is ours
    batch = int(row[0])
    for split in ("train", "validation", "test"):
        extra = ", batch_id" if split == "train" else ""
        value = f", {batch}" if split == "train" else ""
        connection.execute(
            sql.SQL(
                "INSERT INTO clean_data.{table} (dataset_version, {columns}, intervened{extra})"
                " SELECT {version}, {cells}, o.intervened{value} FROM chosen AS c"
                " JOIN raw_data.outcomes AS o USING (prediction_id)"
                " JOIN raw_data.predictions AS p USING (prediction_id), jsonb_to_record(p.features) AS f ({record})"
                " WHERE c.split = {split} ORDER BY p.seq"
            ).format(
                table=sql.Identifier(f"diabetes_{split}"), columns=BATCH_COLUMNS, extra=sql.SQL(extra),
                version=sql.Literal(version), cells=_CELLS, value=sql.SQL(value), record=_AS_RECORD,
                split=sql.Literal(split),
            )
        )  # fmt: skip
    return batch


def _describe(connection: Connection, version: int, batch: int) -> Made:
    """`batch_info`, the mark on what is used, and the announcement."""
    row = connection.execute(
        "SELECT count(*) FILTER (WHERE intervened) FROM clean_data.diabetes_train"
        " WHERE dataset_version = %s AND batch_id = %s",
        (version, batch),
    ).fetchone()
    intervened = int(row[0]) if row else 0
    described = read_batch(connection, version, batch)
    note_batches(connection, version, [described], origin="feedback", intervened=intervened)
    connection.execute(
        "UPDATE raw_data.outcomes AS o SET used_in_version = %s, used_in_batch = %s FROM chosen AS c"
        " WHERE o.prediction_id = c.prediction_id",
        (version, batch),
    )
    announce_batch(connection, version, batch, None)
    held_out = {split: _count(connection, split) for split in ("validation", "test")}
    return Made(
        version, batch, described.rows, described.positives, intervened, held_out["validation"], held_out["test"]
    )


def _note_set_aside(connection: Connection) -> None:
    """What can never be used need not be looked at again."""
    # One that is being corrected just now is noted the next time: who corrects may be waiting for this transaction.
    connection.execute(
        "WITH aside AS (SELECT o.prediction_id, coalesce(p.set_aside, 'two_splits') AS reason"
        "  FROM raw_data.outcomes AS o JOIN raw_data.predictions AS p USING (prediction_id)"
        "  WHERE o.used_in_version IS NULL AND o.set_aside IS NULL"
        "  AND (p.set_aside IS NOT NULL OR p.prediction_id IN (SELECT prediction_id FROM torn))"
        "  FOR UPDATE OF o SKIP LOCKED)"
        " UPDATE raw_data.outcomes AS o SET set_aside = aside.reason FROM aside"
        " WHERE o.prediction_id = aside.prediction_id"
    )


_WAITING = (
    "SELECT count(*) FROM raw_data.outcomes AS o JOIN raw_data.predictions AS p USING (prediction_id)"
    " WHERE o.used_in_version IS NULL AND o.set_aside IS NULL AND p.set_aside IS NULL AND p.split = 'train'"
    " AND p.synthetic = (SELECT synthetic FROM clean_data.datasets ORDER BY version DESC LIMIT 1)"
)


class FeedbackWatch:
    """Makes a batch whenever `rows` labelled predictions of train patients wait. One replica watches at a time."""

    def __init__(self, conninfo: str, rows: int, poll_s: float = 10.0) -> None:
        self._conninfo = conninfo
        self._rows = rows
        self._poll_s = poll_s

    async def run(self) -> None:
        """Watch until cancelled; an outage of the database is waited out."""
        while True:
            try:
                await self._session()
            except psycopg.OperationalError as error:
                log.warning("feedback_interrupted", error=str(error).strip())
                await asyncio.sleep(1.0)

    async def _session(self) -> None:
        async with await psycopg.AsyncConnection.connect(self._conninfo, autocommit=True) as connection:
            await connection.execute("SELECT pg_advisory_lock(hashtext('raw_data.feedback'))")
            await connection.execute("LISTEN raw_data_outcomes")
            while True:
                end_if_cancelled()
                began_s = time.monotonic()
                if not await self._make_if_enough(connection):
                    # Outcomes may come one by one: counting them takes a tenth of the time at most.
                    await asyncio.sleep(10 * (time.monotonic() - began_s))
                    async for _ in connection.notifies(timeout=self._poll_s, stop_after=1):
                        pass

    async def _make_if_enough(self, connection: psycopg.AsyncConnection[Any]) -> bool:
        row = await (await connection.execute(_WAITING)).fetchone()
        waiting = row[0] if row else 0
        FEEDBACK_WAITING.set(waiting)
        if waiting < self._rows:
            return False
        try:
            await asyncio.to_thread(make_batch, self._conninfo, self._rows, at_least=self._rows)
        except NothingMade as nothing:
            log.info("feedback_waits", reason=nothing.reason)
            return False
        return True
