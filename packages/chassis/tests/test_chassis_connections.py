"""Connections of the real server: heads without end, clients that send nothing, TLS and its renewal."""

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

from readmit_chassis.connections import MAX_HEAD_BYTES
from readmit_chassis.process import Process, serve
from readmit_chassis.self_signed import self_signed
from readmit_chassis.settings import TlsSettings

GET = b"GET / HTTP/1.1\r\nHost: here\r\n"
POST = b"POST / HTTP/1.1\r\nHost: here\r\nContent-Length: 1000\r\n\r\n"


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
    how = {"host": "127.0.0.1", "port": port, "process": process, "tls": tls, "head_timeout_s": 0.5}
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


def test_an_idle_client_that_has_had_an_answer_may_ask_again_later(connection: socket.socket) -> None:
    for _ in range(2):
        connection.sendall(GET + b"\r\n")
        assert connection.recv(4096).startswith(b"HTTP/1.1 200")
        time.sleep(2.5)  # longer than a head may take, and looked at twice meanwhile


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
