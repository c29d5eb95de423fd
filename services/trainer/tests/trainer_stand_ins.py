"""What the fitting process runs in tests in place of the real pipeline: a module that a spawned process can import."""

from __future__ import annotations

import os
import signal
import time
from multiprocessing.connection import Connection
from pathlib import Path

from readmit_contracts.events import ArtifactRef, ModelRegistered, ModelVersion, ValidationScores
from readmit_trainer.domain import FitDone, FitFailed, FitTask, Progress, model_name
from readmit_trainer.settings import Settings


def done(task: FitTask) -> FitDone:
    """What a fit of the task would give."""
    ref = ArtifactRef(uri="s3://bucket/x", sha256="a" * 64, size_bytes=1)
    registered = ModelRegistered(
        model=ModelVersion(name=model_name(task.family), version="1", family=task.family), run_id="run",
        dataset_version=task.batch.dataset_version, batch=task.batch.batch, bundle=ref, evidence=ref,
        validation=ValidationScores(
            rows=9, positives=1, auroc=0.66, auroc_low=0.6, auroc_high=0.7, average_precision=0.2, brier=0.1,
            calibration_error=0.01,
        ),
        feature_spec_sha256="f" * 64, code_version=task.code_version, synthetic=True,
    )  # fmt: skip
    return FitDone(registered, 1.5)


def answers_with_its_pid(connection: Connection, settings: Settings) -> None:
    while True:
        connection.recv()
        connection.send(FitFailed(transient=False, reason=str(os.getpid())))


def fits_at_once(connection: Connection, settings: Settings) -> None:
    while True:
        connection.send(done(connection.recv()))


def is_killed(connection: Connection, settings: Settings) -> None:
    connection.recv()
    os.kill(os.getpid(), signal.SIGKILL)


def is_killed_the_first_time(connection: Connection, settings: Settings) -> None:
    """`settings.bucket` names the file that remembers."""
    task = connection.recv()
    if not Path(settings.bucket).exists():
        Path(settings.bucket).touch()
        os.kill(os.getpid(), signal.SIGKILL)
    connection.send(done(task))


def hangs(connection: Connection, settings: Settings) -> None:
    """Touches the file that `settings.bucket` names once it is busy."""
    connection.recv()
    Path(settings.bucket).touch()
    signal.pause()


def tells_of_its_progress(connection: Connection, settings: Settings) -> None:
    while True:
        task = connection.recv()
        for progress in (Progress("reading"), Progress("searching", 1, 2), Progress("searching", 2, 2)):
            connection.send(progress)
        connection.send(done(task))


def grows(connection: Connection, settings: Settings) -> None:
    """By 50 MB at a time, every page touched, for ever."""
    connection.recv()
    kept = []
    while True:
        kept.append(b"x" * 50_000_000)
        time.sleep(0.02)


def takes_its_time(connection: Connection, settings: Settings) -> None:
    """As many seconds as `settings.timeout_s` says, half of them."""
    while True:
        task = connection.recv()
        time.sleep(settings.timeout_s / 2)
        connection.send(done(task))
