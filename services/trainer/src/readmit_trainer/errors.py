"""How training fails. Whatever is none of these is a bug, and stops the process."""

from __future__ import annotations

from readmit_trainer.domain import FailureCode


class AttemptFailed(Exception):  # noqa: N818  says what happened
    """One attempt at a job ended without a model: counted, tried again a few times."""


class WorkerDied(AttemptFailed):
    """The process that fits is gone in mid-fit: killed, out of memory, crashed."""


class FitTimeout(AttemptFailed):
    """The fit ran longer than allowed and was killed."""


class BadTrainingData(Exception):  # noqa: N818
    """The rows are not what the event announced, or nothing can be learned from them."""

    def __init__(self, message: str, code: FailureCode = "bad_data") -> None:
        super().__init__(message)
        self.code = code


class NothingToTrainOn(Exception):  # noqa: N818
    """A request asks for data that is not there. The message says what to do, to whoever asked."""


class ParityBroken(Exception):  # noqa: N818
    """The exported bundle does not give the fitted model's risks."""
