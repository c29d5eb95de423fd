"""What uvicorn leaves without bounds: the size of a request's head, and how long a connection may take to send one.

Idle connections that have had an answer are uvicorn's own business (`timeout_keep_alive`), bodies are the app's.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from typing import Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

#: Request line and headers together, beyond the read in which they begin (and what came before them may be in).
MAX_HEAD_BYTES = 64 * 1024
_TOO_LARGE = (
    b'{"type":"urn:readmit:problem:head_too_large","title":"The head of the request is too large","status":431,'
    b'"detail":"Request line and headers are at most %d bytes together: send fewer or shorter ones."}' % MAX_HEAD_BYTES
)


class BoundedHttp(HttpToolsProtocol):
    """HTTP/1.1 on one connection, that gives up on heads without end. What it looks at is cheap: every request pays."""

    #: Since when a head is waited for, or the rest of a request that is answered already, by the loop's clock.
    waits_since_s: float | None = None
    _head: object = None
    _head_bytes = 0

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as uvicorn has it
        super().connection_made(transport)
        self.waits_since_s = self.loop.time()

    def data_received(self, data: bytes) -> None:
        _feed(self, data)
        cycle, scope = self.cycle, self.scope
        if cycle is not None and scope is cycle.scope and not cycle.response_complete:
            self.waits_since_s = None
            return
        if self.waits_since_s is None:
            self.waits_since_s = self.loop.time()
        if scope is None or (cycle is not None and scope is cycle.scope):
            return
        if scope is not self._head:  # a scope is made when a head begins, and goes into a cycle when it is complete
            self._head, self._head_bytes = scope, 0
            return
        self._head_bytes += len(data)
        if self._head_bytes > MAX_HEAD_BYTES and not self.transport.is_closing():
            self._refuse()

    def on_message_complete(self) -> None:
        self.waits_since_s = None
        super().on_message_complete()

    def _refuse(self) -> None:
        self.transport.write(
            b"HTTP/1.1 431 Request Header Fields Too Large\r\ncontent-type: application/problem+json\r\n"
            b"content-length: %d\r\nconnection: close\r\n\r\n" % len(_TOO_LARGE) + _TOO_LARGE
        )
        self.transport.close()


_feed = HttpToolsProtocol.data_received


def close_slow(connections: Iterable[Any], now_s: float, limit_s: float) -> None:
    """End the connections that have waited for a head, or for what is left of an answered request, too long."""
    for connection in list(connections):
        since_s = getattr(connection, "waits_since_s", None)
        if since_s is not None and now_s - since_s > limit_s:
            connection.transport.close()
