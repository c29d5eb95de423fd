"""From CSV bytes to chunks of rows, with the faults of a whole file found and the content's digest taken on the way."""

from __future__ import annotations

import csv
import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import BinaryIO

from readmit_contracts.encounter import BY_KEY, COLUMNS, normalise_name
from readmit_ingestor.errors import SourceFault

_EXPECTED = [column.key for column in COLUMNS]


@dataclass(frozen=True, slots=True)
class Chunk:
    """Rows in schema order with their line numbers (the header is line 1), and rows of another width."""

    rows: list[list[str]]
    lines: list[int]
    misshapen: list[tuple[int, list[str]]]


class CsvReader:
    """Reads a CSV once, front to back. `content_sha256` is whole after the last chunk.

    The digest is taken over the bytes with CRLF read as LF: line endings do not make another data set.
    """

    def __init__(self, stream: BinaryIO, source: str) -> None:
        self._stream = stream
        self._source = source
        self._digest = hashlib.sha256()

    @property
    def content_sha256(self) -> str:
        """Digest of what has been read so far, 64 hex digits."""
        return self._digest.hexdigest()

    def chunks(self, rows: int = 5_000) -> Iterator[Chunk]:
        """The rows, some thousand at a time. Raises `SourceFault` for what is wrong with the file as a whole."""
        try:
            reader = csv.reader(self._lines(), strict=True)
            header = next(reader, None)
            if header is None:
                raise SourceFault("source_empty", f"{self._source}: empty; give a CSV file with a header and rows")
            order = self._order(header)
            yield from self._read(reader, order, len(header), rows)
        except UnicodeDecodeError as error:
            raise SourceFault("source_not_data", f"{self._source}: not UTF-8 text ({error.reason})") from error
        except csv.Error as error:
            raise SourceFault("source_not_data", f"{self._source}: not a CSV file ({error})") from error

    def _lines(self) -> Iterator[str]:
        encoding = "utf-8-sig"  # a byte-order mark is not part of the first name
        for line in self._stream:
            if b"\0" in line:
                raise SourceFault("source_not_data", f"{self._source}: holds NUL bytes, so it is not a CSV file")
            unix = line[:-2] + b"\n" if line.endswith(b"\r\n") else line
            self._digest.update(unix)
            yield unix.decode(encoding)
            encoding = "utf-8"

    def _order(self, header: list[str]) -> list[int]:
        """Where each column of the schema stands in the file."""
        if header and header[0].lstrip().lower().startswith(("<!doctype", "<html", "<?xml")):
            raise SourceFault("source_not_data", f"{self._source}: a web page (HTML), not a CSV file")
        names = [normalise_name(name) for name in header]
        missing = [BY_KEY[key].name for key in _EXPECTED if key not in names]
        if len(missing) == len(_EXPECTED):
            raise SourceFault(
                "source_bad_header",
                f"{self._source}: no column of the encounter schema in its first line; is it a comma-separated file?",
            )
        if missing:
            raise SourceFault("source_bad_header", f"{self._source}: lacks the column(s) {', '.join(missing)}")
        doubled = sorted({name for name in names if names.count(name) > 1})
        if doubled:
            raise SourceFault("source_bad_header", f"{self._source}: has the column(s) {', '.join(doubled)} twice")
        return [names.index(key) for key in _EXPECTED]

    def _read(self, reader: Iterator[list[str]], order: list[int], width: int, chunk_rows: int) -> Iterator[Chunk]:
        straight = order == list(range(width))
        rows: list[list[str]] = []
        lines: list[int] = []
        misshapen: list[tuple[int, list[str]]] = []
        any_row = False
        for line, row in enumerate(reader, start=2):
            if not row:
                continue
            any_row = True
            if len(row) != width:
                misshapen.append((line, row))
            else:
                rows.append(row if straight else [row[index] for index in order])
                lines.append(line)
            if len(rows) + len(misshapen) >= chunk_rows:
                yield Chunk(rows, lines, misshapen)
                rows, lines, misshapen = [], [], []
        if not any_row:
            raise SourceFault("source_empty", f"{self._source}: a header and no rows")
        if rows or misshapen:
            yield Chunk(rows, lines, misshapen)
