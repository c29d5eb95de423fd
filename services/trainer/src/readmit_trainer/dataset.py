"""Reading what the ingestor committed, with the trainer's own role: training batches and validation, never test."""

from __future__ import annotations

import hashlib
import io
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import pandas as pd
import psycopg
from psycopg import sql

from readmit_contracts.encounter import BY_KEY, COLUMNS, FEATURE_COLUMNS
from readmit_contracts.events import BatchReady
from readmit_features.history import READ, with_history
from readmit_features.spec import AUDITED
from readmit_trainer.errors import BadTrainingData

LABEL = "readmitted_30d"
#: The cells of a clean row, in the order in which a batch's digest covers them.
_CELLS = (*(column.key for column in COLUMNS), LABEL)
_COLUMNS = ("encounter_id", "patient_nbr", AUDITED, *(column.key for column in FEATURE_COLUMNS), LABEL)
_DTYPES = {key: "Int64" if BY_KEY[key].is_number else "str" for key in _COLUMNS if key != LABEL}


@dataclass(frozen=True, slots=True)
class Training:
    """Training rows with their patients' history, the batches that they are of, and the digests of batches 1..k.

    `committed_at`: when the ingestor committed the last of them.
    """

    frame: pd.DataFrame
    first_batch: int
    digests: tuple[str, ...]
    committed_at: datetime | None = None


class Reader:
    """Remembers the batches of one dataset version, since batch k is trained on batches 1..k.

    With a window of n batches only the last n are trained on; of older ones the columns stay that history is made of.
    """

    def __init__(self, conninfo: str, sample_fraction: float = 1.0, window: int | None = None) -> None:
        self._conninfo = conninfo
        self._sample_fraction = sample_fraction
        self._window = window
        self._content = ""
        self._batches_total = 0
        self._train: dict[str, pd.DataFrame] = {}
        self._validation: pd.DataFrame | None = None

    def train(self, event: BatchReady, after: int = 0) -> Training:
        """Rows of batches 1..k in order, or of the window's; with `after`, of the batches after that one.

        Raises BadTrainingData when they are not what the event announced, or not what their digests say.
        """
        oldest = max(1, event.batch - self._window + 1) if self._window else 1
        first = after + 1 if after else oldest
        self._forget_others(event)
        with psycopg.connect(self._conninfo) as connection:
            rows = connection.execute(
                "SELECT batch_id, sha256, rows, created_at FROM clean_data.batch_info"
                " WHERE dataset_version = %s AND batch_id <= %s ORDER BY batch_id",
                (event.dataset_version, event.batch),
            ).fetchall()
            if [row[0] for row in rows] != list(range(1, event.batch + 1)) or rows[-1][1] != event.batch_sha256:
                raise BadTrainingData(
                    f"batches 1..{event.batch} of dataset {event.dataset_version} are not there", "digest_mismatch"
                )
            for batch, digest, expected, _ in rows:
                known = self._train.get(digest)
                if known is None or (batch >= first and len(known.columns) < len(_COLUMNS)):
                    self._train[digest] = _read_batch(connection, event.dataset_version, batch, digest, expected)
        digests = tuple(row[1] for row in rows)
        for digest in digests[: min(oldest, first) - 1]:
            self._train[digest] = self._train[digest][list(READ)]
        older = [self._train[digest][list(READ)] for digest in digests[: first - 1]]
        frame = pd.concat([self._train[digest] for digest in digests[first - 1 :]], ignore_index=True)
        frame = with_history(frame, pd.concat(older, ignore_index=True) if older else None)
        if self._sample_fraction < 1:
            frame = frame[frame["patient_nbr"].map(_share) < self._sample_fraction].reset_index(drop=True)
        return Training(_with_both_classes(frame, "training"), first, digests, rows[-1][3])

    def validation(self, event: BatchReady) -> pd.DataFrame:
        """The validation split of the event's dataset version, with history."""
        self._forget_others(event)
        if self._validation is None:
            with psycopg.connect(self._conninfo) as connection:
                frame, _ = _read(connection, "diabetes_validation", event.dataset_version, None)
            self._validation = with_history(_with_both_classes(frame, "validation"))
        return self._validation

    def _forget_others(self, event: BatchReady) -> None:
        if event.content_sha256 != self._content:
            self._content = event.content_sha256
            self._train.clear()
            self._validation = None
        if event.batches_total != self._batches_total:  # a batch of feedback brings held-out rows too
            self._batches_total = event.batches_total
            self._validation = None


def _read_batch(
    connection: psycopg.Connection[Any], version: int, batch: int, announced: str, rows: int
) -> pd.DataFrame:
    frame, digest = _read(connection, "diabetes_train", version, batch)
    if len(frame) != rows:
        raise BadTrainingData(f"batch {batch} has {len(frame)} rows, {rows} announced", "digest_mismatch")
    if digest != announced:
        raise BadTrainingData(
            f"batch {batch} of dataset {version} has the digest {digest}, {announced} was announced: its rows have"
            " been changed; ingest the source again",
            "digest_mismatch",
        )
    return frame


def _read(connection: psycopg.Connection[Any], table: str, version: int, batch: int | None) -> tuple[pd.DataFrame, str]:
    """Rows in encounter order, and the digest of their cells as PostgreSQL prints them as CSV."""
    query = sql.SQL(
        "COPY (SELECT {} FROM {} WHERE dataset_version = {}{} ORDER BY encounter_id) TO STDOUT (FORMAT csv)"
    ).format(
        sql.SQL(", ").join(map(sql.Identifier, _CELLS)),
        sql.Identifier("clean_data", table),
        sql.Literal(version),
        sql.SQL("") if batch is None else sql.SQL(" AND batch_id = {}").format(sql.Literal(batch)),
    )
    buffer = io.BytesIO()
    try:
        with connection.cursor() as cursor, cursor.copy(query) as copy:
            for block in copy:
                buffer.write(block)
    except psycopg.errors.UndefinedColumn as error:
        raise BadTrainingData(
            f"clean_data.{table} lacks a column ({str(error).splitlines()[0]}): let the ingestor of this release"
            " migrate the database",
            "missing_column",
        ) from error
    digest = hashlib.sha256(buffer.getbuffer()).hexdigest()
    buffer.seek(0)
    frame = pd.read_csv(
        buffer, header=None, names=list(_CELLS), usecols=list(_COLUMNS), dtype={**_DTYPES, LABEL: "str"},
        keep_default_na=False, na_values=[""],
    )  # fmt: skip
    frame[LABEL] = frame[LABEL] == "t"
    return frame, digest


def _with_both_classes(frame: pd.DataFrame, split: str) -> pd.DataFrame:
    if frame[LABEL].nunique() < 2:
        raise BadTrainingData(f"the {split} rows hold readmissions only, or none ({len(frame)} rows)", "one_class")
    return frame


def _share(patient: int) -> float:
    """A number in [0, 1) that is always the same for a patient."""
    return (
        int.from_bytes(hashlib.blake2b(str(patient).encode(), digest_size=8, person=b"readmit-sample").digest()) / 2**64
    )
