"""A version once more with its corrected rows in it: the source `quarantine:VERSION`."""

from __future__ import annotations

import io
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from typing import Any, cast

import psycopg
from psycopg import IsolationLevel, sql

from readmit_ingestor.errors import SourceFault
from readmit_ingestor.reading import KEYS
from readmit_ingestor.sources import Opened, Part

_SOURCE = re.compile(r"quarantine:([1-9][0-9]{0,8})")


@dataclass(frozen=True, slots=True)
class Replay:
    """Which version, and which of its corrected rows as of when: one that is corrected later waits for the next."""

    version: int
    rows: list[int]
    changed_at: list[datetime]


def replayed_version(source: str) -> int | None:
    """The version that a source `quarantine:VERSION` replays; None for any other source."""
    match = _SOURCE.fullmatch(source)
    return int(match[1]) if match else None


@contextmanager
def open_replay(conninfo: str, version: int) -> Iterator[tuple[Opened, Replay]]:
    """The raw rows of a version as CSV: those that were good, and all that were corrected, in the order of the source.

    Raises `SourceFault` where nothing waits to be replayed.
    """
    with psycopg.connect(conninfo) as connection:
        connection.isolation_level = IsolationLevel.REPEATABLE_READ
        dataset = connection.execute(
            "SELECT synthetic FROM clean_data.datasets WHERE version = %s", (version,)
        ).fetchone()
        if dataset is None:
            raise SourceFault("source_not_found", f"quarantine:{version}: no such dataset; GET /datasets lists them")
        waiting = connection.execute(
            "SELECT id, changed_at FROM raw_data.quarantine WHERE dataset_version = %s AND status = 'corrected'",
            (version,),
        ).fetchall()
        if not waiting:
            raise SourceFault(
                "nothing_to_replay",
                f"quarantine:{version}: no row of it has been corrected since the last replay; correct some first",
            )
        with connection.cursor() as cursor, cursor.copy(_rows_of(version)) as copy:
            stream = cast("Any", io.BufferedReader(_Blocks(copy)))
            opened = Opened(iter([Part(f"quarantine:{version}", stream, "csv", None)]), bool(dataset[0]))
            yield opened, Replay(version, [row[0] for row in waiting], [row[1] for row in waiting])


def mark_replayed(connection: psycopg.Connection[Any], replay: Replay, version: int) -> None:
    """Note in the caller's transaction where the rows stand now."""
    connection.execute(
        "UPDATE raw_data.quarantine AS q SET status = 'replayed', replayed_in = %s"
        " FROM unnest(%s::bigint[], %s::timestamptz[]) AS taken (id, changed_at)"
        " WHERE q.id = taken.id AND q.changed_at = taken.changed_at AND q.status = 'corrected'",
        (version, replay.rows, replay.changed_at),
    )


def _rows_of(version: int) -> sql.Composed:
    good = sql.SQL(", ").join(sql.Identifier("d", key) for key in KEYS)
    corrected = sql.SQL(", ").join(sql.SQL("q.corrected ->> {}").format(sql.Literal(key)) for key in KEYS)
    # An empty text would be written in quotes.
    shown = sql.SQL(", ").join(sql.SQL("nullif({0}, '') AS {0}").format(sql.Identifier(key)) for key in KEYS)
    return sql.SQL(
        "COPY (SELECT {shown} FROM ("
        " SELECT d.line, {good} FROM raw_data.diabetes AS d WHERE d.dataset_version = {version} AND NOT EXISTS ("
        "  SELECT FROM raw_data.quarantine AS q WHERE q.dataset_version = {version} AND q.line = d.line)"
        " UNION ALL SELECT q.line, {corrected} FROM raw_data.quarantine AS q"
        "  WHERE q.dataset_version = {version} AND q.status IN ('corrected', 'replayed')"
        ") AS source (line, {columns}) ORDER BY line) TO STDOUT (FORMAT csv, HEADER)"
    ).format(
        shown=shown, good=good, corrected=corrected, version=sql.Literal(version),
        columns=sql.SQL(", ").join(map(sql.Identifier, KEYS)),
    )  # fmt: skip


class _Blocks(io.RawIOBase):
    """Blocks of a COPY as a stream."""

    def __init__(self, copy: psycopg.Copy) -> None:
        self._copy = copy
        self._rest = b""

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        if not self._rest:
            self._rest = bytes(self._copy.read())
        taken, self._rest = self._rest[: len(buffer)], self._rest[len(buffer) :]
        buffer[: len(taken)] = taken
        return len(taken)
