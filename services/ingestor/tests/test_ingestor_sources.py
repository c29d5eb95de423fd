"""The same rows are the same data set in whatever form and from whatever place they come."""

from __future__ import annotations

import gzip
import hashlib
import io
import os
import shutil
import tempfile
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.csv as pa_csv
import pyarrow.parquet as pq
import pytest

from readmit_chassis.s3 import MemoryStore, S3Store
from readmit_features.synthetic import sample_blocks
from readmit_ingestor import objects
from readmit_ingestor.addresses import shown, split_checksum
from readmit_ingestor.cached import Cached
from readmit_ingestor.errors import SourceFault
from readmit_ingestor.reading import Reader
from readmit_ingestor.sources import Places, open_source

SAMPLE = b"".join(sample_blocks(50))
DIGEST = hashlib.sha256(SAMPLE).hexdigest()
MAX_BYTES = 1_000_000


def zipped(members: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    return buffer.getvalue()


def as_parquet(data: bytes) -> bytes:
    sink = io.BytesIO()
    pq.write_table(
        pa_csv.read_csv(pa.py_buffer(data), convert_options=pa_csv.ConvertOptions(strings_can_be_null=True)), sink
    )
    return sink.getvalue()


def read(source: str, places: Places) -> tuple[list[str], str, int]:
    """Names of the parts, the content's digest, and how many rows there are."""
    names, rows = [], 0
    with open_source(source, places, lambda *_: None) as opened:
        reader = Reader(opened.parts, source)
        rows = sum(chunk.rows for chunk in reader.chunks())
        names = [part.name for part in reader.parts_read]
    return names, reader.content_sha256, rows


@pytest.fixture
def places(tmp_path: Path) -> Places:
    return Places(tmp_path / "cache", "")


def test_every_form_of_the_same_rows_is_the_same_data_set(tmp_path: Path, places: Places) -> None:
    for form, data in {
        "csv": SAMPLE,
        "crlf": SAMPLE.replace(b"\n", b"\r\n"),
        "gzip": gzip.compress(SAMPLE),
        "zip": zipped({"some/diabetic_data.csv": SAMPLE, "IDS_mapping.csv": b"a,b\n"}),
        "zip of one": zipped({"folder/": b"", "folder/any.CSV": SAMPLE}),
    }.items():
        path = tmp_path / form
        path.write_bytes(data)
        assert read(str(path), places) == ([form], DIGEST, 50)


@pytest.mark.parametrize("change", ["bom", "reordered", "parquet"])
def test_the_same_rows_written_otherwise_are_read_alike(change: str, tmp_path: Path, places: Places) -> None:
    lines = SAMPLE.decode().splitlines()
    path = tmp_path / change
    path.write_bytes(
        {
            "bom": b"\xef\xbb\xbf" + SAMPLE,
            "reordered": "\n".join(",".join(reversed(line.split(","))) for line in lines).encode() + b"\n",
            "parquet": as_parquet(SAMPLE),
        }[change]
    )
    with open_source(str(path), places, lambda *_: None) as opened:
        [chunk] = Reader(opened.parts, change).chunks()
    expected = list(zip(*(line.split(",") for line in lines[1:]), strict=True))
    assert [tuple(column.to_pylist()) for column in chunk.cells.columns] == expected


def test_a_folder_is_its_tables_in_the_order_of_their_names(tmp_path: Path, places: Places) -> None:
    folder = tmp_path / "months"
    (folder / "2026").mkdir(parents=True)
    (folder / ".hidden").mkdir()
    for name, data in {
        "2026/02.csv.gz": gzip.compress(SAMPLE), "2026/01.csv": SAMPLE, "a.parquet": as_parquet(SAMPLE),
        "readme.txt": b"no table", ".hidden/x.csv": b"", ".y.csv": b"", "z.zip": zipped({"z.csv": SAMPLE}),
    }.items():  # fmt: skip
        (folder / name).write_bytes(data)
    names, _, rows = read(str(folder), places)
    assert names == ["2026/01.csv", "2026/02.csv.gz", "a.parquet", "z.zip"]
    assert rows == 200


def test_a_sample_is_streamed_and_marked(places: Places) -> None:
    with open_source("sample:120000", places, lambda *_: None) as opened:
        assert opened.synthetic
        assert sum(chunk.rows for chunk in Reader(opened.parts, "x").chunks()) == 120_000


def test_a_checksum_behind_the_name_is_held_against_the_file(tmp_path: Path, places: Places) -> None:
    path = tmp_path / "a#b.csv"
    path.write_bytes(SAMPLE)
    assert read(f"{path}#sha256={DIGEST.upper()}", places)[2] == 50
    for wrong, said in (("0" * 64, f"is {DIGEST}, not 0000"), ("abc", "64 hexadecimal digits")):
        with pytest.raises(SourceFault, match=said) as fault:
            read(f"{path}#sha256={wrong}", places)
        assert fault.value.code == "source_checksum_mismatch"
    with pytest.raises(SourceFault, match="a folder has no checksum"):
        read(f"{tmp_path}#sha256={DIGEST}", places)


def test_an_object_and_a_prefix_of_a_bucket_are_sources(tmp_path: Path) -> None:
    store = MemoryStore()
    store.objects = {
        "s3://b/in/2.csv": SAMPLE,
        "s3://b/in/1.zip": zipped({"x.csv": SAMPLE}),
        "s3://b/in/notes.txt": b"-",
        "s3://b/in/.kept/x.csv": b"-",
    }
    places = Places(tmp_path / "cache", "", store)
    assert read("s3://b/in/2.csv", places) == (["2.csv"], DIGEST, 50)
    assert read("s3://b/in/", places)[0] == ["1.zip", "2.csv"]
    assert read(f"s3://b/in/2.csv#sha256={DIGEST}", places)[1] == DIGEST
    for address, said in (
        ("s3://b/in", "no such object"),
        ("s3://b/out/", "holds no .csv"),
        (f"s3://b/in/#sha256={DIGEST}", "a folder has no checksum"),
        *((address, "no address of an object") for address in ("s3://", "s3:///", "s3:///x", "s3://b", "s3://b c/d")),
        ("s3://b/" + "x" * 1025, "no address of an object"),
    ):
        with pytest.raises(SourceFault, match=said):
            read(address, places)
    store.available = False
    with pytest.raises(SourceFault, match="the store is away"):
        objects.fetch(
            store,
            "s3://b/in/2.csv",
            tmp_path / "cache",
            lambda *_: None,
            max_bytes=MAX_BYTES,
            pauses=lambda: iter([0.0]),
        )


def test_an_object_is_fetched_again_only_when_it_has_changed_and_resumed_where_it_was_cut(tmp_path: Path) -> None:
    class Cutting(MemoryStore):
        asked: list[int] = []  # noqa: RUF012  one test, one store

        def blocks(self, uri: str, *, etag: str, offset: int = 0):  # type: ignore[no-untyped-def]
            self.asked.append(offset)
            [data] = super().blocks(uri, etag=etag, offset=offset)
            yield data[:1000]
            if offset == 0:
                self.available = False
                self._check(uri)
            yield data[1000:]

    store = Cutting()
    store.put("s3://b/a.csv", SAMPLE)

    def back() -> float:
        store.available = True
        return 0.0

    for _ in range(2):
        path = objects.fetch(
            store, "s3://b/a.csv", tmp_path, lambda *_: None, max_bytes=MAX_BYTES, pauses=lambda: iter(back, None)
        )
        assert path.read_bytes() == SAMPLE
    assert store.asked == [0, 1000]
    store.put("s3://b/a.csv", SAMPLE + b"\n")
    path = objects.fetch(
        store, "s3://b/a.csv", tmp_path, lambda *_: None, max_bytes=MAX_BYTES, pauses=lambda: iter(back, None)
    )
    assert path.read_bytes() == SAMPLE + b"\n"


def test_of_the_objects_of_a_prefix_only_the_one_that_is_no_data_is_not_kept(tmp_path: Path) -> None:
    store = MemoryStore()
    store.objects = {"s3://b/in/1.csv": SAMPLE, "s3://b/in/2.csv": b"no,data\n", "s3://b/in/3.csv": SAMPLE}
    with pytest.raises(SourceFault, match=r"^2\.csv: "):
        read("s3://b/in/", Places(tmp_path, "", store))
    assert [path.read_bytes() for path in tmp_path.iterdir() if not path.suffix] == [SAMPLE]
    assert len(list(tmp_path.iterdir())) == 2


def test_an_object_that_is_larger_than_allowed_is_not_fetched(tmp_path: Path) -> None:
    store, told = MemoryStore(), []
    store.put("s3://b/a.csv", SAMPLE)
    with pytest.raises(SourceFault, match="INGESTOR_MAX_SOURCE_BYTES") as fault:
        objects.fetch(store, "s3://b/a.csv", tmp_path, lambda done, _: told.append(done), max_bytes=1_000)
    assert (fault.value.code, told, list(tmp_path.iterdir())) == ("source_too_large", [], [])


@pytest.mark.stack
def test_a_bucket_of_a_real_server_is_a_source_that_is_resumed_and_asked_about(tmp_path: Path) -> None:
    from readmit_chassis.testing import s3_server  # noqa: PLC0415  needs the testing extra, which not all have

    uri, grown = "s3://hospital/2026/may.csv", SAMPLE + SAMPLE.partition(b"\n")[2]
    with s3_server("hospital") as settings:
        store = S3Store(settings)
        places = Places(tmp_path / "cache", "", store)
        store.put(uri, SAMPLE)
        store.put("s3://hospital/2026/june.zip", zipped({"june.csv": SAMPLE}))
        assert read("s3://hospital/2026/", places)[::2] == (["june.zip", "may.csv"], 100)

        cached = Cached.of(places.cache_dir, uri)
        told: list[int] = []

        def fetch() -> bytes:
            told.clear()
            done = lambda done, _: told.append(done)  # noqa: E731
            return objects.fetch(store, uri, places.cache_dir, done, max_bytes=MAX_BYTES).read_bytes()

        assert (fetch(), told) == (SAMPLE, [])
        store.put(uri, grown)
        cached.begin(store.stat(uri).etag, keep=False)
        cached.partial.write_bytes(grown[:1000])
        assert (fetch(), told) == (grown, [len(grown)])
        assert read(uri, places)[2] == 100
        with pytest.raises(SourceFault, match="no such bucket"):
            read("s3://elsewhere/", places)


def test_names_from_outside_are_shown_and_kept_as_one_line_of_text(tmp_path: Path, places: Places) -> None:
    folder = tmp_path / "named\nby somebody"
    folder.mkdir()
    (folder / os.fsdecode(b"a\xff\n\x1b[31m.csv")).write_bytes(SAMPLE)
    assert read(str(folder), places)[0] == [r"a\udcff\n\x1b[31m.csv"]
    (folder / "b.zip").write_bytes(zipped({"x\ny.csv": b"", "z.csv": b""}))
    (tmp_path / "empty\n").mkdir()
    for source in (folder, tmp_path / "empty\n", tmp_path / "not\nthere", f"{'x' * 200}/" * 30):
        with pytest.raises(SourceFault) as fault:
            read(str(source), places)
        assert fault.value.message.isprintable()
        assert len(fault.value.message) <= 500


@pytest.fixture
def somebody() -> Iterator[Path]:
    """A folder for files that the test, which has no privileges meanwhile, may be kept from."""
    folder = Path(tempfile.mkdtemp())
    folder.chmod(0o755)
    user = os.geteuid()
    if user == 0:
        os.seteuid(65534)
    try:
        yield folder
    finally:
        os.seteuid(user)
        shutil.rmtree(folder)


def test_what_may_not_be_read_is_a_fault_and_never_left_out(somebody: Path) -> None:
    user = os.geteuid()
    os.seteuid(os.getuid())  # whoever owns the folder
    (somebody / "closed").mkdir()
    for path in (somebody / "a.csv", somebody / "closed" / "b.csv"):
        path.write_bytes(SAMPLE)
    (somebody / "closed").chmod(0)
    os.seteuid(user)
    places = Places(somebody / "cache", "")
    with pytest.raises(SourceFault, match="Permission denied"):
        read(str(somebody), places)
    for path in (somebody / "closed" / "b.csv", somebody / "closed"):
        with pytest.raises(SourceFault, match="cannot be read"):
            read(str(path), places)
    os.seteuid(os.getuid())
    (somebody / "closed").chmod(0o755)
    (somebody / "a.csv").chmod(0)
    os.seteuid(user)
    with pytest.raises(SourceFault, match="check the path and its permissions"):
        read(str(somebody / "a.csv"), places)


@pytest.mark.parametrize(
    ("source", "said"),
    [
        ("https://user:secret@example.org:8443/a.csv?sig=secret#x", "https://example.org:8443/a.csv"),
        ("https://[broken/a?sig=secret", "https://…"),
        ("s3://bucket/key.csv", "s3://bucket/key.csv"),
        ("/data/a.csv", "/data/a.csv"),
        ("uci", "uci"),
    ],
)
def test_an_address_is_shown_without_what_may_be_secret(source: str, said: str) -> None:
    assert shown(source) == said


def test_an_address_without_a_checksum_is_left_alone() -> None:
    assert split_checksum("https://example.org/a#part") == ("https://example.org/a#part", None)
