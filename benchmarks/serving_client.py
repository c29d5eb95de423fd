"""A client that posts encounters over plain sockets and notes when each request was due and how long it took.

At a constant rate (`--rate`), a request is due whether or not earlier ones have been answered, and its time counts from
when it was due, so that a server that stops for a while is not let off with the one request that was waiting then
(coordinated omission). Without a rate, each connection sends its next request once it has its answer.

A process of its own, started by the benchmarks (`loading`); what it saw is read with `Seen.read`.
"""

from __future__ import annotations

import argparse
import gc
import json
import math
import os
import select
import signal
import socket
import subprocess
import sys
import time
from array import array
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

#: What has not been answered by then counts as failed.
_GRACE_S = 10.0


@dataclass(frozen=True)
class Seen:
    """One row per request: when it was due (`time.monotonic` of this machine), its time in seconds, its status.

    Status 0: the connection broke, or no answer came.
    """

    due: Floats
    took: Floats
    status: NDArray[np.int64]

    @classmethod
    def read(cls, path: Path) -> Self:
        """What a client wrote."""
        with np.load(path) as file:
            return cls(file["due"], file["took"], file["status"])

    def between(self, start: float, end: float) -> Seen:
        """Of the requests that were due then."""
        inside = (self.due >= start) & (self.due < end)
        return Seen(self.due[inside], self.took[inside], self.status[inside])

    @property
    def failed(self) -> int:
        """How many were not answered with 200."""
        return int(np.count_nonzero(self.status != 200))

    @property
    def rate(self) -> float:
        """Answers per second."""
        return len(self.due) / float(self.due[-1] - self.due[0]) if len(self.due) > 1 else 0.0

    def ms(self, percent: float) -> float:
        """A percentile of the times, in milliseconds."""
        return float(np.percentile(self.took, percent)) * 1e3 if len(self.took) else float("nan")


@contextmanager
def loading(
    to: Path, addresses: list[str], bodies: Path, *, core: int, connections: int, rate: float | None
) -> Iterator[None]:
    """Load as long as the block runs, from one core; then `to` holds what was seen."""
    told = {"--to": to, "--bodies": bodies, "--connections": connections, "--rate": rate}
    options = [str(part) for option in told.items() if option[1] is not None for part in option]
    with subprocess.Popen([sys.executable, __file__, *options, *addresses]) as process:
        os.sched_setaffinity(process.pid, {core})
        try:
            yield
        finally:
            process.terminate()
            if process.wait(timeout=2 * _GRACE_S):
                raise SystemExit("the client failed")


@dataclass
class _Connection:
    """One socket, what came on it, and when the request that it carries was due (None: it is free)."""

    address: tuple[str, int]
    socket: socket.socket = field(init=False)
    came: bytes = b""
    due: float | None = None

    def open(self) -> None:
        self.socket = socket.create_connection(self.address)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.came = b""


