"""The last verified bundle, its promotion and the bundle before it, on local disk.

A restarted pod answers with Kafka and S3 down, and can go back with S3 down.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path

from pydantic import ValidationError

from readmit_bundle import Bundle, BundleRefused, read_bundle
from readmit_contracts.events import ArtifactRef, ModelPromoted


class BundleCache:
    """One folder: `champion.json` (the promotion), `<sha256>/<file>` (its bundle, and one more). Calls block.

    A folder is complete before the file that names it is replaced: a crash leaves the former champion or the new one.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._champion = folder / "champion.json"

    def write(self, promoted: ModelPromoted, bundle: Bundle | None) -> None:
        """Keep this promotion's bundle, and of the others only the one that was champion before. Raises OSError.

        None: it is here already; FileNotFoundError, and nothing has changed, when it isn't.
        """
        self._folder.mkdir(parents=True, exist_ok=True)
        former = self._promotion()
        target = self._folder / promoted.bundle.sha256
        if self.find(promoted.bundle) is None:
            if bundle is None:
                raise FileNotFoundError(f"{target} does not hold what was promoted")
            staging = Path(tempfile.mkdtemp(dir=self._folder, prefix="incoming-"))
            for name, content in bundle.files.items():
                _write_through(staging / name, content)
            shutil.rmtree(target, ignore_errors=True)
            staging.rename(target)
        incoming = self._champion.with_suffix(".incoming")
        _write_through(incoming, promoted.model_dump_json().encode())
        incoming.replace(self._champion)
        if former is not None and former.bundle.sha256 != promoted.bundle.sha256:
            self._forget_all_but(target.name, former.bundle.sha256)

    def _forget_all_but(self, *kept: str) -> None:
        for entry in self._folder.iterdir():
            if entry.is_dir() and entry.name not in kept:
                shutil.rmtree(entry, ignore_errors=True)

    def read(self) -> tuple[ModelPromoted, Bundle] | None:
        """What was kept, its digest verified again; None when there is nothing usable."""
        promoted = self._promotion()
        if promoted is None:
            return None
        bundle = self.find(promoted.bundle)
        return None if bundle is None else (promoted, bundle)

    def _promotion(self) -> ModelPromoted | None:
        try:
            return ModelPromoted.model_validate_json(self._champion.read_bytes())
        except (OSError, ValidationError):
            return None

    def find(self, ref: ArtifactRef) -> Bundle | None:
        """The bundle of this digest, verified again; None when it is not here, or not as announced."""
        folder = self._folder / ref.sha256

        def get(uri: str) -> bytes:
            return (folder / uri.rpartition("/")[2]).read_bytes()

        try:
            return read_bundle(get, ref)
        except (OSError, BundleRefused):
            return None


def _write_through(path: Path, content: bytes) -> None:
    with path.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
