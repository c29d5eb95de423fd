"""Connections of the real server: heads without end, clients that send nothing, answers at once, TLS renewed."""

from __future__ import annotations

import contextlib
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from readmit_chassis.connections import MAX_HEAD_BYTES, Answer, Headers
from readmit_chassis.process import Process, serve
from readmit_chassis.self_signed import self_signed
from readmit_chassis.settings import TlsSettings

GET = b"GET / HTTP/1.1\r\nHost: here\r\n"
POST = b"POST / HTTP/1.1\r\nHost: here\r\nContent-Length: 1000\r\n\r\n"
AT_ONCE = b"POST /at-once HTTP/1.1\r\nHost: here\r\n"


def echo(_: Headers, body: bytes) -> Answer:
    return Answer(200, [(b"content-length", b"%d" % (len(body) + 9))], b"at once: " + body)


def large(_: Headers, body: bytes) -> Answer:  # more than the network holds for a client that does not read
    return Answer(200, [(b"content-length", b"16000000")], b"x" * 16_000_000)


def broken(_: Headers, body: bytes) -> Answer:
    raise RuntimeError("a bug")


POSTS_AT_ONCE = {b"/at-once": echo, b"/large": large, b"/broken": broken}


async def app(scope: Any, receive: Any, send: Any) -> None:
    """Answers at once, without reading a body."""
    if scope["type"] == "lifespan":
        while (await receive())["type"] != "lifespan.shutdown":
            await send({"type": "lifespan.startup.complete"})
        await send({"type": "lifespan.shutdown.complete"})
        return
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"2")]})
    await send({"type": "http.response.body", "body": b"ok"})


@contextlib.contextmanager
def server(tls: TlsSettings | None = None) -> Iterator[int]:
    """The port of a server that waits half a second for heads."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = int(probe.getsockname()[1])
    process = Process()
    how = {
        "host": "127.0.0.1", "port": port, "process": process, "tls": tls, "head_timeout_s": 0.5,
        "posts_at_once": POSTS_AT_ONCE,
    }  # fmt: skip
    thread = threading.Thread(target=lambda: serve(app, **how))  # type: ignore[arg-type]  what serve takes
    thread.start()
    try:
        wait(lambda: listens(port))
        yield port
    finally:
        process.fail(RuntimeError("the test is over"))
        thread.join(20)
        assert not thread.is_alive()


def listens(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), timeout=1).close()
    except OSError:
        return False
    return True


def wait(condition: Callable[[], bool]) -> None:
    until = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < until
        time.sleep(0.05)


@pytest.fixture
def connection() -> Iterator[socket.socket]:
    with server() as port, socket.create_connection(("127.0.0.1", port), timeout=10) as connection:
        yield connection


def all_that_comes(connection: socket.socket) -> bytes:
    """Until the server closes."""
    said = b""
    with contextlib.suppress(ConnectionResetError):
        while block := connection.recv(4096):
            said += block
    return said


@pytest.mark.parametrize(
    "endless", [GET + b"X-Long: " + b"x" * 1_000_000, GET + b"X: y\r\n" * 200_000, b"GET /" + b"x" * 1_000_000]
)
def test_a_head_without_end_is_refused_and_the_connection_closed(connection: socket.socket, endless: bytes) -> None:
    with contextlib.suppress(ConnectionError):
        connection.sendall(endless)
    said = all_that_comes(connection)
    assert said == b"" or said.startswith(b"HTTP/1.1 431")  # empty where the network has lost it with the reset


def test_the_refusal_of_a_large_head_says_how_large_one_may_be(connection: socket.socket) -> None:
    connection.sendall(GET + b"X-Long: ")
    time.sleep(0.2)
    connection.sendall(b"x" * (MAX_HEAD_BYTES + 1))
    said = all_that_comes(connection)
    assert said.startswith(b"HTTP/1.1 431")
    assert b"urn:readmit:problem:head_too_large" in said
    assert str(MAX_HEAD_BYTES).encode() in said


def test_a_large_head_that_is_within_bounds_is_answered_one_after_the_other(connection: socket.socket) -> None:
    for _ in range(4):  # together more than one may have
        connection.sendall(GET + b"X-Long: " + b"x" * (MAX_HEAD_BYTES - 1000) + b"\r\n\r\n")
        assert connection.recv(4096).startswith(b"HTTP/1.1 200")


@pytest.mark.parametrize("begun", [b"", b"G", GET, GET + b"\r\n" + GET])
def test_a_client_that_does_not_come_to_the_end_of_a_head_is_let_go(connection: socket.socket, begun: bytes) -> None:
    connection.sendall(begun)
    if begun.endswith(GET) and b"\r\n\r\n" in begun:
        assert connection.recv(4096).startswith(b"HTTP/1.1 200")
    dripped = drip_until_closed(connection, b"X-A: b\r\n" if begun.endswith(GET) else b"")
    assert 0.4 < dripped < 8


def test_a_client_that_drips_a_body_that_is_answered_already_is_let_go(connection: socket.socket) -> None:
    connection.sendall(POST)
    assert connection.recv(4096).startswith(b"HTTP/1.1 200")
    assert drip_until_closed(connection, b"x") < 8


def drip_until_closed(connection: socket.socket, drop: bytes) -> float:
    """Seconds until the server has closed, though a drop comes every tenth."""
    started = time.monotonic()
    connection.settimeout(0.1)
    while time.monotonic() - started < 15:
        try:
            connection.sendall(drop)
            if not connection.recv(4096):
                return time.monotonic() - started
        except TimeoutError:
            continue
        except ConnectionError:
            return time.monotonic() - started
    raise AssertionError("the server holds on")


@pytest.mark.parametrize("request_", [GET + b"\r\n", AT_ONCE + b"Content-Length: 0\r\n\r\n"])
def test_an_idle_client_that_has_had_an_answer_may_ask_again_later(connection: socket.socket, request_: bytes) -> None:
    for _ in range(2):
        connection.sendall(request_)
        assert connection.recv(4096).startswith(b"HTTP/1.1 200")
        time.sleep(2.5)  # longer than a head may take, and looked at twice meanwhile


def said_to(connection: socket.socket, *pieces: bytes) -> bytes:
    """The answer's body to a request that is sent in pieces."""
    for piece in pieces:
        connection.sendall(piece)
        time.sleep(0.1)
    return connection.recv(65536).partition(b"\r\n\r\n")[2]


