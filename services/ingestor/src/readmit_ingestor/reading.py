"""From the parts of a source to chunks of cells, with the faults of a whole file found and the content's digest taken.

CSV is read in blocks of whole lines: Arrow parses a block without quotes, Python's csv module one with quotes, where a
line break may stand inside a cell. Both give the same cells.
"""

from __future__ import annotations

import csv
import hashlib
import io
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import NoReturn

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pa_csv
import pyarrow.parquet as pq
from numpy.typing import NDArray

from readmit_contracts.encounter import BY_KEY, COLUMNS, normalise_name
from readmit_ingestor.errors import Code, SourceFault
from readmit_ingestor.sources import Part

KEYS: tuple[str, ...] = tuple(column.key for column in COLUMNS)

_BLOCK_BYTES = 2 * 1024 * 1024
#: The first block is small, so that PostgreSQL does not wait long for its first rows; each is twice the one before.
_FIRST_BLOCK_BYTES = 256 * 1024
#: A quoted cell may hold line breaks, but no file has one of this size: somewhere a quote was not closed.
_MAX_QUOTED_BYTES = 16 * 1024 * 1024
_MAX_HEADER_BYTES = 64 * 1024
_PARQUET_ROWS = 5_000
#: A dictionary holds a value once for any number of cells, so a long one would fill the memory when it is spread out.
_MAX_CELL_BYTES = 64 * 1024
_DELIMITERS = {";": "semicolons", "\t": "tabs", "|": "vertical bars"}
# Byte-order marks of what is text, but not UTF-8.
_OTHER_ENCODINGS = {b"\xff\xfe": "UTF-16", b"\xfe\xff": "UTF-16", b"\x00\x00\xfe\xff": "UTF-32"}


@dataclass(frozen=True, slots=True)
class Chunk:
    """Some thousand rows of one part: `cells` in schema order as strings, `lines` where each stood in its part.

    Lines count through the part, the header being line 1; `first_line` is what to add for a number that is unique in
    the whole source. `misshapen` rows have another number of cells than the header.
    """

    part: str
    first_line: int
    lines: NDArray[np.int64]
    cells: pa.Table
    misshapen: list[tuple[int, list[str]]]

    @property
    def rows(self) -> int:
        """All of them, misshapen ones too."""
        return len(self.lines) + len(self.misshapen)


@dataclass(frozen=True, slots=True)
class PartRead:
    """What a part was, for the lineage."""

    name: str
    sha256: str
    first_line: int
    rows: int


@dataclass(frozen=True, slots=True)
class _Block:
    """Whole lines of a part, as UTF-8 with LF; `line` is the number of the first."""

    text: bytes
    line: int


class Reader:
    """Reads the parts of a source once, front to back. Digests are whole after the last chunk.

    `bytes_read` of `bytes_total`, in the parts that were opened so far; None where a size is not known.

    A part's digest is taken over its bytes with CRLF read as LF: line endings do not make another data set. A source of
    several parts has the digest of its parts' digests, in order.
    """

    def __init__(self, parts: Iterable[Part], source: str, block_bytes: int = _BLOCK_BYTES) -> None:
        self._parts = parts
        self._source = source
        self._block_bytes = block_bytes
        self.parts_read: list[PartRead] = []
        self.bytes_read = 0
        self.bytes_total: int | None = 0

    @property
    def content_sha256(self) -> str:
        """Digest of the whole content, 64 hex digits."""
        digests = [part.sha256 for part in self.parts_read]
        return digests[0] if len(digests) == 1 else hashlib.sha256("\n".join(digests).encode()).hexdigest()

    def chunks(self) -> Iterator[Chunk]:
        """The rows, some thousand at a time. Raises `SourceFault` for what is wrong with the source as a whole."""
        first_line = 0
        for part in self._parts:
            known = None not in (self.bytes_total, part.size_bytes)
            self.bytes_total = (self.bytes_total or 0) + (part.size_bytes or 0) if known else None
            reader = _ParquetPart(part) if part.form == "parquet" else _CsvPart(part, self._block_bytes)
            rows, last_line, before = 0, 0, self.bytes_read
            for chunk in reader.chunks(first_line):
                self.bytes_read = before + reader.bytes_read
                rows += chunk.rows
                last_line = reader.last_line
                yield chunk
            self.bytes_read = before + reader.bytes_read
            if not rows:
                _fault("source_empty", part, "a header and no rows; give a file with encounters")
            self.parts_read.append(PartRead(part.name, reader.sha256, first_line, rows))
            first_line += last_line
        if not self.parts_read:
            raise SourceFault("source_empty", f"{self._source}: holds no file to read")


