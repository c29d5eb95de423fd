"""What can go wrong in judging that is nobody's bug."""

from __future__ import annotations


class EvidenceError(Exception):
    """The evidence is missing, is not what its reference says, or cannot be judged. The message says why."""


class RegistryError(Exception):
    """MLflow did not answer, or answered with an error of its own. The ledger is ahead of it until the next try."""


class PolicyError(Exception):
    """The policy file cannot be used. One line for each problem: file, place, value, what is allowed."""


class DocumentError(Exception):
    """A kept document is not what this program writes. The message says what is wrong with it."""
