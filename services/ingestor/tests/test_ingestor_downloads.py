"""Downloads: resumed when cut, asked about before they are used again, tried again when the server is away or busy."""

from __future__ import annotations

import gzip
import hashlib
import resource
import threading
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from readmit_features.synthetic import sample_blocks
from readmit_ingestor.downloads import download, wait_s
from readmit_ingestor.errors import SourceFault
from readmit_ingestor.reading import Reader
from readmit_ingestor.sources import Places, open_source

SAMPLE = b"".join(sample_blocks(50))
MAX_BYTES = 1_000_000


class _Handler(BaseHTTPRequestHandler):
    """Serves `body` under every path; some paths misbehave. `fails` answers with these codes first."""

    body: bytes
    etag: str
    requests: list[str]
    fails: list[int]
    cuts: int
    retry_after: str
    headers_too: dict[str, str]
    told_range: str | None
    given_up: threading.Event
    tells_length: bool

    def do_GET(self) -> None:
        asked = {name: self.headers.get(name) for name in ("range", "if-none-match")}
        self.requests.append(" ".join([self.path.partition("?")[0], *filter(None, asked.values())]))
        if self.fails:
            code = self.fails.pop(0)
            self.send_response(code)
            self.send_header("retry-after", self.retry_after)
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
        if self.tells_length:
            self.send_header("content-length", str(len(body)))
        if wanted:
            self.send_header("content-range", self.told_range or f"bytes {start}-{len(self.body) - 1}/{len(self.body)}")
        if self.etag:
            self.send_header("etag", self.etag)
        for name, value in self.headers_too.items():
            self.send_header(name, value)
        self.end_headers()
        if self.path == "/slow":
            self._slowly(body)
            return
        if type(self).cuts:
            type(self).cuts -= 1
            body = body[: len(body) // 2]
        self.wfile.write(body)

    def _slowly(self, body: bytes) -> None:
        """A byte at a time, until the client has had enough of it."""
        for at in range(len(body)):
            try:
                self.wfile.write(body[at : at + 1])
            except ConnectionError:
                return
            self.given_up.wait(0.01)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002  the base class's name
        pass


@pytest.fixture
def server() -> Iterator[tuple[str, type[_Handler]]]:
    state = {
        "body": SAMPLE, "etag": '"one"', "requests": [], "fails": [], "cuts": 0, "retry_after": "0",
        "headers_too": {}, "told_range": None, "given_up": threading.Event(), "tells_length": True,
    }  # fmt: skip
    handler = type("Handler", (_Handler,), state)
    httpd = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=httpd.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield f"http://127.0.0.1:{httpd.server_address[1]}", handler
    httpd.shutdown()
    thread.join()
    httpd.server_close()


Server = tuple[str, type[_Handler]]


def fetch(url: str, cache: Path, tries: int = 0) -> bytes:
    path = download(url, cache, lambda *_: None, max_bytes=MAX_BYTES, pauses=lambda: iter([0.0] * tries))
    return path.read_bytes()


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
    assert "http://127.0.0.1:1/data" in said
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
    assert list(tmp_path.iterdir()) == []


def test_progress_is_told_with_the_size(server: Server, tmp_path: Path) -> None:
    told: list[tuple[int, int | None]] = []
    download(f"{server[0]}/data", tmp_path, lambda done, total: told.append((done, total)), max_bytes=MAX_BYTES)
    assert told[-1] == (len(SAMPLE), len(SAMPLE))


@pytest.mark.parametrize(
    "url",
    ["http://[broken", "http://exa mple.org/x", "http:///x", "http://user:sec/ret@example.org/x", "http://\ud800/x"],
)
def test_what_is_no_address_is_a_fault_that_tells_nothing_of_it_that_may_be_secret(url: str, tmp_path: Path) -> None:
    with pytest.raises(SourceFault) as fault:
        fetch(url, tmp_path)
    assert "sec" not in fault.value.message


def test_an_answer_that_is_packed_on_its_way_is_kept_as_it_came_and_resumed(server: Server, tmp_path: Path) -> None:
    url, handler = server
    handler.headers_too = {"content-encoding": "gzip"}
    handler.body = gzip.compress(SAMPLE)
    handler.cuts = 1
    assert gzip.decompress(fetch(f"{url}/data.csv.gz", tmp_path, tries=1)) == SAMPLE
    handler.headers_too = {"content-encoding": "br"}
    with pytest.raises(SourceFault, match="the encoding 'br'"):
        fetch(f"{url}/other", tmp_path)


def test_a_rest_that_was_not_asked_for_is_not_put_behind_what_is_there(server: Server, tmp_path: Path) -> None:
    url, handler = server
    handler.cuts = 1
    handler.told_range = f"bytes 7-{len(SAMPLE) - 1}/{len(SAMPLE)}"
    assert fetch(f"{url}/data", tmp_path, tries=2) == SAMPLE
    assert [asked.partition(" ")[2][:6] for asked in handler.requests] == ["", "bytes=", ""]


@pytest.mark.parametrize("code", [201, 204, 300, 304])
def test_an_answer_that_is_neither_the_file_nor_an_error_is_refused(code: int, server: Server, tmp_path: Path) -> None:
    url, handler = server
    handler.fails = [code]
    with pytest.raises(SourceFault, match=f"answered {code}"):
        fetch(f"{url}/data", tmp_path)


def test_a_file_that_is_larger_than_allowed_is_refused_by_its_length_or_while_it_comes(
    server: Server, tmp_path: Path
) -> None:
    url, handler = server
    for handler.tells_length in (True, False):
        with pytest.raises(SourceFault) as fault:
            download(f"{url}/data", tmp_path, lambda *_: None, max_bytes=1000, pauses=lambda: iter([]))
        assert (fault.value.code, "INGESTOR_MAX_SOURCE_BYTES" in fault.value.message) == ("source_too_large", True)
        assert list(tmp_path.iterdir()) == []


def test_a_server_that_sends_hardly_a_byte_is_given_up(server: Server, tmp_path: Path) -> None:
    url, handler = server
    with pytest.raises(SourceFault, match="hardly a byte comes"):
        download(
            f"{url}/slow", tmp_path, lambda *_: None, max_bytes=MAX_BYTES, pauses=lambda: iter([]), patience_s=0.05
        )
    handler.given_up.set()


def test_a_tag_that_cannot_be_sent_back_or_was_torn_by_a_crash_counts_as_none(server: Server, tmp_path: Path) -> None:
    url, handler = server
    handler.etag = '"caf\xe9"'
    for _ in range(2):
        assert fetch(f"{url}/data", tmp_path) == SAMPLE
    handler.etag = '"one"'
    for torn in ('{"etag": ', "[1]", "\xff"):
        fetch(f"{url}/data", tmp_path)
        [tag] = tmp_path.glob("*.tag")
        tag.write_bytes(torn.encode("latin-1"))
        handler.requests.clear()
        assert fetch(f"{url}/data", tmp_path) == SAMPLE
        assert handler.requests == ["/data"]


@pytest.mark.parametrize(
    ("asked", "least_s", "most_s"),
    [
        ("7", 7, 7), ("100000", 60, 60), ("soon", 0, 0), ("-5", 0, 0),
        (format_datetime(datetime.now(UTC) + timedelta(days=1), usegmt=True), 60, 60),
        (format_datetime(datetime.now(UTC) - timedelta(days=1)), 0, 0),
        ("Mon, 01 Jan 2001 00:00:00 -0000", 0, 0),
    ],
)  # fmt: skip
def test_a_busy_server_says_when_to_come_back_within_bounds(asked: str, least_s: float, most_s: float) -> None:
    assert least_s <= wait_s(asked) <= most_s


def test_a_cache_folder_that_takes_nothing_is_a_fault_that_names_it(server: Server, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(SourceFault, match="INGESTOR_CACHE_DIR") as fault:
        fetch(f"{server[0]}/data", tmp_path / "file" / "cache")
    assert fault.value.code == "source_not_kept"


def test_a_disk_that_is_full_is_not_left_full(server: Server, tmp_path: Path) -> None:
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1_000, limits[1]))
    try:
        with pytest.raises(SourceFault) as fault:
            fetch(f"{server[0]}/data", tmp_path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert fault.value.code == "source_not_kept"
    assert list(tmp_path.iterdir()) == []
