"""The S3 store, made after the start: its library takes half a second to import, and a cached model needs no store."""

from __future__ import annotations

import threading

from readmit_chassis.s3 import S3Store
from readmit_chassis.settings import S3Settings


class LateStore:
    """Reads objects as `S3Store` does. Thread-safe."""

    def __init__(self, settings: S3Settings) -> None:
        self._settings = settings
        self._store: S3Store | None = None
        self._opening = threading.Lock()

    def open(self) -> S3Store:
        """The store itself; blocks the first time. Raises ValueError for an endpoint that is not an address."""
        with self._opening:
            if self._store is None:
                self._store = S3Store(self._settings)
            return self._store

    def get(self, uri: str) -> bytes:
        """Read all of it. Raises `ObjectMissing`, `StoreUnavailable`."""
        return self.open().get(uri)
