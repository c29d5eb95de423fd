"""The fitting process: kept, killed, replaced, and gone with its parent."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from uuid import uuid4

import pytest
from trainer_stand_ins import answers_with_its_pid, grows, hangs, is_killed, tells_of_its_progress

from readmit_contracts.events import BatchReady
from readmit_trainer.domain import FitDone, FitFailed, FitTask, Progress
from readmit_trainer.errors import FitTimeout, FitTooLarge, WorkerDied
from readmit_trainer.settings import Settings
from readmit_trainer.worker import Worker


@pytest.fixture
def task(make_event: Callable[..., BatchReady]) -> FitTask:
    return FitTask(uuid4(), make_event(), "lightgbm", "v1")


@pytest.fixture
def told() -> list[Progress]:
    """What the fitting process said on its way."""
    return []


@pytest.fixture
def worker(settings: Settings) -> Iterator[Worker]:
    made = Worker(settings, answers_with_its_pid)
    yield made
    made.stop()


def pid_of(answer: FitDone | FitFailed) -> int:
    assert isinstance(answer, FitFailed)
    return int(answer.reason)


def is_alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().split(")")[1].split()[0] != "Z"
    except FileNotFoundError:
        return False


def wait_until_gone(pid: int) -> None:
    deadline = time.monotonic() + 20
    while is_alive(pid):
        assert time.monotonic() < deadline, f"process {pid} lives on"
        time.sleep(0.02)


async def test_the_process_is_kept_between_jobs_and_is_not_ours(
    worker: Worker, task: FitTask, told: list[Progress]
) -> None:
    pids = {pid_of(await worker.fit(task, told.append)) for _ in range(3)}
    assert len(pids) == 1
    assert os.getpid() not in pids


async def test_a_process_killed_in_mid_fit_is_noticed_at_once_and_replaced(
    settings: Settings, task: FitTask, told: list[Progress]
) -> None:
    worker = Worker(settings, is_killed)
    worker.start()
    first = worker.pid
    try:
        for _ in range(2):
            with pytest.raises(WorkerDied, match="exit code -9"):
                await worker.fit(task, told.append)
        worker.start()
        assert worker.pid not in {None, first}
    finally:
        worker.stop()


async def test_a_fit_over_its_time_is_killed(
    settings: Settings, task: FitTask, tmp_path: Path, told: list[Progress]
) -> None:
    worker = Worker(settings.model_copy(update={"timeout_s": 0.3, "bucket": str(tmp_path / "begun")}), hangs)
    worker.start()
    pid = worker.pid
    assert pid is not None
    with pytest.raises(FitTimeout, match=r"killed after 0\.3 s"):
        await worker.fit(task, told.append)
    assert not is_alive(pid)


async def test_a_cancelled_fit_is_killed(
    settings: Settings, task: FitTask, tmp_path: Path, told: list[Progress]
) -> None:
    begun = tmp_path / "begun"
    worker = Worker(settings.model_copy(update={"bucket": str(begun)}), hangs)
    worker.start()
    pid = worker.pid
    assert pid is not None
    fit = asyncio.create_task(worker.fit(task, told.append))
    while not begun.exists():  # noqa: ASYNC110  another process makes the file
        await asyncio.sleep(0.01)
    fit.cancel()
    with pytest.raises(asyncio.CancelledError):
        await fit
    assert not is_alive(pid)


def test_the_process_ends_when_its_parent_is_killed(tmp_path: Path) -> None:
    """The parent is another interpreter, killed with no chance to clean up while its child is busy."""
    parent = tmp_path / "parent.py"
    parent.write_text(
        textwrap.dedent(
            """
            import signal
            from readmit_trainer.worker import Worker

            def busy(connection, settings):
                print("busy", flush=True)
                while True:
                    sum(range(1000))

            if __name__ == "__main__":
                worker = Worker(None, busy)
                worker.start()
                print(worker.pid, flush=True)
                signal.pause()
            """
        )
    )
    process = subprocess.Popen([sys.executable, str(parent)], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    lines = {process.stdout.readline().strip(), process.stdout.readline().strip()}
    child = int((lines - {"busy"}).pop())
    process.kill()
    process.wait()
    process.stdout.close()
    wait_until_gone(child)


def test_the_trainer_itself_never_imports_the_libraries_that_fit() -> None:
    code = "import sys, readmit_trainer.__main__; print({'pandas', 'lightgbm', 'sklearn', 'mlflow'} & set(sys.modules))"
    found = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert found.stdout.strip() == "set()"


async def test_what_the_fit_says_on_its_way_is_passed_on_before_its_answer(
    settings: Settings, task: FitTask, told: list[Progress]
) -> None:
    worker = Worker(settings, tells_of_its_progress)
    try:
        assert isinstance(await worker.fit(task, told.append), FitDone)
    finally:
        worker.stop()
    assert told == [Progress("reading"), Progress("searching", 1, 2), Progress("searching", 2, 2)]


async def test_a_fit_that_outgrows_its_memory_is_killed_and_the_next_one_works(
    settings: Settings, task: FitTask, told: list[Progress]
) -> None:
    worker = Worker(settings.model_copy(update={"memory_limit_mb": 400.0}), grows)
    try:
        with pytest.raises(FitTooLarge, match=r"TRAINER_MEMORY_LIMIT_MB is 400: allow it more"):
            await worker.fit(task, told.append)
        assert worker.pid is None
    finally:
        worker.stop()
