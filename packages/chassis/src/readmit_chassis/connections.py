"""What uvicorn leaves without bounds: the size of a request's head, and how long a connection may take to send one.

Idle connections that have had an answer are uvicorn's own business (`timeout_keep_alive`), bodies are the app's.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from typing import Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

#: Request line and headers together; what a read brings on top of it may go beyond.
MAX_HEAD_BYTES = 64 * 1024
_TOO_LARGE = (
    b'{"type":"urn:readmit:problem:head_too_large","title":"The head of the request is too large","status":431,'
    b'"detail":"Request line and headers are at most %d bytes together: send fewer or shorter ones."}' % MAX_HEAD_BYTES
)


class BoundedHttp(HttpToolsProtocol):
    """HTTP/1.1 on one connection, that gives up on heads without end."""

    #: Since when a head is waited for, by the loop's clock; None while a request is in work.
    waits_since_s: float | None = None
    _in_head = False
    _head_bytes = 0

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as uvicorn has it
        super().connection_made(transport)
        self.waits_since_s = self.loop.time()

    def data_received(self, data: bytes) -> None:
        if self.waits_since_s is None and self.cycle.response_complete:
            self.waits_since_s = self.loop.time()
        super().data_received(data)
        if self._in_head:
            self._head_bytes += len(data)
            if self._head_bytes > MAX_HEAD_BYTES and not self.transport.is_closing():
                self._refuse()

    def on_message_begin(self) -> None:
        self._in_head, self._head_bytes = True, 0
        super().on_message_begin()

    def on_headers_complete(self) -> None:
        self._in_head, self.waits_since_s = False, None
        super().on_headers_complete()

    def on_message_complete(self) -> None:
        self.waits_since_s = None  # nor is the rest of a body waited for that was answered before its end
        super().on_message_complete()

    def _refuse(self) -> None:
        self.transport.write(
            b"HTTP/1.1 431 Request Header Fields Too Large\r\ncontent-type: application/problem+json\r\n"
            b"content-length: %d\r\nconnection: close\r\n\r\n" % len(_TOO_LARGE) + _TOO_LARGE
        )
        self.transport.close()


def close_slow(connections: Iterable[Any], now_s: float, limit_s: float) -> None:
    """End the connections that have waited for a head, or for what is left of an answered request, too long."""
    for connection in list(connections):
        since_s = getattr(connection, "waits_since_s", None)
        if since_s is not None and now_s - since_s > limit_s:
            connection.transport.close()
