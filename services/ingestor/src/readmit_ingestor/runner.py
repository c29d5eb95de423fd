"""Runs requested ingestions, one after the other, in a thread beside the event loop.

The session's advisory lock makes one replica the runner. A request that was `running` when its runner was killed is
simply run again: nothing of it was committed.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any
from uuid import UUID

import psycopg
import structlog
from psycopg.types.json import Jsonb

from readmit_chassis.envelope import Envelope
from readmit_chassis.tracing import span
from readmit_ingestor import store
from readmit_ingestor.addresses import shown
from readmit_ingestor.batches import Connection
from readmit_ingestor.errors import SourceFault
from readmit_ingestor.ingestion import Asked, Ingested, Progress, Rules, ingest, most_frequent
from readmit_ingestor.metrics import (
    BATCHES_WRITTEN,
    CHANGES,
    INGESTIONS,
    LAST_INGESTION,
    QUARANTINED_ROWS,
    ROWS,
    RUNNING,
    SECONDS,
    show_newest,
)
from readmit_ingestor.reading import Reader
from readmit_ingestor.replay import Replay, open_replay, replayed_version
from readmit_ingestor.sources import OnBytes, Opened, Places, open_source

log = structlog.get_logger()

_NOTE_EVERY_S = 0.2
#: A source that kills the process must not keep the others from being ingested for ever.
_MAX_ATTEMPTS = 3


@dataclass(frozen=True, slots=True)
class Runner:
    """Everything an ingestion needs to know about its surroundings."""

    conninfo: str
    places: Places
    batch_rows: int
    max_bad_share: float

    async def run(self) -> None:
        """Run requests until cancelled; an outage of the database is waited out."""
        while True:
            stopping = threading.Event()
            try:
                await self._in_thread(stopping)
            except psycopg.OperationalError as error:
                log.warning("ingestion_interrupted", error=str(error).strip())
                await asyncio.sleep(1.0)
            finally:
                stopping.set()

    async def _in_thread(self, stopping: threading.Event) -> None:
        ended = asyncio.get_running_loop().create_future()

        def work() -> None:
            outcome: BaseException | None = None
            try:
                self._session(stopping)
            except BaseException as error:  # noqa: BLE001  handed over to the event loop, which decides
                outcome = error
            with contextlib.suppress(RuntimeError):  # the loop is closed: the process is ending anyway
                ended.get_loop().call_soon_threadsafe(_settle, ended, outcome)

        # A daemon: an ingestion in progress does not hold up the end of the process, it will be run again.
        threading.Thread(target=work, name="ingestion", daemon=True).start()
        await ended

    def _session(self, stopping: threading.Event) -> None:
        with psycopg.connect(self.conninfo, autocommit=True) as connection:
            connection.execute("LISTEN raw_data_ingestions")
            show_newest(*store.newest_sizes(connection))
            while not stopping.is_set():
                if self._is_the_runner(connection) and (claimed := store.claim(connection)):
                    self.run_one(connection, claimed)
                else:
                    for _ in connection.notifies(timeout=1.0, stop_after=1):
                        pass

    @staticmethod
    def _is_the_runner(connection: psycopg.Connection[Any]) -> bool:
        """Whether this session holds the runner's lock; it goes with the session."""
        row = connection.execute(
            "SELECT EXISTS (SELECT FROM pg_locks WHERE locktype = 'advisory' AND pid = pg_backend_pid())"
            " OR pg_try_advisory_lock(hashtext('raw_data.ingestions'))"
        ).fetchone()
        return bool(row and row[0])

    def run_one(self, notes: psycopg.Connection[Any], claimed: store.Row) -> None:
        """Run one request to its end. `notes` is an autocommit connection on which progress is shown."""
        request_id: UUID = claimed["request_id"]
        started = time.monotonic()
        cause = Envelope.from_headers(claimed["headers"]) if claimed["headers"] else None
        with span("ingestion", cause.traceparent if cause else None, request_id=str(request_id)):
            self._run(notes, claimed, cause, started)

    def _run(self, notes: psycopg.Connection[Any], claimed: store.Row, cause: Envelope | None, started: float) -> None:
        request_id: UUID = claimed["request_id"]
        log.info("ingestion_started", request_id=str(request_id))
        RUNNING.set(1)
        try:
            _refuse_a_killer(claimed["source"], claimed["attempts"])
            ended = self._ingest(notes, claimed, cause)
        except SourceFault as fault:
            store.finish(notes, request_id, "failed", error_code=fault.code, error_message=fault.message)
            INGESTIONS.labels("failed").inc()
            log.warning("ingestion_failed", request_id=str(request_id), code=fault.code, reason=fault.message)
        else:
            if ended:
                SECONDS.observe(time.monotonic() - started)
                log.info("ingestion_ended", request_id=str(request_id), seconds=round(time.monotonic() - started, 2))
            else:
                log.warning("ingestion_came_late", request_id=str(request_id))
        finally:
            RUNNING.set(0)

    def _ingest(self, notes: psycopg.Connection[Any], claimed: store.Row, cause: Envelope | None) -> bool:
        """False, and nothing committed, when the request had ended meanwhile: another runner took it up."""
        request_id: UUID = claimed["request_id"]
        source: str = claimed["source"]
        noted = _Shown(notes, request_id)
        self.places.cache_dir.mkdir(parents=True, exist_ok=True)
        rules = Rules(
            self.batch_rows, self.max_bad_share, claimed["batch_order"], self.places.cache_dir, noted.progress
        )
        with self._open(source, noted.bytes) as (opened, replay), psycopg.connect(self.conninfo) as connection:
            asked = Asked(shown(source), opened.synthetic, request_id, replay, cause)
            done = _ingest_quietly(connection, Reader(opened.parts, shown(source)), asked, rules)
            if done.unchanged:
                connection.rollback()
            counts = noted.counts()
            ended = store.finish(
                connection, request_id, "unchanged" if done.unchanged else "done",
                dataset_version=done.dataset_version, synthetic=done.synthetic, **counts, **noted.reasons(),
            )  # fmt: skip
            if not ended:
                connection.rollback()
                return False
            with span("commit"):
                connection.commit()
        INGESTIONS.labels("unchanged" if done.unchanged else "done").inc()
        LAST_INGESTION.set_to_current_time()
        if not done.unchanged:
            show_newest(*store.newest_sizes(notes))
            BATCHES_WRITTEN.inc(counts["batches_written"])
            ROWS.labels("read").inc(counts["rows_read"])
            ROWS.labels("quarantined").inc(counts["rows_quarantined"])
            ROWS.labels("excluded").inc(counts["rows_excluded"])
            noted.count()
        return True

    @contextlib.contextmanager
    def _open(self, source: str, on_bytes: OnBytes) -> Iterator[tuple[Opened, Replay | None]]:
        version = replayed_version(source)
        if version is None:
            with open_source(source, self.places, on_bytes) as opened:
                yield opened, None
        else:
            with open_replay(self.conninfo, version) as replayed:
                yield replayed


