"""One download in the cache folder: whole, or partly there, each with what its server calls that state of the file."""

from __future__ import annotations

import contextlib
import hashlib
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from readmit_ingestor.errors import SourceFault


@dataclass(frozen=True, slots=True)
class Cached:
    """The paths of one address. A tag never outlives the bytes that it belongs to."""

    whole: Path
    partial: Path
    _whole_tag: Path
    _partial_tag: Path

    @classmethod
    def of(cls, cache_dir: Path, address: str) -> Cached:
        """The place of an address."""
        whole = cache_dir / hashlib.sha256(address.encode(errors="surrogatepass")).hexdigest()
        return cls(whole, *(whole.with_suffix(suffix) for suffix in (".part", ".tag", ".part-tag")))

    def whole_tag(self) -> str | None:
        """Tag of the whole copy."""
        return _text(self._whole_tag)

    def partial_tag(self) -> str | None:
        """Tag of the partial copy."""
        return _text(self._partial_tag)

    def partial_bytes(self) -> int:
        """How much is there; without a tag nobody could tell whether the rest belongs to it, so nothing counts."""
        return self.partial.stat().st_size if self.partial.exists() and self._partial_tag.exists() else 0

    def begin(self, tag: str | None, *, keep: bool) -> None:
        """Before bytes are written to `partial`; `keep` what is there."""
        if not keep:
            self.forget_partial()
        if tag is None:
            self._partial_tag.unlink(missing_ok=True)
        else:
            self._partial_tag.write_text(tag)

    def finish(self) -> Path:
        """The partial copy is whole."""
        tag = self.partial_tag()
        with self.partial.open("rb") as file:
            os.fsync(file.fileno())  # or a machine that loses power keeps the tag of bytes that it has not
        self._whole_tag.unlink(missing_ok=True)
        self.partial.replace(self.whole)
        if tag is not None:
            self._whole_tag.write_text(tag)
        self._partial_tag.unlink(missing_ok=True)
        return self.whole

    def forget_partial(self) -> None:
        """Start afresh."""
        for path in (self.partial, self._partial_tag):
            path.unlink(missing_ok=True)

    def forget(self) -> None:
        """Keep nothing: what is there turned out to be of no use."""
        self.forget_partial()
        for path in (self.whole, self._whole_tag):
            path.unlink(missing_ok=True)


@contextlib.contextmanager
def keeping(cache_dir: Path, address: str, name: str) -> Iterator[Cached]:
    """The place of an address while it is fetched; makes the folder.

    What the disk refuses is a `SourceFault` in the words of `name`, and a disk that is full is not left full.
    """
    cached = Cached.of(cache_dir, address)
    try:
        cache_dir.mkdir(parents=True, exist_ok=True)
        yield cached
    except OSError as error:
        with contextlib.suppress(OSError):
            cached.forget_partial()
        raise SourceFault(
            "source_not_kept",
            f"{name}: the folder of INGESTOR_CACHE_DIR cannot take it ({error.strerror}); make room, or let it write",
        ) from error


def _text(path: Path) -> str | None:
    """None too for what a crash left unreadable."""
    return path.read_text(errors="replace") if path.exists() else None
