"""Downloads: resumed when cut, asked about before they are used again, tried again when the server is away or busy."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from readmit_features.synthetic import sample_blocks
from readmit_ingestor.downloads import download
from readmit_ingestor.errors import SourceFault
from readmit_ingestor.reading import Reader
from readmit_ingestor.sources import Places, open_source

SAMPLE = b"".join(sample_blocks(50))


class _Handler(BaseHTTPRequestHandler):
    """Serves `body` under every path; some paths misbehave. `fails` answers with these codes first."""

    body: bytes
    etag: str
    requests: list[str]
    fails: list[int]
    cuts: int

    def do_GET(self) -> None:
        asked = {name: self.headers.get(name) for name in ("range", "if-none-match")}
        self.requests.append(" ".join([self.path.partition("?")[0], *filter(None, asked.values())]))
        if self.fails:
            code = self.fails.pop(0)
            self.send_response(code)
            self.send_header("retry-after", "0")
            self.send_header("content-length", "0")
            self.end_headers()
            return
        if self.etag and asked["if-none-match"] == self.etag:
            self.send_response(304)
            self.end_headers()
            return
        wanted = asked["range"] if self.headers.get("if-range") == self.etag else None
        start = int(wanted.removeprefix("bytes=").rstrip("-")) if wanted else 0
        body = self.body[start:]
        self.send_response(206 if wanted else 200)
        self.send_header("content-type", "text/html" if self.path == "/page" else "application/zip")
        self.send_header("content-length", str(len(body)))
        if self.etag:
            self.send_header("etag", self.etag)
        self.end_headers()
        if type(self).cuts:
            type(self).cuts -= 1
            body = body[: len(body) // 2]
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002  the base class's name
        pass


@pytest.fixture
def server() -> Iterator[tuple[str, type[_Handler]]]:
    handler = type("Handler", (_Handler,), {"body": SAMPLE, "etag": '"one"', "requests": [], "fails": [], "cuts": 0})
    httpd = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=httpd.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield f"http://127.0.0.1:{httpd.server_address[1]}", handler
    httpd.shutdown()
    thread.join()
    httpd.server_close()


Server = tuple[str, type[_Handler]]


def fetch(url: str, cache: Path, tries: int = 0) -> bytes:
    return download(url, cache, lambda *_: None, pauses=lambda: iter([0.0] * tries)).read_bytes()


def test_a_whole_copy_is_used_again_when_the_server_says_that_nothing_changed(server: Server, tmp_path: Path) -> None:
    url, handler = server
    for _ in range(2):
        assert fetch(f"{url}/data", tmp_path) == SAMPLE
    assert handler.requests == ["/data", '/data "one"']


def test_a_source_that_has_changed_is_fetched_again(server: Server, tmp_path: Path) -> None:
    url, handler = server
    fetch(f"{url}/data", tmp_path)
    handler.body, handler.etag = SAMPLE + b"\n", '"two"'
    assert fetch(f"{url}/data", tmp_path) == SAMPLE + b"\n"
    assert fetch(f"{url}/data", tmp_path) == SAMPLE + b"\n"
    assert handler.requests[-1] == '/data "two"'


def test_a_server_that_names_no_state_of_the_file_is_asked_for_all_of_it(server: Server, tmp_path: Path) -> None:
    url, handler = server
    handler.etag = ""
    for _ in range(2):
        assert fetch(f"{url}/data", tmp_path) == SAMPLE
    assert handler.requests == ["/data", "/data"]


def test_a_download_that_was_cut_is_resumed_where_it_ended_by_the_next_try(server: Server, tmp_path: Path) -> None:
    url, handler = server
    handler.cuts = 2
    with pytest.raises(SourceFault, match="again"):
        fetch(f"{url}/data", tmp_path)
    assert fetch(f"{url}/data", tmp_path, tries=1) == SAMPLE
    half = len(SAMPLE) // 2
    assert handler.requests == ["/data", f"/data bytes={half}-", f"/data bytes={half + (len(SAMPLE) - half) // 2}-"]


def test_a_file_that_changed_between_two_tries_is_fetched_afresh(server: Server, tmp_path: Path) -> None:
    url, handler = server
    handler.cuts = 1
    with pytest.raises(SourceFault):
        fetch(f"{url}/data", tmp_path)
    handler.body, handler.etag = SAMPLE.replace(b"No", b"no"), '"two"'
    assert fetch(f"{url}/data", tmp_path) == handler.body


@pytest.mark.parametrize("code", [429, 500, 503])
def test_a_server_that_is_busy_is_asked_again_and_not_for_ever(code: int, server: Server, tmp_path: Path) -> None:
    url, handler = server
    handler.fails = [code, code]
    assert fetch(f"{url}/data", tmp_path, tries=2) == SAMPLE
    handler.fails = [code] * 5
    with pytest.raises(SourceFault, match=f"goes on answering {code}") as fault:
        fetch(f"{url}/other", tmp_path, tries=2)
    assert fault.value.code == "source_http_error"
    assert len(handler.requests) == 6


@pytest.mark.parametrize(
    ("path", "fails", "code", "said"),
    [("/gone", [404], "source_http_error", "404"), ("/page", [], "source_not_data", "HTML")],
)
def test_an_address_that_holds_no_data_is_named_at_once(
    path: str, fails: list[int], code: str, said: str, server: Server, tmp_path: Path
) -> None:
    url, handler = server
    handler.fails = fails
    with pytest.raises(SourceFault) as fault:
        fetch(url + path, tmp_path, tries=3)
    assert (fault.value.code, said in fault.value.message, len(handler.requests)) == (code, True, 1)


def test_where_nobody_answers_an_earlier_copy_is_used_and_said_so(
    server: Server, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    url = "http://127.0.0.1:1/data?token=secret"
    with pytest.raises(SourceFault) as fault:
        fetch(url, tmp_path, tries=1)
    assert fault.value.code == "source_unreachable"
    assert "secret" not in fault.value.message
    (tmp_path / hashlib.sha256(url.encode()).hexdigest()).write_bytes(SAMPLE)
    assert fetch(url, tmp_path) == SAMPLE
    said = capsys.readouterr().out
    assert "source_served_from_cache" in said
    assert "secret" not in said


@pytest.mark.parametrize("content", [b"no,data\n1,2\n", SAMPLE])
def test_what_turns_out_not_to_be_what_was_meant_is_not_kept(content: bytes, server: Server, tmp_path: Path) -> None:
    url, handler = server
    handler.body = content
    source = f"{url}/data" + ("" if content != SAMPLE else f"#sha256={'0' * 64}")
    for _ in range(2):
        with (
            pytest.raises(SourceFault),
            open_source(source, Places(tmp_path, ""), lambda *_: None) as opened,
        ):
            list(Reader(opened.parts, "x").chunks())
    assert handler.requests == ["/data", "/data"]


def test_progress_is_told_with_the_size(server: Server, tmp_path: Path) -> None:
    told: list[tuple[int, int | None]] = []
    download(f"{server[0]}/data", tmp_path, lambda done, total: told.append((done, total)))
    assert told[-1] == (len(SAMPLE), len(SAMPLE))


@pytest.mark.parametrize("url", ["http://[broken", "http://exa mple.org/x", "http:///x"])
def test_what_is_no_address_is_a_fault(url: str, tmp_path: Path) -> None:
    with pytest.raises(SourceFault):
        fetch(url, tmp_path)
