"""Every file that is no table of encounters is one clear fault: what is wrong, with which file, and the next step."""

from __future__ import annotations

import gzip
import io
import os
import stat
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from readmit_contracts.encounter import COLUMNS
from readmit_features.synthetic import sample_blocks
from readmit_ingestor.errors import SourceFault
from readmit_ingestor.reading import Reader
from readmit_ingestor.sources import Places, open_source

SAMPLE = b"".join(sample_blocks(50))
HEADER, ROW = SAMPLE.splitlines(keepends=True)[:2]
NAMES = [column.name for column in COLUMNS]


def zipped(
    members: dict[str, bytes],
    change: Callable[[zipfile.ZipInfo], None] = lambda _: None,
    method: int = zipfile.ZIP_DEFLATED,
) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, data in members.items():
            info = zipfile.ZipInfo(name)
            info.compress_type = method
            change(info)
            archive.writestr(info, data)
    return buffer.getvalue()


def link(info: zipfile.ZipInfo) -> None:
    info.create_system = 3
    info.external_attr = (stat.S_IFLNK | 0o777) << 16


def altered(archive: bytes, at: int, value: int) -> bytes:
    """One byte of the archive's table of contents changed."""
    start = archive.rindex(b"PK\x01\x02") + at
    return archive[:start] + bytes([value]) + archive[start + 1 :]


def parquet(columns: Mapping[str, object], **options: object) -> bytes:
    sink = io.BytesIO()
    pq.write_table(pa.table(columns), sink, **options)
    return sink.getvalue()


def alike(rows: int) -> pa.Array:
    """So many equal cells, which Parquet writes in a few bytes."""
    return pa.DictionaryArray.from_arrays(pa.array(np.zeros(rows, np.int8)), pa.array(["No"]))


def tar_like() -> bytes:
    return b"diabetic_data.csv".ljust(257, b"\0") + b"ustar\x0000" + b"\0" * 249 + SAMPLE


_NESTED = {name: [["x"]] if name == "insulin" else ["x"] for name in NAMES}
_CONTENTS = {f"{at:04}" + "x" * 1000: b"" for at in range(4_200)}
_BOMB = HEADER + (b"0" * 1_000_000 + b"\n") * 80

