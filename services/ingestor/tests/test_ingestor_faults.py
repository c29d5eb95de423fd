"""Whatever is wrong with a source as a whole is one clear fault."""

from __future__ import annotations

import gzip
import hashlib
import io
import threading
import zipfile
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from readmit_features.synthetic import write_sample
from readmit_ingestor.errors import SourceFault
from readmit_ingestor.reading import CsvReader
from readmit_ingestor.sources import download, open_source


@pytest.fixture(scope="module")
def sample() -> bytes:
    written = io.StringIO()
    write_sample(written, rows=50)
    return written.getvalue().encode()


def read(path: Path, tmp_path: Path) -> CsvReader:
    with open_source(str(path), cache_dir=tmp_path, uci_url="", on_bytes=lambda *_: None) as opened:
        reader = CsvReader(opened.stream, path.name)
        for _ in reader.chunks():
            pass
        return reader


def zipped(members: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    return buffer.getvalue()


@pytest.mark.parametrize("form", ["csv", "crlf", "bom", "gzip", "zip", "reordered"])
def test_every_form_of_the_same_rows_is_read_and_line_endings_make_no_other_data_set(
    form: str, sample: bytes, tmp_path: Path
) -> None:
    lines = sample.decode().splitlines()
    reordered = "\n".join(",".join(reversed(line.split(","))) for line in lines).encode() + b"\n"
    data = {
        "csv": sample,
        "crlf": sample.replace(b"\n", b"\r\n"),
        "bom": b"\xef\xbb\xbf" + sample,
        "gzip": gzip.compress(sample),
        "zip": zipped({"some/diabetic_data.csv": sample, "IDS_mapping.csv": b"a,b\n"}),
        "reordered": reordered,
    }[form]
    path = tmp_path / "source"
    path.write_bytes(data)
    digest = read(path, tmp_path).content_sha256
    if form not in {"bom", "reordered"}:
        assert digest == hashlib.sha256(sample).hexdigest()


@pytest.mark.parametrize(
    ("content", "code", "said"),
    [
        (b"", "source_empty", "empty"),
        (b"{header}\n", "source_empty", "no rows"),
        (b"<!DOCTYPE html><html>", "source_not_data", "HTML"),
        (b"a,b\n1,2\n", "source_bad_header", "no column of the encounter schema"),
        (b"{semicolons}", "source_bad_header", "comma-separated"),
        (b"{lacking}", "source_bad_header", "lacks the column(s) insulin"),
        (b"{doubled}", "source_bad_header", "insulin twice"),
        (b"{header}\n\xff\xfe\n", "source_not_data", "UTF-8"),
        (b"{header}\n\0\n", "source_not_data", "NUL"),
        (b"PK\x03\x04 truncated", "source_bad_archive", "damaged archive"),
        (b"\x1f\x8b\x08 truncated gzip", "source_bad_archive", "damaged archive"),
        (zipped({"a.csv": b"", "b.csv": b""}), "source_bad_archive", "exactly one CSV"),
        (zipped({"a.csv": b""}).replace(b"\x00\x00\x08\x00", b"\x01\x00\x08\x00"), "source_bad_archive", "encrypted"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_faulty_file_is_named_with_the_next_step(
    content: bytes, code: str, said: str, sample: bytes, tmp_path: Path
) -> None:
    header = sample.splitlines()[0]
    content = (
        content.replace(b"{header}", header)
        .replace(b"{semicolons}", sample.replace(b",", b";"))
        .replace(b"{lacking}", sample.replace(b"insulin", b"insuline", 1))
        .replace(b"{doubled}", header + b",insulin\n")
    )
    path = tmp_path / "source.csv"
    path.write_bytes(content)
    with pytest.raises(SourceFault) as fault:
        read(path, tmp_path)
    assert fault.value.code == code
    assert said in fault.value.message
    assert "source.csv" in fault.value.message
    assert "\n" not in fault.value.message


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(SourceFault, match=r"nowhere\.csv: no such file"):
        read(tmp_path / "nowhere.csv", tmp_path)


class _Handler(BaseHTTPRequestHandler):
    body = b""
    requests: list[str]

    def do_GET(self) -> None:
        self.requests.append(f"{self.path} {self.headers.get('range', '')}".strip())
        if self.path == "/missing":
            self.send_error(404)
            return
        wanted = self.headers.get("range")
        if self.headers.get("if-range") != '"one"':
            wanted = None
        start = int(wanted.removeprefix("bytes=").rstrip("-")) if wanted else 0
        body = self.body[start:]
        self.send_response(206 if wanted else 200)
        self.send_header("content-type", "text/html" if self.path == "/page" else "application/zip")
        self.send_header("content-length", str(len(body)))
        self.send_header("etag", '"one"')
        self.end_headers()
        self.wfile.write(body[: len(body) // 2] if self.path == "/cut" and not wanted else body)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002  the base class's name
        pass


@pytest.fixture
def server(sample: bytes) -> Iterator[tuple[str, type[_Handler]]]:
    handler = type("Handler", (_Handler,), {"body": sample, "requests": []})
    httpd = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=httpd.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield f"http://127.0.0.1:{httpd.server_address[1]}", handler
    httpd.shutdown()
    thread.join()
    httpd.server_close()


def test_a_download_is_kept_and_not_fetched_again(
    server: tuple[str, type[_Handler]], sample: bytes, tmp_path: Path
) -> None:
    url, handler = server
    for _ in range(2):
        assert download(f"{url}/data", tmp_path, lambda *_: None).read_bytes() == sample
    assert handler.requests == ["/data"]


def test_a_download_that_was_cut_is_resumed_where_it_ended(
    server: tuple[str, type[_Handler]], sample: bytes, tmp_path: Path
) -> None:
    url, handler = server
    with pytest.raises(SourceFault, match="again"):
        download(f"{url}/cut", tmp_path, lambda *_: None)
    assert download(f"{url}/cut", tmp_path, lambda *_: None).read_bytes() == sample
    assert handler.requests == ["/cut", f"/cut bytes={len(sample) // 2}-"]


def test_a_file_that_changed_between_two_tries_is_fetched_afresh(
    server: tuple[str, type[_Handler]], sample: bytes, tmp_path: Path
) -> None:
    url, _ = server
    with pytest.raises(SourceFault):
        download(f"{url}/cut", tmp_path, lambda *_: None)
    next(tmp_path.glob("*.validator")).write_text('"another"')
    with pytest.raises(SourceFault):  # from its beginning, and cut again
        download(f"{url}/cut", tmp_path, lambda *_: None)
    assert next(tmp_path.glob("*.part")).read_bytes() == sample[: len(sample) // 2]


def test_what_turns_out_not_to_be_data_is_not_kept(server: tuple[str, type[_Handler]], tmp_path: Path) -> None:
    url, handler = server
    handler.body = b"no,data\n1,2\n"
    for _ in range(2):
        with (
            pytest.raises(SourceFault, match="no column"),
            open_source(f"{url}/data", cache_dir=tmp_path, uci_url="", on_bytes=lambda *_: None) as opened,
        ):
            list(CsvReader(opened.stream, "x").chunks())
    assert handler.requests == ["/data", "/data"]


def test_names_and_sizes_that_no_machine_can_serve_are_faults(tmp_path: Path) -> None:
    for source in ("x" * 5_000, "sample:9999999"):
        with (
            pytest.raises(SourceFault),
            open_source(source, cache_dir=tmp_path, uci_url="", on_bytes=lambda *_: None),
        ):
            pass


@pytest.mark.parametrize(
    ("path", "code", "said"), [("/missing", "source_http_error", "404"), ("/page", "source_not_data", "HTML")]
)
def test_an_address_that_holds_no_data_is_named(
    path: str, code: str, said: str, server: tuple[str, type[_Handler]], tmp_path: Path
) -> None:
    with pytest.raises(SourceFault) as fault:
        download(server[0] + path, tmp_path, lambda *_: None)
    assert (fault.value.code, said in fault.value.message) == (code, True)


def test_an_address_that_nobody_answers_is_unreachable(tmp_path: Path) -> None:
    with pytest.raises(SourceFault) as fault:
        download("http://127.0.0.1:1/data", tmp_path, lambda *_: None)
    assert fault.value.code == "source_unreachable"
