"""How training fails. Whatever is none of these is a bug, and stops the process."""

from __future__ import annotations

from readmit_chassis.failures import Transient
from readmit_trainer.domain import FailureCode


class AttemptFailed(Exception):  # noqa: N818  says what happened
    """One attempt at a job ended without a model: counted, tried again a few times."""

    code: FailureCode = "bug"


class WorkerDied(AttemptFailed):
    """The process that fits is gone in mid-fit: killed, out of memory, crashed."""

    code = "worker_died"


class FitTimeout(AttemptFailed):
    """The fit ran longer than allowed and was killed."""

    code = "timeout"


class FitTooLarge(AttemptFailed):
    """The fit took more memory than allowed and was killed."""

    code = "memory_limit"


class PartAway(Transient):
    """A part that a fit needs does not answer: the attempt is not counted, and made again."""

    def __init__(self, message: str, code: FailureCode) -> None:
        super().__init__(message)
        self.code = code


class BadTrainingData(Exception):  # noqa: N818
    """The rows are not what the event announced, or nothing can be learned from them."""

    def __init__(self, message: str, code: FailureCode = "bad_data") -> None:
        super().__init__(message)
        self.code = code


class NothingToTrainOn(Exception):  # noqa: N818
    """A request asks for data that is not there. The message says what to do, to whoever asked."""


class ParityBroken(Exception):  # noqa: N818
    """The exported bundle does not give the fitted model's risks."""
