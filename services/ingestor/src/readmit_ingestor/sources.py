"""From what a source is called to the bytes of its CSV: paths, archives, URLs, the UCI archive, the synthetic sample.

Downloads are kept in the cache folder under the digest of their URL: resumed when interrupted, used again when whole.
"""

from __future__ import annotations

import gzip
import hashlib
import re
import tempfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, cast

import httpx

from readmit_features.synthetic import DEFAULT_ROWS, write_sample
from readmit_ingestor.errors import SourceFault

OnBytes = Callable[[int, int | None], None]

_MEMBER = "diabetic_data.csv"
_MAX_SAMPLE_ROWS = 1_000_000  # made in memory
_SAMPLE = re.compile(r"sample(?::([1-9][0-9]{0,8}))?")


@dataclass(frozen=True, slots=True)
class Opened:
    """The CSV's bytes, and whether they are made up."""

    stream: BinaryIO
    synthetic: bool


@contextmanager
def open_source(source: str, *, cache_dir: Path, uci_url: str, on_bytes: OnBytes) -> Iterator[Opened]:
    """The CSV bytes of a source, open for reading. Raises `SourceFault`; blocks for as long as a download takes."""
    if match := _SAMPLE.fullmatch(source):
        rows = int(match[1] or DEFAULT_ROWS)
        if rows > _MAX_SAMPLE_ROWS:
            raise SourceFault("source_not_found", f"{source}: at most {_MAX_SAMPLE_ROWS} rows can be made")
        with tempfile.TemporaryDirectory(prefix="readmit-sample-") as folder:
            path = Path(folder) / _MEMBER
            write_sample(path, rows)
            with path.open("rb") as stream:
                yield Opened(stream, synthetic=True)
        return
    url = uci_url if source == "uci" else source
    if not url.startswith(("http://", "https://")):
        with _open_file(Path(source), source) as stream:
            yield Opened(stream, synthetic=False)
        return
    path = download(url, cache_dir, on_bytes)
    try:
        with _open_file(path, source) as stream:
            yield Opened(stream, synthetic=False)
    except SourceFault:
        path.unlink(missing_ok=True)  # what turned out not to be data is not kept: the address may be mended
        raise


@contextmanager
def _open_file(path: Path, source: str) -> Iterator[BinaryIO]:
    try:
        if not path.is_file():
            raise SourceFault("source_not_found", f"{source}: no such file; give a CSV, gzip or zip file, or a URL")
        with path.open("rb") as file:
            magic = file.read(4)
            file.seek(0)
            if magic[:4] == b"PK\x03\x04":
                with zipfile.ZipFile(file) as archive, archive.open(_member(archive, source)) as member:
                    yield cast("BinaryIO", member)
            elif magic[:2] == b"\x1f\x8b":
                with gzip.open(file) as unzipped:
                    yield cast("BinaryIO", unzipped)
            else:
                yield file
    except (zipfile.BadZipFile, gzip.BadGzipFile, zlib.error, EOFError) as error:
        raise SourceFault("source_bad_archive", f"{source}: damaged archive ({error}); fetch it again") from error
    except NotImplementedError as error:
        raise SourceFault("source_bad_archive", f"{source}: {error}; pack it with deflate, or not at all") from error
    except OSError as error:
        raise SourceFault("source_not_found", f"{source}: cannot be read ({error.strerror})") from error


def _member(archive: zipfile.ZipFile, source: str) -> zipfile.ZipInfo:
    """The one CSV of an archive: by the data set's own name, or the only one there is."""
    tables = [info for info in archive.infolist() if info.filename.lower().endswith(".csv")]
    named = [info for info in tables if Path(info.filename).name == _MEMBER]
    chosen = named or tables
    if len(chosen) != 1:
        found = ", ".join(info.filename for info in tables) or "none"
        raise SourceFault(
            "source_bad_archive", f"{source}: wants {_MEMBER} or exactly one CSV file inside, has {found}"
        )
    if chosen[0].flag_bits & 0x1:
        raise SourceFault("source_bad_archive", f"{source}: encrypted; give it unpacked")
    return chosen[0]


def download(url: str, cache_dir: Path, on_bytes: OnBytes) -> Path:
    """Fetch a URL into the cache, or find it there. A partial download is resumed where the server allows it."""
    cache_dir.mkdir(parents=True, exist_ok=True)
    whole = cache_dir / hashlib.sha256(url.encode()).hexdigest()
    if whole.exists():
        return whole
    partial, validator = whole.with_suffix(".part"), whole.with_suffix(".validator")
    # Without a validator nobody could tell whether the rest belongs to the same file.
    have = partial.stat().st_size if partial.exists() and validator.exists() else 0
    resume = {"range": f"bytes={have}-", "if-range": validator.read_text()} if have else {}
    try:
        with httpx.stream("GET", url, headers=resume, timeout=30, follow_redirects=True) as answer:
            if answer.status_code == 416 and have:  # nothing is left to fetch, or the file changed: start afresh
                partial.unlink()
                return download(url, cache_dir, on_bytes)
            _check_answer(answer, url)
            resumed = answer.status_code == 206
            done = have if resumed else 0
            if tag := answer.headers.get("etag") or answer.headers.get("last-modified"):
                validator.write_text(tag)
            else:
                validator.unlink(missing_ok=True)
            length = answer.headers.get("content-length")
            total = done + int(length) if length and "content-encoding" not in answer.headers else None
            with partial.open("ab" if resumed else "wb") as file:
                for block in answer.iter_bytes():  # as they come: what was received is kept
                    file.write(block)
                    done += len(block)
                    on_bytes(done, total)
    except (httpx.TransportError, httpx.TooManyRedirects) as error:
        reason = str(error) or type(error).__name__
        raise SourceFault(
            "source_unreachable", f"{url}: not reachable ({reason}); try again, or give a file"
        ) from error
    partial.replace(whole)
    validator.unlink(missing_ok=True)
    return whole


def _check_answer(answer: httpx.Response, url: str) -> None:
    if answer.status_code >= 400:
        raise SourceFault("source_http_error", f"{url}: the server answered {answer.status_code}; check the address")
    if answer.headers.get("content-type", "").startswith("text/html"):
        raise SourceFault("source_not_data", f"{url}: a web page (HTML), not data; give the file's own address")
