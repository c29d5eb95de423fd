"""One process: its background tasks, its HTTP face, and how it ends."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Mapping
from contextlib import asynccontextmanager
from functools import partial
from typing import TYPE_CHECKING, Any

import structlog

from readmit_chassis.settings import TlsSettings
from readmit_chassis.tls import Certificate

if TYPE_CHECKING:
    from readmit_chassis.connections import AtOnce

log = structlog.get_logger()


class Process:
    """Collects the first fatal failure and wakes whoever waits for it. One per process."""

    def __init__(self) -> None:
        self.failure: BaseException | None = None
        self._on_fail: list[Callable[[], None]] = []

    def fail(self, error: BaseException) -> None:
        """Stop the process with exit code 1; the platform restarts it. The first failure wins."""
        if self.failure is None:
            self.failure = error
            log.critical("process_failed", error=repr(error), exc_info=error)
            for callback in self._on_fail:
                callback()

    def on_fail(self, callback: Callable[[], None]) -> None:
        """Call back when the process fails, at once if it already has."""
        self._on_fail.append(callback)
        if self.failure is not None:
            callback()

    @asynccontextmanager
    async def background(self, *coroutines: Coroutine[Any, Any, None]) -> AsyncIterator[None]:
        """Run coroutines beside the block; one that ends with an error fails the process; all end with the block."""
        tasks = [asyncio.create_task(self._guard(coroutine)) for coroutine in coroutines]
        try:
            yield
        finally:
            await asyncio.sleep(0)  # a coroutine that never got to start would be reported as never awaited
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _guard(self, coroutine: Awaitable[None]) -> None:
        try:
            await coroutine
        except asyncio.CancelledError:
            raise
        except BaseException as error:  # noqa: BLE001  whatever it is, it stops the process
            self.fail(error)


def end_if_cancelled() -> None:
    """Raise CancelledError in a task whose cancellation got lost. For loops, once a round.

    `asyncio.wait_for` of Python 3.11 forgets a cancellation that comes together with what is waited for, and psycopg
    waits for its answers with it: a loop over queries would then go on for ever.
    """
    task = asyncio.current_task()
    if task is not None and task.cancelling():
        raise asyncio.CancelledError


def serve(
    app: Any,
    *,
    host: str,
    port: int,
    process: Process,
    tls: TlsSettings | None = None,
    head_timeout_s: float = 20.0,
    posts_at_once: Mapping[bytes, AtOnce] | None = None,
) -> int:
    """Run an ASGI app with uvicorn until SIGTERM, SIGINT or `process.fail`. Blocks; returns the exit code.

    `posts_at_once`: by request target, what answers small POSTs in place of the app, which must answer them alike.
    `head_timeout_s`: how long a connection may take to send the head of a request; noticed up to a second later.
    Raises OSError where `tls` names no pair of certificate and key.
    """
    import uvicorn  # noqa: PLC0415  an extra: a process without HTTP does not need it

    from readmit_chassis.connections import BoundedHttp, look_after  # noqa: PLC0415

    certificate = None if tls is None else Certificate(tls)

    async def look() -> None:
        look_after(server.server_state.connections, asyncio.get_running_loop().time(), head_timeout_s)
        if certificate is not None:
            certificate.renew()

    server = uvicorn.Server(
        uvicorn.Config(
            app,
            host=host,
            port=port,
            log_config=None,
            access_log=False,
            lifespan="on",
            timeout_graceful_shutdown=20,
            # Longer than clients and balancers keep an idle connection: at 5 s their next request races its close.
            timeout_keep_alive=75,
            server_header=False,
            # Uvicorn calls it as it does a class.
            http=partial(BoundedHttp, posts_at_once=posts_at_once or {}),  # type: ignore[arg-type]
            callback_notify=look,
            timeout_notify=1,
            ssl_context_factory=None if certificate is None else lambda *_: certificate.context,
        )
    )

    def stop() -> None:
        server.should_exit = True

    process.on_fail(stop)
    try:
        server.run()
    except KeyboardInterrupt:  # uvicorn raises the signal again once it has drained
        return 0
    except SystemExit as exit_:
        return exit_.code if isinstance(exit_.code, int) else 1
    return 1 if process.failure is not None or not server.started else 0


def run(
    app: Any,
    *,
    host: str,
    port: int,
    process: Process,
    tls: TlsSettings | None = None,
    posts_at_once: Mapping[bytes, AtOnce] | None = None,
) -> None:
    """`serve`, then leave the interpreter with its exit code."""
    sys.exit(serve(app, host=host, port=port, process=process, tls=tls, posts_at_once=posts_at_once))