@pytest.mark.parametrize(
    "pieces",
    [
        (AT_ONCE + b"Content-Length: 4\r\n\r\nbody",),
        (AT_ONCE, b"Content-Length: 4\r\n\r\n", b"bo", b"dy"),
        (AT_ONCE + b"Transfer-Encoding: chunked\r\n\r\n1\r\nb\r\n3\r\nody\r\n0\r\n\r\n",),
    ],
)
def test_a_small_body_is_answered_at_once_again_and_again(connection: socket.socket, pieces: tuple[bytes, ...]) -> None:
    for _ in range(3):
        assert said_to(connection, *pieces) == b"at once: body"


def test_what_is_answered_at_once_has_a_date_like_any_other_answer_and_leaves_the_connection_open(
    connection: socket.socket,
) -> None:
    connection.sendall(AT_ONCE + b"Content-Length: 0\r\n\r\n")
    head = connection.recv(4096).lower()
    assert head.startswith(b"http/1.1 200 ok\r\ndate: ")
    assert b"connection:" not in head


@pytest.mark.parametrize(
    "unusual",
    [
        AT_ONCE + b"Connection: close\r\nContent-Length: 0\r\n\r\n",
        AT_ONCE + b"Expect: 100-continue\r\nContent-Length: 0\r\n\r\n",
        AT_ONCE.replace(b"1.1", b"1.0") + b"Content-Length: 0\r\n\r\n",
        AT_ONCE.replace(b"1.1", b"1.0") + b"Connection: keep-alive\r\nContent-Length: 0\r\n\r\n",
        AT_ONCE + b"Connection: upgrade\r\nUpgrade: h2c\r\nContent-Length: 0\r\n\r\n",
        AT_ONCE.replace(b"/at-once", b"/at-once?now") + b"Content-Length: 0\r\n\r\n",
        AT_ONCE.replace(b"POST", b"PUT") + b"Content-Length: 0\r\n\r\n",
        AT_ONCE + b"Content-Length: 100000\r\n\r\n" + b"x" * 100_000,
    ],
)
def test_an_unusual_request_goes_to_the_app(connection: socket.socket, unusual: bytes) -> None:
    assert said_to(connection, unusual) == b"ok"


