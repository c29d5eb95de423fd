"""What can go wrong in judging that is nobody's bug."""

from __future__ import annotations


class EvidenceError(Exception):
    """The evidence is missing, is not what its reference says, or cannot be judged. The message says why."""


class RegistryError(Exception):
    """MLflow did not answer, or answered with an error of its own. The ledger is ahead of it until the next try."""


class NotAllowed(Exception):  # noqa: N818  named for what is the case
    """What was asked for cannot be done now. `code` is for programs, `detail` says why and what can be done."""

    def __init__(self, code: str, detail: str) -> None:
        super().__init__(detail)
        self.code = code
        self.detail = detail


class Unauthorized(Exception):  # noqa: N818  as HTTP calls it
    """Nobody known asks. The message says what to send."""


class Forbidden(Exception):  # noqa: N818  as HTTP calls it
    """Somebody known asks for what their role may not do."""

    def __init__(self, who: str, detail: str) -> None:
        super().__init__(detail)
        self.who = who
        self.detail = detail


class NotFound(Exception):  # noqa: N818  as HTTP calls it
    """There is no such thing. The message says where to look."""


class PolicyError(Exception):
    """The policy file cannot be used. One line for each problem: file, place, value, what is allowed."""


class DocumentError(Exception):
    """A kept document is not what this program writes. The message says what is wrong with it."""
