"""The fitting process, seen from the trainer: one child, kept between jobs, replaced when it dies.

The child is spawned, so it shares nothing with the event loop; it ends by itself when its parent does, however that
happened.
"""

from __future__ import annotations

import asyncio
import multiprocessing
import os
import resource
import signal
import threading
from collections.abc import Callable
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnProcess
from pathlib import Path
from typing import Protocol

from readmit_trainer.domain import FitDone, FitFailed, FitTask, Progress
from readmit_trainer.errors import FitTimeout, FitTooLarge, WorkerDied
from readmit_trainer.settings import Settings

_MEMORY_POLL_S = 0.2

Tell = Callable[[Progress], None]


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

    async def fit(self, task: FitTask, tell: Tell) -> FitDone | FitFailed:
        """Have the child do the task, telling how far it is.

        Raises WorkerDied, FitTimeout, FitTooLarge; cancelled, it kills the child.
        """
        connection = await asyncio.to_thread(self.start)
        loop, news = asyncio.get_running_loop(), asyncio.Event()
        loop.add_reader(connection.fileno(), news.set)
        watch = asyncio.create_task(self._watch_memory())
        try:
            connection.send(task)
            async with asyncio.timeout(self._settings.timeout_s):
                answer = await _answer(connection, news, tell, watch)
            loop.remove_reader(connection.fileno())
        except FitTooLarge:
            self._discard(loop, connection)
            raise
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
        finally:
            watch.cancel()
        return answer

    async def _watch_memory(self) -> None:
        """Raises FitTooLarge once the child is larger than allowed; without a limit it waits for ever."""
        limit_mb = self._settings.memory_limit_mb
        if limit_mb is None:
            await asyncio.Event().wait()
            return
        while (used_mb := _resident_mb(self.pid)) <= limit_mb:  # noqa: ASYNC110  nobody tells of a process's size
            await asyncio.sleep(_MEMORY_POLL_S)
        raise FitTooLarge(
            f"killed at {used_mb:,.0f} MB, TRAINER_MEMORY_LIMIT_MB is {limit_mb:,.0f}: allow it more, or train on less"
            " with TRAINER_WINDOW_BATCHES or TRAINER_SAMPLE_FRACTION"
        )

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


async def _answer(
    connection: Connection, news: asyncio.Event, tell: Tell, watch: asyncio.Task[None]
) -> FitDone | FitFailed:
    """The child's last word; what it says before is passed on. Raises what the watch raises."""
    while True:
        waiting = asyncio.create_task(news.wait())
        try:
            await asyncio.wait({waiting, watch}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            waiting.cancel()
        if watch.done():
            watch.result()
        news.clear()
        while connection.poll():
            said: Progress | FitDone | FitFailed = connection.recv()
            if not isinstance(said, Progress):
                return said
            tell(said)


def _resident_mb(pid: int | None) -> float:
    """Resident memory of a process in MB; 0 when it is gone."""
    try:
        pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    except OSError:
        return 0.0
    return pages * resource.getpagesize() / 1e6


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