def test_a_body_that_takes_its_time_goes_to_the_app(connection: socket.socket) -> None:
    connection.sendall(AT_ONCE + b"Content-Length: 4\r\n\r\nbo")
    assert connection.recv(4096).endswith(b"ok")


def test_requests_that_are_sent_without_waiting_are_answered_in_order(connection: socket.socket) -> None:
    now, later = AT_ONCE + b"Content-Length: 0\r\n\r\n", GET + b"\r\n"
    connection.sendall(now + now + later + now)
    said = b""
    connection.settimeout(1)
    with contextlib.suppress(TimeoutError):
        while block := connection.recv(4096):
            said += block
    bodies = [answer.partition(b"\r\n\r\n")[2] for answer in said.split(b"HTTP/1.1 200 OK\r\n")[1:]]
    assert bodies == [b"at once: ", b"ok", b"ok", b"ok"], "the others' turn comes after each read's first"


def test_a_client_that_does_not_read_is_given_to_the_app_which_waits_for_it(connection: socket.socket) -> None:
    ask = b"POST /large HTTP/1.1\r\nHost: here\r\nContent-Length: 0\r\n\r\n"
    connection.sendall(ask)
    time.sleep(0.3)
    connection.sendall(ask)
    time.sleep(0.3)
    said = b""
    while not said.endswith(b"ok"):
        block = connection.recv(1 << 20)
        assert block
        said += block
    assert said.count(b"x") < 16_000_100


def test_a_bug_in_what_answers_at_once_is_a_500_and_the_next_request_is_answered(connection: socket.socket) -> None:
    connection.sendall(AT_ONCE.replace(b"/at-once", b"/broken") + b"Content-Length: 0\r\n\r\n")
    assert connection.recv(4096).startswith(b"HTTP/1.1 500 ")
    assert said_to(connection, AT_ONCE + b"Content-Length: 0\r\n\r\n") == b"at once: "


def test_a_request_that_has_begun_when_the_server_stops_is_answered_and_the_connection_closed() -> None:
    with server() as port:
        connection = socket.create_connection(("127.0.0.1", port), timeout=10)
        connection.sendall(AT_ONCE + b"Content-Length: 4\r\n\r\nbo")
        time.sleep(0.2)
    with connection:
        said = all_that_comes(connection).lower()
    assert said.startswith(b"http/1.1 200")
    assert b"connection: close" in said


def test_a_client_that_drips_between_requests_is_let_go(connection: socket.socket) -> None:
    assert said_to(connection, AT_ONCE + b"Content-Length: 0\r\n\r\n") == b"at once: "
    assert drip_until_closed(connection, b"\r\n") < 8


def shown(port: int, trusted: str) -> int:
    """Serial number of the certificate that the server shows, after it has answered over TLS."""
    context = ssl.create_default_context(cadata=trusted)
    with (
        socket.create_connection(("127.0.0.1", port), timeout=10) as plain,
        context.wrap_socket(plain, server_hostname="localhost") as encrypted,
    ):
        encrypted.sendall(GET + b"\r\n")
        assert encrypted.recv(4096).startswith(b"HTTP/1.1 200")
        return int(encrypted.getpeercert()["serialNumber"], 16)  # type: ignore[index, arg-type]  it is verified


def test_with_a_certificate_it_speaks_tls_alone_and_a_renewed_one_is_taken_while_it_runs(tmp_path: Path) -> None:
    tls = self_signed(tmp_path, 1)
    first = tls.cert_file.read_text()
    with server(tls) as port:
        assert shown(port, first) == 1
        with socket.create_connection(("127.0.0.1", port), timeout=10) as plain:
            plain.sendall(GET + b"\r\n")
            assert not all_that_comes(plain).startswith(b"HTTP")
        tls.cert_file.write_text("half a certif")
        time.sleep(2.5)
        assert shown(port, first) == 1, "what can't be used changes nothing"
        self_signed(tmp_path, 2)
        both = first + tls.cert_file.read_text()
        wait(lambda: shown(port, both) == 2)


def test_a_key_of_another_certificate_does_not_start(tmp_path: Path) -> None:
    one, other = tmp_path / "one", tmp_path / "other"
    one.mkdir()
    other.mkdir()
    mixed = TlsSettings(cert_file=self_signed(one, 1).cert_file, key_file=self_signed(other, 2).key_file)
    with pytest.raises(ssl.SSLError):
        serve(app, host="127.0.0.1", port=1, process=Process(), tls=mixed)
