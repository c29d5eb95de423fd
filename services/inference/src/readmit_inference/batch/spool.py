"""Answers on their way out: a client that sends all before it reads must not stop us, nor fill our memory."""

from __future__ import annotations

import asyncio
import os
import tempfile
from collections import deque
from pathlib import Path
from typing import IO

#: Bytes read from the file at once.
_PIECE = 256 * 1024


class Spool:
    """Bytes in order from one writer to one reader; beyond `keep_bytes` they wait in a file without a name."""

    def __init__(self, folder: Path, keep_bytes: int = 1 << 20) -> None:
        self._folder = folder
        self._keep_bytes = keep_bytes
        self._kept: deque[bytes] = deque()
        self._kept_bytes = 0
        self._file: IO[bytes] | None = None
        self._written = self._read = 0
        self._ended = False
        self._news = asyncio.Event()

    async def put(self, data: bytes) -> None:
        """Never waits for the reader. Raises OSError when the disk is full."""
        if self._written == self._read and self._kept_bytes + len(data) <= self._keep_bytes:
            self._kept.append(data)
            self._kept_bytes += len(data)
        else:
            await asyncio.to_thread(self._write, data)
        self._news.set()

    def end(self) -> None:
        """Nothing more comes."""
        self._ended = True
        self._news.set()

    async def get(self) -> bytes | None:
        """What comes next, as soon as there is any; None at the end."""
        while True:
            if self._kept:
                data = self._kept.popleft()
                self._kept_bytes -= len(data)
                return data
            if self._read < self._written:
                return await asyncio.to_thread(self._read_on)
            if self._ended:
                return None
            self._news.clear()
            await self._news.wait()

    def close(self) -> None:
        """Forget what is left."""
        if self._file is not None:
            self._file.close()

    # By position, since a write and a read may be under way at once.
    def _write(self, data: bytes) -> None:
        if self._file is None:
            self._folder.mkdir(parents=True, exist_ok=True)
            self._file = tempfile.TemporaryFile(dir=self._folder)  # noqa: SIM115  closed in `close`
        rest = memoryview(data)
        while rest:
            written = os.pwrite(self._file.fileno(), rest, self._written)
            self._written += written
            rest = rest[written:]

    def _read_on(self) -> bytes:
        if self._file is None:
            raise RuntimeError("nothing was written")
        data = os.pread(self._file.fileno(), min(self._written - self._read, _PIECE), self._read)
        self._read += len(data)
        return data
