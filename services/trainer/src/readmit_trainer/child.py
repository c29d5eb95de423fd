"""What runs inside the fitting process: task in, candidate registered, answer out.

The libraries of machine learning are imported here and nowhere in the trainer itself, when the process starts.
"""

from __future__ import annotations

import errno
import os
import tempfile
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path
from typing import TYPE_CHECKING

import structlog

from readmit_chassis.logs import configure_logging
from readmit_chassis.s3 import StoreUnavailable
from readmit_trainer.domain import FitDone, FitFailed, FitTask, Progress
from readmit_trainer.errors import BadTrainingData, ParityBroken, PartAway
from readmit_trainer.settings import Settings

if TYPE_CHECKING:
    from readmit_trainer.pipeline import Pipeline

log = structlog.get_logger()

_ENVIRONMENT = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "10",
    # Where Matplotlib keeps its list of fonts: the image's own folders are read-only.
    "MPLCONFIGDIR": str(Path(tempfile.gettempdir(), "readmit-matplotlib")),
    # Threads that spin while they wait make a fit ten times slower on a machine whose cores are busy.
    "OMP_WAIT_POLICY": "PASSIVE",
}


def serve(connection: Connection, settings: Settings) -> None:
    """Answer tasks until the trainer closes its end."""
    configure_logging("trainer-fit")
    os.environ.update(_ENVIRONMENT)
    from readmit_trainer.pipeline import open_pipeline  # noqa: PLC0415  seconds of imports, paid here alone

    pipeline = open_pipeline(settings)
    while True:
        try:
            task: FitTask = connection.recv()
        except EOFError:
            return
        connection.send(answer(pipeline, task, connection.send))


def answer(pipeline: Pipeline, task: FitTask, tell: Callable[[Progress], None]) -> FitDone | FitFailed:
    """Run the task; whatever happens has an answer with a code."""
    try:
        return pipeline.run(task, tell)
    except Exception as error:  # the job's record keeps it, and a poisonous job must not stop the others
        failed = _failed(error)
        if failed.code == "bug":
            log.exception("fit_raised", job_id=str(task.job_id))
        return failed


def _failed(error: Exception) -> FitFailed:
    match error:
        case PartAway():
            return FitFailed(transient=True, reason=str(error), code=error.code)
        case StoreUnavailable():
            return FitFailed(transient=True, reason=str(error), code="s3_away")
        case OSError(errno=errno.ENOSPC):
            return FitFailed(transient=True, reason=f"no space left on the disk ({error})", code="disk_full")
        case BadTrainingData():
            return FitFailed(transient=False, reason=str(error), code=error.code)
        case ParityBroken():
            return FitFailed(transient=False, reason=str(error), code="parity")
    return FitFailed(transient=False, reason=f"{type(error).__name__}: {error}")