def _ingest_quietly(connection: Connection, reader: Reader, asked: Asked, rules: Rules) -> Ingested:
    """`ingest`, but what PostgreSQL refuses is told without the row, which its messages hold and logs must not."""
    try:
        return ingest(connection, reader, asked, rules)
    except OSError as error:
        raise SourceFault(
            "source_not_found", f"{asked.source}: cannot be read to its end ({error.strerror}); try again"
        ) from error
    except (psycopg.DataError, psycopg.IntegrityError) as error:
        where = ", ".join(filter(None, (error.diag.table_name, error.diag.column_name, error.diag.constraint_name)))
        raise RuntimeError(f"PostgreSQL refused a row: {error.sqlstate} {where}".strip()) from None


def _refuse_a_killer(source: str, attempts: int) -> None:
    if attempts > _MAX_ATTEMPTS:
        raise SourceFault("gave_up", f"{shown(source)}: the ingestor died {_MAX_ATTEMPTS} times on it; see its log")


class _Shown:
    """Writes progress into the request's row, a few times a second at most."""

    def __init__(self, connection: psycopg.Connection[Any], request_id: UUID) -> None:
        self._connection = connection
        self._request_id = request_id
        self._last = 0.0
        self._stage = ""
        self._progress = Progress()

    def counts(self) -> dict[str, int]:
        seen = self._progress
        return {
            "rows_read": seen.rows_read,
            "rows_total": seen.rows_read,
            "rows_quarantined": seen.rows_quarantined,
            "rows_excluded": seen.rows_excluded,
            "batches_written": seen.batches_written,
        }

    def count(self) -> None:
        """Add what was found to the metrics, once it is committed."""
        for reason, rows in self._progress.quarantined_by.items():
            QUARANTINED_ROWS.labels(reason.partition(":")[0]).inc(rows)
        for change, cells in self._progress.changes.items():
            CHANGES.labels(change.partition(": ")[2]).inc(cells)

    def reasons(self) -> dict[str, Jsonb]:
        seen = self._progress
        return {
            "quarantined_by": Jsonb(most_frequent(seen.quarantined_by)),
            "changes": Jsonb(dict(seen.changes.most_common())),
        }

    def bytes(self, done: int, total: int | None) -> None:
        self._note("downloading", bytes_done=done, bytes_total=total)

    def progress(self, progress: Progress) -> None:
        self._progress = progress
        # The total is known only at the end, and batches are there only once they are committed.
        unknown = {"rows_total", "batches_written"}
        known = {name: count for name, count in self.counts().items() if name not in unknown}
        self._note(progress.stage, bytes_done=progress.bytes_read, bytes_total=progress.bytes_total, **known)

    def _note(self, stage: str, **state: object) -> None:
        now = time.monotonic()
        if stage == self._stage and now - self._last < _NOTE_EVERY_S:
            return
        self._last, self._stage = now, stage
        store.note(self._connection, self._request_id, stage=stage, **state)


def _settle(ended: asyncio.Future[None], outcome: BaseException | None) -> None:
    if ended.done():
        return
    if outcome is None:
        ended.set_result(None)
    else:
        ended.set_exception(outcome)
