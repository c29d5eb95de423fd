"""HTTP/1.1 connections on uvicorn's: bounds that it leaves open, and requests that are answered at once.

The bounds are the size of a request's head, and how long a connection may take to send one. Idle connections that have
had an answer are uvicorn's own business (`timeout_keep_alive`), bodies are the app's.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol

Headers = Sequence[tuple[bytes, bytes]]


class Answer(NamedTuple):
    """A whole response. `headers` hold its length."""

    status: int
    headers: Headers
    body: bytes


#: Headers (names in lower case) and body of a request to its answer. Never blocks, never raises.
AtOnce = Callable[[Headers, bytes], Answer]

#: Request line and headers together, beyond the read in which they begin (and what came before them may be in).
MAX_HEAD_BYTES = 64 * 1024
_TOO_LARGE = (
    b'{"type":"urn:readmit:problem:head_too_large","title":"The head of the request is too large","status":431,'
    b'"detail":"Request line and headers are at most %d bytes together: send fewer or shorter ones."}' % MAX_HEAD_BYTES
)

#: Bodies that are longer, or take longer, are read by the app.
_LONG_BYTES, _SLOW_S = 64 * 1024, 1.0
_FAILED = Answer(
    500, [(b"content-type", b"text/plain; charset=utf-8"), (b"content-length", b"21")], b"Internal Server Error"
)


class BoundedHttp(HttpToolsProtocol):
    """HTTP/1.1 on one connection, that gives up on heads without end. What it looks at is cheap: every request pays.

    `posts_at_once` answers POSTs to those targets without a task and ASGI's messages, which take as long as a small
    answer does. Where anything is unusual, the app gets the request, and must answer it alike: another one is still
    answered on the connection, the body is long or slow, the client does not read, or wants the connection closed.
    """

    #: Since when a head is waited for, or the rest of a request that is answered already, by the loop's clock.
    waits_since_s: float | None = None
    _head: object = None
    _head_bytes = 0
    #: What answers the request whose body is being read, since when, and what has come of that.
    _at_once: AtOnce | None = None
    _reads_since_s = 0.0
    _body = b""
    #: One a read: who sends many at once waits until the others had their turn.
    _has_answered = False

    def __init__(self, *, posts_at_once: Mapping[bytes, AtOnce], **uvicorns: Any) -> None:
        super().__init__(**uvicorns)
        self._posts_at_once = posts_at_once

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as uvicorn has it
        super().connection_made(transport)
        self.waits_since_s = self.loop.time()

    def data_received(self, data: bytes) -> None:
        self._has_answered = False
        _feed(self, data)
        cycle, scope = self.cycle, self.scope
        if self._at_once is not None or (self._has_answered and scope is None):
            return
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

    def on_headers_complete(self) -> None:
        at_once = self._posts_at_once.get(self.url)
        if at_once is None or self._has_answered or not self._is_plain_post():
            super().on_headers_complete()
            return
        self._at_once, self._body = at_once, b""
        self._reads_since_s, self.waits_since_s = self.loop.time(), None

    def _is_plain_post(self) -> bool:
        """Whether a POST has come on a connection that is idle, takes what is written, and goes on after it."""
        return (
            (self.cycle is None or self.cycle.response_complete)
            and not self.flow.write_paused
            and not self.expect_100_continue
            and self.parser.get_method() == b"POST"
            and self.parser.get_http_version() == "1.1"
            and self.parser.should_keep_alive()
            and not self.parser.should_upgrade()
        )

    def on_body(self, body: bytes) -> None:
        if self._at_once is not None:
            self._body += body
            if len(self._body) > _LONG_BYTES:
                self._hand_over()
        else:
            super().on_body(body)

    def on_message_complete(self) -> None:
        self.waits_since_s = None
        if self._at_once is None:
            super().on_message_complete()
            return
        try:
            status, headers, body = self._at_once(self.headers, self._body)
        except Exception:
            self.logger.exception("a request could not be answered")
            status, headers, body = _FAILED
        lines = [b"%b: %b\r\n" % header for header in (*self.server_state.default_headers, *headers)]
        # One write: each is a call of the system.
        self.transport.write(b"".join((STATUS_LINE[status], *lines, b"\r\n", body)))
        self._at_once = self.scope = None  # type: ignore[assignment]  # as before the first request
        self._has_answered = True
        self.on_response_complete()

    def _hand_over(self) -> None:
        """Let the app have the request whose body is on its way."""
        self._at_once = None
        super().on_headers_complete()
        if self._body:
            super().on_body(self._body)

    def look(self, now_s: float, head_timeout_s: float) -> None:
        """Leave a slow body to the app; end what waits too long for a head, or the rest of an answered request."""
        if self._at_once is not None and now_s - self._reads_since_s > _SLOW_S:
            self._hand_over()
        elif self.waits_since_s is not None and now_s - self.waits_since_s > head_timeout_s:
            self.transport.close()

    def connection_lost(self, exc: Exception | None) -> None:
        if self._at_once is not None:  # the app knows what to make of a body that was cut off
            self._hand_over()
        super().connection_lost(exc)

    def shutdown(self) -> None:
        if self._at_once is not None:
            self._hand_over()
        super().shutdown()

    def _refuse(self) -> None:
        self.transport.write(
            b"HTTP/1.1 431 Request Header Fields Too Large\r\ncontent-type: application/problem+json\r\n"
            b"content-length: %d\r\nconnection: close\r\n\r\n" % len(_TOO_LARGE) + _TOO_LARGE
        )
        self.transport.close()


_feed = HttpToolsProtocol.data_received


def look_after(connections: Iterable[object], now_s: float, head_timeout_s: float) -> None:
    """`BoundedHttp.look` at each of uvicorn's connections."""
    for connection in list(connections):
        if isinstance(connection, BoundedHttp):
            connection.look(now_s, head_timeout_s)
