"""A file that may change while we run: read again when it does, and kept as it was where the new one is no good."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path

import structlog

from readmit_chassis import metrics

log = structlog.get_logger()

_LOOK_S = 1.0
_Signature = tuple[int, int, int]


class Unusable(Exception):  # noqa: N818  named for what is the case
    """The file can't be used, and the message says why without quoting it: it may hold what nobody should see."""


class WatchedFile:
    """Gives the bytes of a file to `take`, which raises `Unusable` for what it does not want."""

    def __init__(self, path: Path, take: Callable[[bytes], None], source: str) -> None:
        """`source` is the metrics' label."""
        self._path = path
        self._take = take
        self._source = source
        self._seen: _Signature | None = None

    def read(self) -> None:
        """Once, at start. Blocks. Raises `Unusable`, also where there is no such file."""
        self._seen = self._signature()
        self._take(self._bytes())
        metrics.ACCESS_READS.labels(self._source, "used").inc()
        metrics.ACCESS_STALE.labels(self._source).set(0)

    async def watch(self, look_s: float = _LOOK_S) -> None:
        """Runs until cancelled."""
        while True:
            await asyncio.sleep(look_s)
            try:
                signature = await asyncio.to_thread(self._signature)
            except Unusable as unusable:
                if self._seen is not None:  # it was there: say so once
                    self._seen = None
                    self._refuse(unusable)
                continue
            if signature == self._seen:
                continue
            self._seen = signature  # taken before the bytes: what is written meanwhile is another change
            try:
                content = await asyncio.to_thread(self._bytes)
                self._take(content)
            except Unusable as unusable:
                self._refuse(unusable)
            else:
                metrics.ACCESS_READS.labels(self._source, "used").inc()
                metrics.ACCESS_STALE.labels(self._source).set(0)
                log.info("access_file_read", source=self._source, path=str(self._path))

    def _refuse(self, unusable: Unusable) -> None:
        metrics.ACCESS_READS.labels(self._source, "refused").inc()
        metrics.ACCESS_STALE.labels(self._source).set(1)
        log.error("access_file_refused", source=self._source, path=str(self._path), reason=str(unusable))

    def _signature(self) -> _Signature:
        try:
            found = self._path.stat()
        except OSError as error:
            raise Unusable(f"{self._path}: {error.strerror}") from error
        return found.st_mtime_ns, found.st_ino, found.st_size

    def _bytes(self) -> bytes:
        try:
            return self._path.read_bytes()
        except OSError as error:
            raise Unusable(f"{self._path}: {error.strerror}") from error
