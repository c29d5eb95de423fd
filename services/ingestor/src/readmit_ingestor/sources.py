"""From what a source is called to its tables: files, folders, addresses, buckets, a synthetic sample."""

from __future__ import annotations

import hashlib
import io
import os
import re
from collections.abc import Generator, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, NoReturn, cast

from readmit_chassis.s3 import ObjectStore
from readmit_features.synthetic import DEFAULT_ROWS, MAX_ROWS, sample_blocks
from readmit_ingestor import objects
from readmit_ingestor.addresses import shown, split_checksum
from readmit_ingestor.archives import Form, regular_file, unpack
from readmit_ingestor.cached import Cached
from readmit_ingestor.downloads import OnBytes, download
from readmit_ingestor.errors import SourceFault, one_line

__all__ = ["OnBytes", "Opened", "Part", "Places", "open_source"]

DEFAULT_MAX_BYTES = 64 * 1024**3

_SAMPLE = re.compile(r"sample(?::([1-9][0-9]{0,14}))?")
_TABLES = (".csv", ".gz", ".zip", ".parquet")


@dataclass(frozen=True, slots=True)
class Part:
    """One table of a source: its name for people, its bytes (for Parquet a seekable file), its unpacked size."""

    name: str
    stream: BinaryIO
    form: Form
    size_bytes: int | None


Parts = Generator[Part, None, None]


@dataclass(frozen=True, slots=True)
class Opened:
    """The parts, opened one after the other: each stream is valid until the next is asked for. And whether made up."""

    parts: Iterator[Part]
    synthetic: bool


@dataclass(frozen=True, slots=True)
class Places:
    """Where sources are: the cache folder, what `uci` stands for, the S3 server; and how large one may be."""

    cache_dir: Path
    uci_url: str
    store: ObjectStore | None = None
    max_bytes: int = DEFAULT_MAX_BYTES


@contextmanager
def open_source(source: str, places: Places, on_bytes: OnBytes) -> Iterator[Opened]:
    """The tables of a source; blocks as long as a download takes. Raises `SourceFault`, also while they are read."""
    if match := _SAMPLE.fullmatch(source):
        yield Opened(iter([_sample(source, int(match[1] or DEFAULT_ROWS))]), synthetic=True)
        return
    address, digest = split_checksum(places.uci_url if source == "uci" else source)
    read: list[Cached] = []  # what was fetched and is being read
    try:
        with closing(_parts(address, digest, places, on_bytes, read)) as parts:
            yield Opened(parts, synthetic=False)
    except SourceFault:
        for cached in read:  # what turned out not to be data is not kept: the address may be mended
            cached.forget()
        raise


def _parts(address: str, digest: str | None, places: Places, on_bytes: OnBytes, read: list[Cached]) -> Parts:
    """The parts of a path or an address; a single file is fetched before this returns."""
    if address.startswith("s3://") and address.endswith("/"):
        _refuse_checksum(address, digest)
        return _objects(address, places, on_bytes, read)
    if address.startswith("s3://"):
        path = objects.fetch(_store(address, places), address, places.cache_dir, on_bytes, max_bytes=places.max_bytes)
    elif address.startswith(("http://", "https://")):
        path = download(address, places.cache_dir, on_bytes, max_bytes=places.max_bytes)
    else:
        return _local(address, digest, places)
    read.append(Cached.of(places.cache_dir, address))
    if digest:
        _check_digest(address, path, digest)
    return _file(path, shown(address).rsplit("/", 1)[-1] or shown(address), places)