class _CsvPart:
    """One CSV file."""

    def __init__(self, part: Part, block_bytes: int) -> None:
        self._part = part
        self._block_bytes = block_bytes
        self._digest = hashlib.sha256()
        self.bytes_read = 0
        self.last_line = 0

    @property
    def sha256(self) -> str:
        return self._digest.hexdigest()

    def chunks(self, first_line: int) -> Iterator[Chunk]:
        blocks = _blocks(self._part, self._block_bytes)
        head = next(blocks, None)
        if head is None:
            _fault("source_empty", self._part, "empty; give a CSV file with a header and rows")
        header, head = self._header(head)
        order = schema_order(self._part, header)
        for block in chain([head] if head.text else [], blocks):
            self._digest.update(block.text)
            self.bytes_read += len(block.text)
            cells, lines, misshapen = _parse(block, len(header), self._part)
            self.last_line = block.line + block.text.count(b"\n")
            yield Chunk(self._part.name, first_line, lines, cells.select(order).rename_columns(list(KEYS)), misshapen)

    def _header(self, block: _Block) -> tuple[list[str], _Block]:
        """The names in the first line, and what follows it."""
        end = block.text.find(b"\n") + 1 or len(block.text)
        line = block.text[:end]
        self._digest.update(line)
        self.bytes_read += len(line)
        text = line.decode()
        _refuse_what_is_no_table(self._part, text)
        try:
            return next(csv.reader([text], strict=True), []), _Block(block.text[end:], block.line + 1)
        except csv.Error as error:
            _fault("source_not_data", self._part, f"its first line is not CSV ({error}); put the 50 names there")


def _blocks(part: Part, block_bytes: int) -> Iterator[_Block]:
    """Blocks of whole lines; a line break inside quotes ends no line."""
    rest, line, size_bytes, first = b"", 1, min(_FIRST_BLOCK_BYTES, block_bytes), True
    while True:
        read = part.stream.read(size_bytes)
        size_bytes = min(2 * size_bytes, block_bytes)
        if first:
            _refuse_other_encodings(part, read)
            read = read.removeprefix(b"\xef\xbb\xbf")
            first = False
        block = rest + read
        if not block:
            return
        end = len(block) if not read else _end_of_lines(block)
        if not read and block.count(b'"') % 2:
            _unclosed(part, block, line)
        if end == 0 and len(block) > _MAX_QUOTED_BYTES:
            if b'"' in block:
                _unclosed(part, block, line)
            _fault("source_not_data", part, f"line {line} does not end; is it a text file?")
        whole, rest = block[:end], block[end:]
        if whole:
            text = whole.replace(b"\r\n", b"\n")
            _refuse_other_bytes(part, text, line)
            yield _Block(text, line)
            line += text.count(b"\n")
        if not read:
            return


def _end_of_lines(block: bytes) -> int:
    """Where the last whole line ends that leaves no quote open; 0 if there is none."""
    end = block.rfind(b"\n") + 1
    quotes = block.count(b'"', 0, end)
    while quotes % 2:  # the line break stands inside a quoted cell: try the one before the last quote
        before = block.rfind(b"\n", 0, block.rfind(b'"', 0, end)) + 1
        quotes -= block.count(b'"', before, end)
        end = before
    return end


