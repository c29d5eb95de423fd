"""The fitting process, seen from the trainer: one child, kept between jobs, replaced when it dies.

The child is spawned, so it shares nothing with the event loop; it ends by itself when its parent does, however that
happened.
"""

from __future__ import annotations

import asyncio
import multiprocessing
import os
import signal
import threading
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnProcess
from typing import Protocol

from readmit_trainer.domain import FitDone, FitFailed, FitTask
from readmit_trainer.errors import FitTimeout, WorkerDied
from readmit_trainer.settings import Settings


class Serve(Protocol):
    """The child's loop: for each task that `connection` brings, send back what became of it."""

    def __call__(self, connection: Connection, settings: Settings) -> None: ...


class Worker:
    """One child process. Not for concurrent use."""

    def __init__(self, settings: Settings, serve: Serve) -> None:
        self._settings = settings
        self._serve = serve
        self._process: SpawnProcess | None = None
        self._connection: Connection | None = None

    @property
    def pid(self) -> int | None:
        """The child's process id, None while there is no child."""
        return self._process.pid if self._process else None

    def start(self) -> Connection:
        """Make sure that there is a child; its imports take seconds, so start it before there is work."""
        if self._process is not None and self._process.is_alive() and self._connection is not None:
            return self._connection
        self.stop()
        context = multiprocessing.get_context("spawn")
        self._connection, theirs = context.Pipe()
        self._process = context.Process(
            target=_child, args=(self._serve, theirs, self._settings), name="fit", daemon=True
        )
        self._process.start()
        theirs.close()  # so that the child's death is the end of our file
        return self._connection

    async def fit(self, task: FitTask) -> FitDone | FitFailed:
        """Have the child do the task. Raises WorkerDied, FitTimeout; cancelled, it kills the child."""
        connection = await asyncio.to_thread(self.start)
        loop, answered = asyncio.get_running_loop(), asyncio.Event()
        loop.add_reader(connection.fileno(), answered.set)
        try:
            connection.send(task)
            async with asyncio.timeout(self._settings.timeout_s):
                await answered.wait()
            loop.remove_reader(connection.fileno())
            answer: FitDone | FitFailed = connection.recv()
        except TimeoutError:
            self._discard(loop, connection)
            raise FitTimeout(f"killed after {self._settings.timeout_s:g} s") from None
        except (EOFError, OSError):
            code = await asyncio.to_thread(self._exit_code)
            self._discard(loop, connection)
            raise WorkerDied(f"the fitting process ended with exit code {code}") from None
        except asyncio.CancelledError:
            self._discard(loop, connection)
            raise
        return answer

    def stop(self) -> None:
        """Kill the child, if there is one."""
        if self._process is not None:
            self._process.kill()
            self._process.join()
        if self._connection is not None:
            self._connection.close()
        self._process = self._connection = None

    def _discard(self, loop: asyncio.AbstractEventLoop, connection: Connection) -> None:
        loop.remove_reader(connection.fileno())
        self.stop()

    def _exit_code(self) -> int | None:
        if self._process is None:
            return None
        self._process.join(timeout=1)
        return self._process.exitcode


def _child(serve: Serve, connection: Connection, settings: Settings) -> None:
    """Runs in the child: Ctrl-C is the parent's business, and the parent's end is ours."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_exit_with_parent, daemon=True).start()
    serve(connection, settings)


def _exit_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        wait([parent.sentinel])
        os._exit(1)
