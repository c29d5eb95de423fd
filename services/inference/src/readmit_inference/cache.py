"""The last verified bundle and its promotion on local disk, so that a restarted pod answers with Kafka and S3 down."""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path

from pydantic import ValidationError

from readmit_bundle import Bundle, BundleRefused, read_bundle
from readmit_contracts.events import ModelPromoted


class BundleCache:
    """One folder: `champion.json` (the promotion) and `<sha256>/<file>` (its bundle). Calls block.

    A folder is complete before the file that names it is replaced: a crash leaves the former champion or the new one.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._champion = folder / "champion.json"

    def write(self, promoted: ModelPromoted, bundle: Bundle) -> None:
        """Keep this bundle instead of the former one. Raises OSError."""
        self._folder.mkdir(parents=True, exist_ok=True)
        target = self._folder / promoted.bundle.sha256
        if self._read_verified(promoted) is None:
            staging = Path(tempfile.mkdtemp(dir=self._folder, prefix="incoming-"))
            for name, content in bundle.files.items():
                _write_through(staging / name, content)
            shutil.rmtree(target, ignore_errors=True)
            staging.rename(target)
        incoming = self._champion.with_suffix(".incoming")
        _write_through(incoming, promoted.model_dump_json().encode())
        incoming.replace(self._champion)
        for entry in self._folder.iterdir():
            if entry.is_dir() and entry != target:
                shutil.rmtree(entry, ignore_errors=True)

    def read(self) -> tuple[ModelPromoted, Bundle] | None:
        """What was kept, its digest verified again; None when there is nothing usable."""
        try:
            promoted = ModelPromoted.model_validate_json(self._champion.read_bytes())
        except (OSError, ValidationError):
            return None
        bundle = self._read_verified(promoted)
        return None if bundle is None else (promoted, bundle)

    def _read_verified(self, promoted: ModelPromoted) -> Bundle | None:
        folder = self._folder / promoted.bundle.sha256

        def get(uri: str) -> bytes:
            return (folder / uri.rpartition("/")[2]).read_bytes()

        try:
            return read_bundle(get, promoted.bundle)
        except (OSError, BundleRefused):
            return None


def _write_through(path: Path, content: bytes) -> None:
    with path.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