def _parse(block: _Block, width: int, part: Part) -> tuple[pa.Table, NDArray[np.int64], list[tuple[int, list[str]]]]:
    """Cells by position, the line of each row, and the rows of another width. Empty lines are no rows."""
    text = block.text
    if b'"' in text or text.startswith(b"\n") or b"\n\n" in text:
        return _parse_slowly(block, width, part)
    names = [str(at) for at in range(width)]
    misshapen: list[tuple[int, list[str]]] = []

    def skip(row: pa_csv.InvalidRow) -> str:
        misshapen.append((block.line + row.number - 1, row.text.split(",")))
        return "skip"

    try:
        table = pa_csv.read_csv(
            pa.py_buffer(text),
            pa_csv.ReadOptions(column_names=names, use_threads=False, block_size=len(text) + 1),
            pa_csv.ParseOptions(quote_char=False, invalid_row_handler=skip),
            pa_csv.ConvertOptions(
                column_types={name: pa.string() for name in names}, strings_can_be_null=False, check_utf8=False
            ),
        )
    except pa.ArrowInvalid as error:
        _fault("source_not_data", part, f"cannot be read as CSV near line {block.line} ({error})".replace("\n", " "))
    lines = np.arange(block.line, block.line + table.num_rows + len(misshapen), dtype=np.int64)
    return table, np.delete(lines, [line - block.line for line, _ in misshapen]), misshapen


def _parse_slowly(
    block: _Block, width: int, part: Part
) -> tuple[pa.Table, NDArray[np.int64], list[tuple[int, list[str]]]]:
    reader = csv.reader(io.StringIO(block.text.decode(), newline=""), strict=True)
    rows: list[list[str]] = []
    lines: list[int] = []
    misshapen: list[tuple[int, list[str]]] = []
    line = block.line
    try:
        for row in reader:
            if len(row) == width:
                rows.append(row)
                lines.append(line)
            elif row:
                misshapen.append((line, row))
            line = block.line + reader.line_num
    except csv.Error as error:
        _fault("source_not_data", part, f"line {line} is not CSV ({error}); export it as comma-separated values")
    columns = zip(*rows, strict=True) if rows else [()] * width
    table = pa.table([pa.array(cells, pa.string()) for cells in columns], names=[str(at) for at in range(width)])
    return table, np.array(lines, dtype=np.int64), misshapen


class _ParquetPart:
    """One Parquet file, a row group's pages at a time."""

    def __init__(self, part: Part) -> None:
        self._part = part
        self._digest = hashlib.sha256()
        self.bytes_read = 0
        self.last_line = 0

    @property
    def sha256(self) -> str:
        return self._digest.hexdigest()

    def chunks(self, first_line: int) -> Iterator[Chunk]:
        stream = self._part.stream
        while block := stream.read(_BLOCK_BYTES):
            self._digest.update(block)
        stream.seek(0)
        try:
            schema = pq.read_schema(stream)
            order = schema_order(self._part, schema.names)
            names = [schema.names[at] for at in order]
            _refuse_nested(self._part, [schema.field(at).type for at in order])
            stream.seek(0)
            file = pq.ParquetFile(stream, pre_buffer=False, read_dictionary=names)
            line = 2  # as if a header stood in line 1
            for batch in file.iter_batches(batch_size=_PARQUET_ROWS, columns=names, use_threads=False):
                cells = pa.table([_as_text(self._part, batch.column(name)) for name in names], names=list(KEYS))
                lines = np.arange(line, line + batch.num_rows, dtype=np.int64)
                line += batch.num_rows
                self.last_line = line - 1
                self.bytes_read = stream.tell()
                if batch.num_rows:
                    yield Chunk(self._part.name, first_line, lines, cells, [])
        except (pa.ArrowException, ValueError, OSError) as error:  # ValueError: a name that is not UTF-8
            reason = next(iter(str(error).splitlines()), type(error).__name__)
            _fault("source_not_data", self._part, f"damaged Parquet file ({reason}); write it again")


def _as_text(part: Part, column: pa.Array) -> pa.Array:
    """Values as a CSV would hold them; null is an empty cell."""
    if pa.types.is_dictionary(column.type):
        _refuse_long_cells(part, column.dictionary)
        column = column.dictionary_decode()
    text = column.cast(pa.string()).fill_null("")
    text.validate(full=True)  # files can say that their bytes are UTF-8 when they are not
    if pc.any(pc.match_substring(text, "\0")).as_py():
        _fault("source_not_data", part, "holds NUL characters in its texts; remove them")
    return text


