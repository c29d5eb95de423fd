"""What can go wrong in judging that is nobody's bug."""

from __future__ import annotations


class EvidenceError(Exception):
    """The evidence is missing, is not what its reference says, or cannot be judged. The message says why."""


class RegistryError(Exception):
    """MLflow did not answer, or answered with an error of its own. The ledger is ahead of it until the next try."""