def _local(address: str, digest: str | None, places: Places) -> Parts:
    """The parts of a path; what is wrong with the path itself is said with the first of them."""
    if "://" in address:
        raise SourceFault("source_not_found", f"{shown(address)}: give a path, an http(s) or an s3 address")
    path = Path(address)
    try:
        if path.is_dir():
            _refuse_checksum(address, digest)
            yield from _folder(path, places)
            return
        if not path.exists():
            raise SourceFault(
                "source_not_found",
                f"{address}: no such file; give a CSV, gzip, zip or Parquet file, a folder, or a URL",
            )
        if digest:
            regular_file(path, path.name)
            _check_digest(address, path, digest)
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise SourceFault("source_not_found", f"{address}: cannot be read ({reason}); check the path") from error
    yield from _file(path, path.name, places)


def _file(path: Path, name: str, places: Places) -> Parts:
    name = one_line(name)  # it goes into the database, which takes no bytes that are not text
    with unpack(path, name, places.max_bytes) as unpacked:
        yield Part(name, unpacked.stream, unpacked.form, unpacked.size_bytes)


def _folder(folder: Path, places: Places) -> Parts:
    """Every table below the folder in the order of their names; what is hidden is left out."""
    found = []
    for where, folders, files in os.walk(folder, onerror=_raise):
        folders[:] = [name for name in folders if not name.startswith(".")]
        found += [Path(where) / name for name in files if not name.startswith(".") and name.lower().endswith(_TABLES)]
    if not found:
        raise SourceFault("source_empty", f"{folder}: a folder without a .csv, .gz, .zip or .parquet file")
    for path in sorted(found):
        yield from _file(path, path.relative_to(folder).as_posix(), places)


def _raise(error: OSError) -> NoReturn:
    raise error  # a folder that cannot be looked into would be missing from the data


def _objects(address: str, places: Places, on_bytes: OnBytes, read: list[Cached]) -> Parts:
    store = _store(address, places)
    found = [
        uri
        for uri in objects.names(store, address)
        if uri.lower().endswith(_TABLES) and "/." not in uri.removeprefix(address[:-1])
    ]
    if not found:
        raise SourceFault("source_empty", f"{address}: holds no .csv, .gz, .zip or .parquet object; check the prefix")
    for uri in found:
        path = objects.fetch(store, uri, places.cache_dir, on_bytes, max_bytes=places.max_bytes)
        read.append(Cached.of(places.cache_dir, uri))
        yield from _file(path, uri.removeprefix(address), places)
        read.clear()


def _store(address: str, places: Places) -> ObjectStore:
    if places.store is None:
        raise SourceFault(
            "source_not_found",
            f"{address}: no S3 server is set; set INGESTOR_S3__ENDPOINT_URL, __ACCESS_KEY and __SECRET_KEY",
        )
    return places.store


def _check_digest(address: str, path: Path, digest: str) -> None:
    try:
        with path.open("rb") as file:
            found = hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise SourceFault(
            "source_not_found", f"{shown(address)}: cannot be read to its end ({error.strerror}); try again"
        ) from error
    if found != digest:
        raise SourceFault(
            "source_checksum_mismatch",
            f"{shown(address)}: its SHA-256 is {found}, not {digest}; fetch it again, or ask where it comes from",
        )


def _refuse_checksum(address: str, digest: str | None) -> None:
    if digest is not None:
        raise SourceFault("source_checksum_mismatch", f"{address}: a folder has no checksum; give that of one file")


def _sample(source: str, rows: int) -> Part:
    if rows > MAX_ROWS:
        raise SourceFault("source_not_found", f"{source}: at most {MAX_ROWS} rows can be made")
    stream = cast("BinaryIO", io.BufferedReader(_Blocks(sample_blocks(rows)), 1024 * 1024))
    return Part(source, stream, "csv", None)


class _Blocks(io.RawIOBase):
    """Blocks of bytes as a stream."""

    def __init__(self, blocks: Iterator[bytes]) -> None:
        self._blocks = blocks
        self._rest = memoryview(b"")

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        if not self._rest:
            self._rest = memoryview(next(self._blocks, b""))
        taken = self._rest[: len(buffer)]
        buffer[: len(taken)] = taken
        self._rest = self._rest[len(taken) :]
        return len(taken)
