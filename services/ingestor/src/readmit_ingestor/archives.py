"""From a file to the bytes of a table: what it is packed in is told by its first bytes, and unpacked within limits.

Nothing is ever extracted to disk. Sizes that an archive declares are not believed: what comes out is counted.
"""

from __future__ import annotations

import gzip
import io
import os
import re
import stat
import struct
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO, Literal, NoReturn, cast

import pyarrow as pa
import pyarrow.parquet as pq

from readmit_ingestor.errors import Code, SourceFault

Form = Literal["csv", "parquet"]

_MEMBER = "diabetic_data.csv"
#: Encounters pack to about a sixth. Beyond this ratio it is an attack; the first bytes may well be more alike.
_MAX_RATIO = 100
_RATIO_COUNTS_FROM_BYTES = 64 * 1024 * 1024
#: zipfile takes in a table of contents at once: this much is some ten thousand files.
_MAX_CONTENTS_BYTES = 4 * 1024 * 1024
#: A row of a Parquet file, however well it is packed, is read as 50 cells.
_MIN_ROW_BYTES = 50
_LONGEST_NAME = 80

_ZIP, _EMPTY_ZIP, _GZIP, _PARQUET = b"PK\x03\x04", b"PK\x05\x06", b"\x1f\x8b", b"PAR1"
_FOREIGN = {
    b"BZh": "packed with bzip2", b"\xfd7zXZ\x00": "packed with xz", b"\x28\xb5\x2f\xfd": "packed with zstd",
    b"7z\xbc\xaf\x27\x1c": "a 7z archive", b"Rar!": "a RAR archive", b"\xd0\xcf\x11\xe0": "an old Excel workbook",
    b"%PDF": "a PDF", b"SQLite format 3": "an SQLite database",
}  # fmt: skip
_TAR_MAGIC_AT = 257
_DRIVE = re.compile(r"[A-Za-z]:")

_BROKEN = (zipfile.BadZipFile, gzip.BadGzipFile, zlib.error, EOFError)
#: What zipfile lets through besides, when numbers or names in an archive are nonsense.
_BROKEN_CONTENTS = (*_BROKEN, struct.error, ValueError, OverflowError, OSError)


@dataclass(frozen=True, slots=True)
class Unpacked:
    """The bytes of one table; for Parquet a seekable file. `size_bytes` where it is known beforehand."""

    stream: BinaryIO
    form: Form
    size_bytes: int | None


def regular_file(path: Path, name: str) -> os.stat_result:
    """What a file is. Raises `SourceFault` for what is none, or cannot be looked at."""
    try:
        about = path.stat()
    except (OSError, ValueError) as error:  # ValueError: a name with a NUL
        _unreadable(name, error)
    if not stat.S_ISREG(about.st_mode):  # a pipe or a device might never end
        _fault("source_not_found", name, "not a regular file; give a CSV, gzip, zip or Parquet file")
    return about


@contextmanager
def unpack(path: Path, name: str, max_bytes: int) -> Iterator[Unpacked]:
    """Open a file: CSV, gzip or zip of one CSV, Parquet. Raises `SourceFault`, also while the stream is read."""
    about = regular_file(path, name)
    if about.st_size > max_bytes:
        _too_large(name, max_bytes)
    try:
        with path.open("rb") as file:
            magic = file.read(16)
            file.seek(0)
            if magic.startswith((_ZIP, _EMPTY_ZIP)):
                with _member(path, name, max_bytes) as unpacked:
                    yield unpacked
            elif magic.startswith(_GZIP):
                with gzip.open(file) as unzipped:
                    counted = _Counted(cast("BinaryIO", unzipped), name, file.tell, max_bytes)
                    yield Unpacked(_table(counted, name), "csv", None)
            elif magic.startswith(_PARQUET):
                _refuse_parquet_bomb(file, name, about.st_size, max_bytes)
                yield Unpacked(file, "parquet", about.st_size)
            else:
                _refuse_foreign(magic, name)
                yield Unpacked(file, "csv", about.st_size)
    except OSError as error:
        _unreadable(name, error)


@contextmanager
def _member(path: Path, name: str, max_bytes: int) -> Iterator[Unpacked]:
    with _ZipBytes(io.FileIO(path)) as file:
        try:
            archive = zipfile.ZipFile(file)
            info = _chosen(archive.infolist(), name)
            if info.file_size > max_bytes:
                _too_large(name, max_bytes)
            member = archive.open(info)
        except NotImplementedError as error:
            _fault("source_bad_archive", name, f"{error}; pack it with deflate, or not at all")
        except _BROKEN_CONTENTS as error:
            _broken(name, error)
        with archive, member:
            packed_bytes = min(info.compress_size, path.stat().st_size)
            counted = _Counted(cast("BinaryIO", member), name, lambda: packed_bytes, max_bytes)
            yield Unpacked(_table(counted, name), "csv", info.file_size)


class _ZipBytes(io.BufferedReader):
    """A zip file for zipfile, which would read a table of contents of any size into memory."""

    def read(self, size: int | None = -1, /) -> bytes:
        if size is not None and size > _MAX_CONTENTS_BYTES:
            raise zipfile.BadZipFile("its table of contents is too long")
        return super().read(size)


def _refuse_parquet_bomb(file: BinaryIO, name: str, packed_bytes: int, max_bytes: int) -> None:
    """By what its footer says; a footer that cannot be read is left to whoever reads the rows."""
    try:
        about = pq.read_metadata(file)
    except (pa.ArrowException, ValueError, OSError):
        return
    finally:
        file.seek(0)
    groups = (about.row_group(at).total_byte_size for at in range(about.num_row_groups))
    unpacked_bytes = max(sum(groups), about.num_rows * _MIN_ROW_BYTES)
    _check_size(unpacked_bytes, packed_bytes, name, max_bytes)


