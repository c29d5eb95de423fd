"""Reading what the ingestor committed, with the trainer's own role: training batches and validation, never test."""

from __future__ import annotations

import hashlib
import io
from typing import Any

import pandas as pd
import psycopg
from psycopg import sql

from readmit_contracts.encounter import BY_KEY, FEATURE_COLUMNS
from readmit_contracts.events import BatchReady
from readmit_trainer.errors import BadTrainingData

LABEL = "readmitted_30d"
_COLUMNS = ("encounter_id", "patient_nbr", *(column.key for column in FEATURE_COLUMNS), LABEL)
_DTYPES = {key: "Int64" if BY_KEY[key].is_number else "str" for key in _COLUMNS if key != LABEL}


class Reader:
    """Remembers the batches of one dataset version, since batch k is trained on batches 1..k."""

    def __init__(self, conninfo: str, sample_fraction: float) -> None:
        self._conninfo = conninfo
        self._sample_fraction = sample_fraction
        self._content = ""
        self._batches_total = 0
        self._train: dict[str, pd.DataFrame] = {}
        self._validation: pd.DataFrame | None = None

    def train(self, event: BatchReady) -> tuple[pd.DataFrame, tuple[str, ...]]:
        """Rows of batches 1..k in order, and the digests of those batches.

        Raises BadTrainingData when they are not what the event announced.
        """
        self._forget_others(event)
        with psycopg.connect(self._conninfo) as connection:
            rows = connection.execute(
                "SELECT batch_id, sha256, rows FROM clean_data.batch_info"
                " WHERE dataset_version = %s AND batch_id <= %s ORDER BY batch_id",
                (event.dataset_version, event.batch),
            ).fetchall()
            if [row[0] for row in rows] != list(range(1, event.batch + 1)) or rows[-1][1] != event.batch_sha256:
                raise BadTrainingData(f"batches 1..{event.batch} of dataset {event.dataset_version} are not there")
            for batch, digest, expected in rows:
                if digest not in self._train:
                    frame = _read(connection, "diabetes_train", event.dataset_version, batch)
                    if len(frame) != expected:
                        raise BadTrainingData(f"batch {batch} has {len(frame)} rows, {expected} announced")
                    self._train[digest] = frame
        digests = tuple(row[1] for row in rows)
        frame = pd.concat([self._train[digest] for digest in digests], ignore_index=True)
        if self._sample_fraction < 1:
            frame = frame[frame["patient_nbr"].map(_share) < self._sample_fraction].reset_index(drop=True)
        return _with_both_classes(frame, "training"), digests

    def validation(self, event: BatchReady) -> pd.DataFrame:
        """The validation split of the event's dataset version."""
        self._forget_others(event)
        if self._validation is None:
            with psycopg.connect(self._conninfo) as connection:
                frame = _read(connection, "diabetes_validation", event.dataset_version, None)
            self._validation = _with_both_classes(frame, "validation")
        return self._validation

    def _forget_others(self, event: BatchReady) -> None:
        if event.content_sha256 != self._content:
            self._content = event.content_sha256
            self._train.clear()
            self._validation = None
        if event.batches_total != self._batches_total:  # a batch of feedback brings held-out rows too
            self._batches_total = event.batches_total
            self._validation = None


def _read(connection: psycopg.Connection[Any], table: str, version: int, batch: int | None) -> pd.DataFrame:
    query = sql.SQL("COPY (SELECT {} FROM {} WHERE dataset_version = {}{} ORDER BY encounter_id) TO STDOUT CSV").format(
        sql.SQL(", ").join(map(sql.Identifier, _COLUMNS)),
        sql.Identifier("clean_data", table),
        sql.Literal(version),
        sql.SQL("") if batch is None else sql.SQL(" AND batch_id = {}").format(sql.Literal(batch)),
    )
    buffer = io.BytesIO()
    with connection.cursor() as cursor, cursor.copy(query) as copy:
        for block in copy:
            buffer.write(block)
    buffer.seek(0)
    frame = pd.read_csv(
        buffer, header=None, names=list(_COLUMNS), dtype={**_DTYPES, LABEL: "str"}, keep_default_na=False,
        na_values=[""],
    )  # fmt: skip
    frame[LABEL] = frame[LABEL] == "t"
    return frame


def _with_both_classes(frame: pd.DataFrame, split: str) -> pd.DataFrame:
    if frame[LABEL].nunique() < 2:
        raise BadTrainingData(f"the {split} rows hold readmissions only, or none ({len(frame)} rows)")
    return frame


def _share(patient: int) -> float:
    """A number in [0, 1) that is always the same for a patient."""
    return (
        int.from_bytes(hashlib.blake2b(str(patient).encode(), digest_size=8, person=b"readmit-sample").digest()) / 2**64
    )