BAD_FILES: dict[str, tuple[bytes, str, str]] = {
    "empty.csv": (b"", "source_empty", "empty; give a CSV"),
    "header_only.csv": (HEADER, "source_empty", "a header and no rows"),
    "web_page.csv": (b"<!DOCTYPE html><html>", "source_not_data", "a web page (HTML)"),
    "json.csv": (b'[{"encounter_id": 1}]\n', "source_not_data", "JSON"),
    "another_table.csv": (b"a,b\n1,2\n", "source_bad_header", "no column of the encounter schema"),
    "semicolons.csv": (SAMPLE.replace(b",", b";"), "source_bad_header", "separated by semicolons"),
    "tabs.csv": (SAMPLE.replace(b",", b"\t"), "source_bad_header", "separated by tabs"),
    "bars.csv": (SAMPLE.replace(b",", b"|"), "source_bad_header", "separated by vertical bars"),
    "no_header.csv": (ROW * 3, "source_bad_header", "no header"),
    "lacks_a_column.csv": (SAMPLE.replace(b"insulin", b"x", 1), "source_bad_header", "lacks the column(s) insulin"),
    "doubles_a_column.csv": (HEADER.strip() + b",insulin\n", "source_bad_header", "has the column(s) insulin twice"),
    "latin1.csv": (HEADER + ROW + "é".encode("latin-1") + ROW, "source_not_data", "line 3 is not UTF-8"),
    "utf16.csv": (SAMPLE.decode().encode("utf-16"), "source_not_data", "UTF-16 text"),
    "utf32.csv": (b"\0\0\xfe\xff" + SAMPLE, "source_not_data", "UTF-32 text"),
    "nul.csv": (HEADER + b"\0\n", "source_not_data", "NUL bytes"),
    "old_mac.csv": (SAMPLE.replace(b"\n", b"\r"), "source_not_data", "carriage return on its own"),
    "unclosed_quote.csv": (HEADER + b'"' + ROW, "source_not_data", "a quote is opened and never closed"),
    "quote_in_a_cell.csv": (HEADER + b'"a"b,' + ROW, "source_not_data", "line 2 is not CSV"),
    "quote_in_the_header.csv": (b'"a"b,' + SAMPLE, "source_not_data", "its first line is not CSV"),
    "long_first_line.csv": (b"x" * 70_000 + b"\n", "source_not_data", "first line is longer than"),
    "truncated.zip": (zipped({"a.csv": SAMPLE})[:-30], "source_bad_archive", "damaged archive (File is not a zip"),
    "altered.zip": (zipped({"a.csv": ROW}).replace(b"PK\x01\x02", b"PK\x01\x03"), "source_bad_archive", "magic number"),
    "truncated.csv.gz": (gzip.compress(SAMPLE)[:-20], "source_bad_archive", "Compressed file ended"),
    "altered.csv.gz": (gzip.compress(SAMPLE)[:-8] + b"\0" * 8, "source_bad_archive", "CRC check failed"),
    "empty.zip": (zipped({}), "source_bad_archive", "an empty archive"),
    "no_table.zip": (zipped({"readme.txt": b"hello"}), "source_bad_archive", "has none"),
    "two_tables.zip": (zipped({"a.csv": SAMPLE, "b.csv": SAMPLE}), "source_bad_archive", "has a.csv, b.csv"),
    "encrypted.zip": (
        zipped({"a.csv": b""}).replace(b"\x00\x00\x08\x00", b"\x01\x00\x08\x00"), "source_bad_archive", "encrypted",
    ),
    "climbs.zip": (zipped({"../../etc/a.csv": SAMPLE}), "source_bad_archive", "leads out of it ('../../etc/a.csv')"),
    "absolute.zip": (zipped({"/etc/a.csv": SAMPLE}), "source_bad_archive", "leads out of it ('/etc/a.csv')"),
    "drive.zip": (zipped({"C:\\a.csv": SAMPLE}), "source_bad_archive", "leads out of it"),
    "drive_too.zip": (zipped({"d:b.csv": SAMPLE}), "source_bad_archive", "leads out of it ('d:b.csv')"),
    "link.zip": (zipped({"a.csv": b"/etc/passwd"}, link), "source_bad_archive", "a symbolic link"),
    "method.zip": (
        zipped({"a.csv": SAMPLE}, method=zipfile.ZIP_LZMA), "source_bad_archive", "packed with an unusual method",
    ),
    "version.zip": (altered(zipped({"a.csv": ROW}), 6, 99), "source_bad_archive", "zip file version 9.9"),
    "place.zip": (altered(zipped({"a.csv": ROW}), 45, 99), "source_bad_archive", "damaged archive"),
    "says_too_much.zip": (altered(zipped({"a.csv": _BOMB}), 23, 64), "source_bad_archive", "damaged archive"),
    "contents.zip": (zipped(_CONTENTS), "source_bad_archive", "its table of contents is too long"),
    "no_name.zip": (zipped({"": SAMPLE, "a": b""}), "source_bad_archive", "exactly one CSV inside, has none"),
    "nested.zip": (zipped({"b.zip": zipped({"a.csv": ROW})}), "source_bad_archive", "an archive within an archive"),
    "excel.xlsx": (zipped({"xl/workbook.xml": b""}), "source_bad_archive", "an Excel workbook"),
    "old_excel.xls": (b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" * 9, "source_not_data", "an old Excel workbook"),
    "packed_twice.csv.gz": (gzip.compress(gzip.compress(SAMPLE)), "source_bad_archive", "packed twice"),
    "tar.tar.gz": (gzip.compress(tar_like()), "source_bad_archive", "a tar archive"),
    "bomb.zip": (zipped({"a.csv": _BOMB}), "source_bad_archive", "unpacks to more than 100 times"),
    "bomb.csv.gz": (gzip.compress(_BOMB), "source_bad_archive", "unpacks to more than 100 times"),
    "bomb.parquet": (parquet(dict.fromkeys(NAMES, alike(1_500_000))), "source_bad_archive", "more than 100 times"),
    "bomb_too.parquet": (
        parquet({"a": ["x" * 70_000_000]}, compression="zstd", use_dictionary=False, write_statistics=False),
        "source_bad_archive", "more than 100 times",
    ),
    "long_cell.parquet": (
        parquet({name: [text] for name, text in zip(NAMES, ["x" * 70_000, *["x"] * 49], strict=True)}),
        "source_not_data", "a cell of more than 65536 bytes",
    ),
    "foreign_name.parquet": (
        parquet({"insuliX": ["x"]}).replace(b"insuliX", b"insuli\xff"), "source_not_data", "damaged Parquet",
    ),
    "zstd.csv.zst": (b"\x28\xb5\x2f\xfd\x00", "source_not_data", "packed with zstd"),
    "seven.7z": (b"7z\xbc\xaf\x27\x1c", "source_not_data", "a 7z archive"),
    "old.rar": (b"Rar!\x1a\x07", "source_not_data", "a RAR archive"),
    "tables.sqlite": (b"SQLite format 3\0", "source_not_data", "an SQLite database"),
    "no_columns.parquet": (parquet({}), "source_bad_header", "no column of the encounter schema"),
    "bzip2.csv.bz2": (b"BZh91AY&SY", "source_not_data", "packed with bzip2"),
    "xz.csv.xz": (b"\xfd7zXZ\x00\x00", "source_not_data", "packed with xz"),
    "report.pdf": (b"%PDF-1.7", "source_not_data", "a PDF"),
    "damaged.parquet": (b"PAR1" + b"\0" * 50, "source_not_data", "damaged Parquet"),
    "another.parquet": (parquet({"a": ["x"]}), "source_bad_header", "is it another table?"),
    "lacking.parquet": (
        parquet({name: ["x"] for name in NAMES if name != "age"}), "source_bad_header", "lacks the column(s) age",
    ),
    "empty.parquet": (parquet({name: pa.array([], pa.string()) for name in NAMES}), "source_empty", "no rows"),
    "nested.parquet": (parquet(_NESTED), "source_not_data", "nested values"),
    "nul.parquet": (parquet({name: ["a\0b"] for name in NAMES}), "source_not_data", "NUL characters"),
    "packed.parquet.gz": (gzip.compress(parquet({"a": ["x"]})), "source_bad_archive", "a packed Parquet file"),
}  # fmt: skip


def fault_of(path: Path, places: Places) -> SourceFault:
    with (
        pytest.raises(SourceFault) as fault,
        open_source(str(path), places, lambda *_: None) as opened,
    ):
        for _ in Reader(opened.parts, path.name).chunks():
            pass
    return fault.value


@pytest.fixture
def places(tmp_path: Path) -> Places:
    return Places(tmp_path / "cache", "")


@pytest.mark.parametrize("name", BAD_FILES)
def test_a_bad_file_is_named_with_what_is_wrong_and_the_next_step(name: str, tmp_path: Path, places: Places) -> None:
    content, code, said = BAD_FILES[name]
    path = tmp_path / name
    path.write_bytes(content)
    fault = fault_of(path, places)
    assert (fault.code, said in fault.message) == (code, True), fault.message
    assert fault.message.startswith(f"{name}: ")
    assert "\n" not in fault.message
    assert len(fault.message) < 300
    assert fault.message.isprintable()
    assert "()" not in fault.message
    assert any(mark in fault.message for mark in (";", "?")), "no next step"
    assert list(tmp_path.iterdir()) == [path]


def test_no_two_bad_files_are_told_in_the_same_words(tmp_path: Path, places: Places) -> None:
    told: dict[str, str] = {}
    for name, (content, _, _) in BAD_FILES.items():
        if name.startswith("bomb") or name in {"empty.parquet", "lacking.parquet", "another.parquet",
                                               "no_columns.parquet", "no_name.zip"}:  # fmt: skip
            continue  # one fault in two forms
        path = tmp_path / name
        path.write_bytes(content)
        message = fault_of(path, places).message.removeprefix(f"{name}: ")
        assert message not in told, (name, told.get(message))
        told[message] = name
    assert len(told) > 30


def test_no_cell_of_a_row_stands_in_a_message(tmp_path: Path, places: Places) -> None:
    path = tmp_path / "secret.csv"
    for content in (HEADER + b'"secret' + ROW, HEADER + b'"secret"x,' + ROW, ROW.replace(b"Caucasian", b"secret")):
        path.write_bytes(content)
        assert "secret" not in fault_of(path, places).message.removeprefix("secret.csv")


def test_a_quote_that_swallows_the_rest_is_found_before_the_memory_is_full(tmp_path: Path, places: Places) -> None:
    path = tmp_path / "open.csv"
    path.write_bytes(HEADER + b'"' + ROW * 80_000)
    assert "never closed" in fault_of(path, places).message


def test_what_is_larger_than_allowed_is_refused_by_its_size_or_while_it_comes(tmp_path: Path) -> None:
    places = Places(tmp_path / "cache", "", max_bytes=1_000)
    for name, content in (
        ("large.zip", zipped({"a.csv": SAMPLE})),
        ("large.csv.gz", gzip.compress(SAMPLE)),
        ("large.csv", SAMPLE),
        ("large.parquet", parquet({"a": ["x"] * 100})),
    ):
        path = tmp_path / name
        path.write_bytes(content)
        fault = fault_of(path, places)
        assert (fault.code, "INGESTOR_MAX_SOURCE_BYTES" in fault.message) == ("source_too_large", True)


def test_paths_that_hold_no_file_are_faults_and_never_hang(tmp_path: Path, places: Places) -> None:
    os.mkfifo(tmp_path / "pipe.csv")
    (tmp_path / "folder").mkdir()
    for path, said in (
        ("/dev/zero", "not a regular file"),
        (str(tmp_path / "pipe.csv"), "not a regular file"),
        (f"/dev/zero#sha256={'0' * 64}", "not a regular file"),
        (f"{tmp_path / 'pipe.csv'}#sha256={'0' * 64}", "not a regular file"),
        (str(tmp_path / "folder"), "a folder without"),
        (str(tmp_path / "nowhere.csv"), "no such file"),
        ("x" * 5_000, "cannot be read"),
        ("a\0b", "no such file"),
        ("ftp://example.org/a.csv", "give a path"),
        ("s3://bucket/a.csv", "INGESTOR_S3__ENDPOINT_URL"),
        (f"sample:{10**12}", "rows can be made"),
    ):
        with pytest.raises(SourceFault) as fault, open_source(path, places, lambda *_: None) as opened:
            for _ in opened.parts:
                pass
        assert said in fault.value.message


@settings(max_examples=150, deadline=None)
@given(
    content=st.binary(max_size=200) | st.binary(max_size=80).map(lambda data: HEADER + data),
    pack=st.sampled_from([bytes, gzip.compress, lambda data: zipped({"a.csv": data})]),
)  # fmt: skip
def test_any_bytes_are_rows_or_a_fault(
    content: bytes, pack: Callable[[bytes], bytes], tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = tmp_path_factory.getbasetemp() / "any"
    path.write_bytes(pack(content))
    rows, fault = 0, ""
    try:
        with open_source(str(path), Places(path.parent, ""), lambda *_: None) as opened:
            rows = sum(chunk.rows for chunk in Reader(opened.parts, "any").chunks())
    except SourceFault as found:
        fault = found.message
    assert bool(rows) != bool(fault)


_WHOLE = {
    "csv": SAMPLE,
    "gzip": gzip.compress(SAMPLE, mtime=0),
    "zip": zipped({"d/": b"", "d/diabetic_data.csv": SAMPLE, "e.csv": b""}),
    "stored zip": zipped({"a.csv": SAMPLE}, method=zipfile.ZIP_STORED),
    "parquet": parquet({name: [str(at) for at in range(20)] for name in NAMES}),
}


@settings(max_examples=400, deadline=None)
@given(
    form=st.sampled_from(sorted(_WHOLE)),
    changes=st.lists(
        st.tuples(st.integers(0, 1 << 16), st.booleans(), st.sampled_from(b"\0\xff\",\n\r") | st.integers(0, 255)),
        min_size=1, max_size=20,
    ),
    kept=st.floats(0, 1) | st.just(1.0),
)  # fmt: skip
def test_any_damage_to_a_file_leaves_rows_or_a_fault(
    form: str, changes: list[tuple[int, bool, int]], kept: float, tmp_path_factory: pytest.TempPathFactory
) -> None:
    content = bytearray(_WHOLE[form])
    for number, from_the_end, value in changes:
        at = number % min(len(content), 400 if from_the_end else len(content))  # where an archive says what it holds
        content[-1 - at if from_the_end else at] = value
    path = tmp_path_factory.getbasetemp() / "damaged"
    path.write_bytes(content[: round(kept * len(content))])
    rows, fault = 0, ""
    try:
        with open_source(str(path), Places(path.parent, ""), lambda *_: None) as opened:
            rows = sum(chunk.rows for chunk in Reader(opened.parts, "damaged").chunks())
    except SourceFault as found:
        fault = found.message
    assert bool(rows) != bool(fault)
    assert fault.isprintable()