def _chosen(members: list[zipfile.ZipInfo], name: str) -> zipfile.ZipInfo:
    """The one table of an archive: by the data set's own name, or the only CSV there is."""
    names = [info.filename for info in members]
    if any(member.startswith("xl/") for member in names):
        _fault("source_bad_archive", name, "an Excel workbook; save its sheet as CSV")
    for info in members:
        _refuse_dangerous(info, name)
    files = [info for info in members if not info.filename.endswith("/")]
    tables = [info for info in files if info.filename.lower().endswith(".csv")]
    named = [info for info in tables if PurePosixPath(info.filename).name == _MEMBER]
    chosen = named or tables
    if not files:
        _fault("source_bad_archive", name, "an empty archive; pack a CSV file into it")
    if not tables and any(info.filename.lower().endswith((".zip", ".gz", ".7z", ".tar")) for info in files):
        _fault("source_bad_archive", name, "an archive within an archive; unpack the outer one")
    if len(chosen) != 1:
        found = ", ".join(info.filename[:_LONGEST_NAME] for info in tables[:3]) or "none"
        _fault("source_bad_archive", name, f"wants {_MEMBER} or exactly one CSV inside, has {found}; pack that one")
    if chosen[0].flag_bits & 0x1:
        _fault("source_bad_archive", name, "encrypted; give it unpacked")
    if chosen[0].compress_type not in {zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED}:
        # The others unpack a block to any size at once, before anybody could count.
        _fault("source_bad_archive", name, "packed with an unusual method; pack it with deflate, or not at all")
    return chosen[0]


def _refuse_dangerous(info: zipfile.ZipInfo, name: str) -> None:
    """Names that would leave a folder are refused, though nothing is extracted: whoever made them meant harm."""
    member = info.orig_filename.partition("\0")[0]
    path = PurePosixPath(member.replace("\\", "/"))
    if path.is_absolute() or ".." in path.parts or _DRIVE.match(member):
        _fault("source_bad_archive", name, f"holds a path that leads out of it ({_cut(member)}); do not trust it")
    if stat.S_ISLNK(info.external_attr >> 16):
        _fault("source_bad_archive", name, f"holds a symbolic link ({_cut(member)}); pack the file itself")


def _table(stream: _Counted, name: str) -> BinaryIO:
    """The unpacked bytes, unless they are packed once more."""
    table = io.BufferedReader(stream, 1024 * 1024)
    head = table.peek(512)
    if head.startswith((_ZIP, _GZIP)):
        _fault("source_bad_archive", name, "packed twice; unpack it once")
    if head.startswith(_PARQUET):
        _fault("source_bad_archive", name, "a packed Parquet file; give it unpacked, it is compressed already")
    if head[_TAR_MAGIC_AT:].startswith(b"ustar"):
        _fault("source_bad_archive", name, "a tar archive; pack the one CSV file with gzip or zip")
    _refuse_foreign(head, name)
    return cast("BinaryIO", table)


def _refuse_foreign(head: bytes, name: str) -> None:
    for magic, what in _FOREIGN.items():
        if head.startswith(magic):
            _fault("source_not_data", name, f"{what}; give a CSV (plain, gzip or zip) or Parquet file")


class _Counted(io.RawIOBase):
    """What is unpacked, counted against what it was packed in; faults of the archive become faults of the source."""

    def __init__(self, stream: BinaryIO, name: str, packed_bytes: Callable[[], int], max_bytes: int) -> None:
        self._stream = stream
        self._name = name
        self._packed_bytes = packed_bytes
        self._max_bytes = max_bytes
        self._out_bytes = 0

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        try:
            block = self._stream.read(len(buffer))
        except _BROKEN as error:
            _broken(self._name, error)
        except OSError as error:
            _unreadable(self._name, error)
        self._out_bytes += len(block)
        _check_size(self._out_bytes, self._packed_bytes(), self._name, self._max_bytes)
        buffer[: len(block)] = block
        return len(block)


def _check_size(unpacked_bytes: int, packed_bytes: int, name: str, max_bytes: int) -> None:
    if unpacked_bytes > max_bytes:
        _too_large(name, max_bytes)
    if unpacked_bytes > max(_RATIO_COUNTS_FROM_BYTES, _MAX_RATIO * packed_bytes):
        _fault(
            "source_bad_archive", name,
            f"unpacks to more than {_MAX_RATIO} times its size, as a zip bomb does; give it unpacked if it is data",
        )  # fmt: skip


def _too_large(name: str, max_bytes: int) -> NoReturn:
    _fault(
        "source_too_large", name,
        f"holds more than {max_bytes} bytes; split it into a folder of files, or raise INGESTOR_MAX_SOURCE_BYTES",
    )  # fmt: skip


def _broken(name: str, error: Exception) -> NoReturn:
    raise SourceFault(
        "source_bad_archive", f"{name}: damaged archive ({str(error) or 'it ends too early'}); fetch it again"
    ) from error


def _unreadable(name: str, error: OSError | ValueError) -> NoReturn:
    reason = getattr(error, "strerror", None) or str(error)
    raise SourceFault(
        "source_not_found", f"{name}: cannot be read ({reason}); check the path and its permissions"
    ) from error


def _cut(member: str) -> str:
    return repr(member if len(member) <= _LONGEST_NAME else member[:_LONGEST_NAME] + "…")


def _fault(code: Code, name: str, what: str) -> NoReturn:
    raise SourceFault(code, f"{name}: {what}")