class _Client:
    def __init__(self, addresses: list[str], bodies: list[bytes], connections: int) -> None:
        self._poll = select.epoll()
        self._requests = [
            b"POST /predict HTTP/1.1\r\nHost: pod\r\nContent-Type: application/json\r\n"
            b"Content-Length: %d\r\n\r\n%b" % (len(body), body)
            for body in bodies
        ]
        self._at = 0
        self._by_fd: dict[int, _Connection] = {}
        self.free: deque[_Connection] = deque()
        for number in range(connections):
            host, _, port = addresses[number % len(addresses)].removeprefix("http://").partition(":")
            self._open(_Connection((host, int(port))))
        self.seen = array("d")  # due, took and status of each request in turn
        self.stopped = False

    def _open(self, connection: _Connection) -> None:
        connection.open()
        self._by_fd[connection.socket.fileno()] = connection
        self._poll.register(connection.socket.fileno(), select.EPOLLIN)
        self.free.append(connection)

    def send(self, due: float) -> None:
        """The next request on the connection that has been free for longest."""
        connection = self.free.popleft()
        connection.due = due
        self._at = (self._at + 1) % len(self._requests)
        try:
            connection.socket.sendall(self._requests[self._at])
        except OSError:
            self._broken(connection)

    def receive(self, wait_s: float) -> None:
        """What comes within `wait_s`, which may be shorter than the milliseconds that epoll knows."""
        if wait_s > 0:
            select.select([self._poll.fileno()], [], [], wait_s)
        for fd, _ in self._poll.poll(0):
            connection = self._by_fd[fd]
            try:
                block = connection.socket.recv(65536)
            except OSError:
                block = b""
            if not block:
                self._broken(connection)
                continue
            connection.came += block
            head, end, body = connection.came.partition(b"\r\n\r\n")
            if end and len(body) >= int(head.lower().partition(b"content-length: ")[2].partition(b"\r")[0]):
                self._answered(connection, int(head[9:12]))
                connection.came = b""
                self.free.append(connection)

    def _answered(self, connection: _Connection, status: int) -> None:
        if connection.due is not None:
            self.seen.extend((connection.due, time.monotonic() - connection.due, status))
        connection.due = None

    def _broken(self, connection: _Connection) -> None:
        del self._by_fd[connection.socket.fileno()]
        connection.socket.close()
        self._answered(connection, 0)
        if connection in self.free:
            self.free.remove(connection)
        self._open(connection)

    def fail(self, due: float) -> None:
        """A request that was due and could not be sent."""
        self.seen.extend((due, time.monotonic() - due, 0))

    def give_up(self) -> None:
        """What is still on its way has failed."""
        for connection in self._by_fd.values():
            self._answered(connection, 0)

    @property
    def busy(self) -> bool:
        return len(self.free) < len(self._by_fd)


def _closed_loop(client: _Client) -> None:
    while not client.stopped:
        now = time.monotonic()
        while client.free:
            client.send(now)
        client.receive(0.1)


def _open_loop(client: _Client, rate: float) -> None:
    due = start = time.monotonic()
    sent, end = 0, math.inf
    while due <= end and time.monotonic() < end + _GRACE_S:
        now = time.monotonic()
        if client.stopped:
            end = min(end, now)  # what was due by then is still sent
        while due <= min(now, end) and client.free:
            client.send(due)
            sent += 1
            due = start + sent / rate
        client.receive(max(0.0, min(0.1, due - time.monotonic())) if client.free else 0.1)
    while due <= end:  # no connection was free for it
        client.fail(due)
        sent += 1
        due = start + sent / rate


def main() -> None:
    """Post until SIGTERM, then write what was seen."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("addresses", nargs="+")
    parser.add_argument("--bodies", type=Path, required=True, help="a file with one encounter per line, as JSON")
    parser.add_argument("--to", type=Path, required=True)
    parser.add_argument("--connections", type=int, required=True)
    parser.add_argument("--rate", type=float, help="requests per second; none: as fast as answers come")
    options = parser.parse_args()
    bodies = options.bodies.read_bytes().splitlines()
    json.loads(bodies[0])
    client = _Client(options.addresses, bodies, options.connections)
    signal.signal(signal.SIGTERM, lambda *_: setattr(client, "stopped", True))
    gc.disable()  # its pauses would be taken for the server's; nothing here makes cycles
    if options.rate is None:
        _closed_loop(client)
    else:
        _open_loop(client, options.rate)
    patience = time.monotonic() + _GRACE_S
    while client.busy and time.monotonic() < patience:
        client.receive(0.1)
    client.give_up()
    rows = np.array(client.seen).reshape(-1, 3)
    rows = rows[np.argsort(rows[:, 0], kind="stable")]
    np.savez(options.to, due=rows[:, 0], took=rows[:, 1], status=rows[:, 2].astype(np.int64))


if __name__ == "__main__":
    main()