def _refuse_nested(part: Part, types: Sequence[pa.DataType]) -> None:
    for found in types:
        if pa.types.is_nested(found):
            _fault("source_not_data", part, f"has nested values of type {found}; a column holds one value per row")


def _refuse_long_cells(part: Part, values: pa.Array) -> None:
    kinds = (pa.types.is_string, pa.types.is_large_string, pa.types.is_binary, pa.types.is_large_binary)
    if not any(is_kind(values.type) for is_kind in kinds):
        return
    if (pc.max(pc.binary_length(values)).as_py() or 0) > _MAX_CELL_BYTES:
        _fault("source_not_data", part, f"holds a cell of more than {_MAX_CELL_BYTES} bytes; is it another table?")


def schema_order(part: Part, header: Sequence[str]) -> list[int]:
    """Where each column of the schema stands in the file. Raises `SourceFault` unless each stands there once."""
    names = [normalise_name(name) for name in header]
    missing = [BY_KEY[key].name for key in KEYS if key not in names]
    if len(missing) == len(KEYS):
        _refuse_another_table(part, header)
    if missing:
        more = f" and {len(missing) - 5} more" if len(missing) > 5 else ""
        named = ", ".join(missing[:5]) + more
        _fault("source_bad_header", part, f"lacks the column(s) {named}; docs/data-dictionary.md names all 50")
    doubled = sorted({name for name in names if names.count(name) > 1 and name in BY_KEY})
    if doubled:
        _fault("source_bad_header", part, f"has the column(s) {', '.join(doubled)} twice; keep one of each")
    return [names.index(key) for key in KEYS]


def _refuse_another_table(part: Part, header: Sequence[str]) -> NoReturn:
    line = ",".join(header)
    for delimiter, name in _DELIMITERS.items():
        if line.count(delimiter) >= len(KEYS) - 1:
            _fault("source_bad_header", part, f"its columns are separated by {name}; export it with commas")
    if len(header) == len(KEYS):
        _fault("source_bad_header", part, "no header: its first line holds no column name; put the 50 names there")
    _fault("source_bad_header", part, "no column of the encounter schema in its first line; is it another table?")


def _refuse_what_is_no_table(part: Part, line: str) -> None:
    start = line.lstrip().lower()
    if start.startswith(("<!doctype", "<html", "<?xml")):
        _fault("source_not_data", part, "a web page (HTML), not a CSV file; give the file's own address")
    if start.startswith(("{", "[")):
        _fault("source_not_data", part, "JSON, not a CSV file; export it as CSV or Parquet")
    if len(line) > _MAX_HEADER_BYTES:
        _fault("source_not_data", part, f"its first line is longer than {_MAX_HEADER_BYTES} bytes; is it a CSV file?")


def _refuse_other_encodings(part: Part, start: bytes) -> None:
    for mark, encoding in _OTHER_ENCODINGS.items():
        if start.startswith(mark):
            _fault("source_not_data", part, f"{encoding} text; save it as UTF-8")


def _refuse_other_bytes(part: Part, text: bytes, line: int) -> None:
    if b"\0" in text:
        _fault("source_not_data", part, "holds NUL bytes, so it is not a CSV file; give the file that was exported")
    if b"\r" in text:
        at = line + text.count(b"\n", 0, text.index(b"\r"))
        _fault("source_not_data", part, f"line {at} holds a carriage return on its own; save it with LF line endings")
    if text.isascii():
        return
    try:
        text.decode()
    except UnicodeDecodeError as error:
        at = line + text.count(b"\n", 0, error.start)
        _fault("source_not_data", part, f"line {at} is not UTF-8 text (Latin-1, perhaps); save it as UTF-8")


def _unclosed(part: Part, block: bytes, line: int) -> NoReturn:
    """Name a line near the quote that was not closed: the last one that opens what no later line closes."""
    at = line + block.count(b"\n", 0, block.rindex(b'"'))
    _fault("source_not_data", part, f"a quote is opened and never closed, at line {at} or before; mend the quoting")


def _fault(code: Code, part: Part, what: str) -> NoReturn:
    raise SourceFault(code, f"{part.name}: {what}")
