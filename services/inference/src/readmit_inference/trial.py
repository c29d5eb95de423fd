"""Which of two models answers an encounter. No I/O but metrics."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Mapping
from typing import NamedTuple
from uuid import UUID

import structlog

from readmit_contracts.events import RolloutChanged
from readmit_features.cleaning import Value
from readmit_inference import metrics
from readmit_inference.domain import Answered, Serving, predict, read, score

log = structlog.get_logger()

_IN_CANARY = metrics.CHALLENGER_ANSWERS.labels("canary")
_BITS = 53  # of a float's fraction: what is drawn stays below 1
_POSITIONS = float(1 << _BITS)


class Trial:
    """A challenger beside the champion. Its share of a canary is the same patients on every pod, at every time."""

    def __init__(self, changed: RolloutChanged, challenger: Serving) -> None:
        self.changed = changed
        self.challenger = challenger
        self._share = changed.share if changed.stage == "canary" else 0.0
        self._has_failed = False

    def draws(self, values: Mapping[str, Value]) -> bool:
        """Whether the challenger answers for this encounter (cleaned values)."""
        return self._share > 0.0 and position(self.changed.rollout_id, values) < self._share

    def count_failure(self, failed: Serving, error: Exception) -> None:
        """A model could not score an encounter. Its kind is logged the first time: its text may hold values."""
        named = failed.named
        if named.role == "challenger":
            metrics.CHALLENGER_FAILURES.inc()
        if not self._has_failed:
            self._has_failed = True
            log.error("model_on_trial_failed", role=named.role, sha256=named.sha256, error=type(error).__name__)


class Beside(NamedTuple):
    """The model that did not answer, and what it takes to ask it later."""

    trial: Trial
    other: Serving | None  #: None: it is not to be asked
    values: Mapping[str, Value]  #: cleaned, with the history
    has_failed: bool = False  #: it was to answer, and could not


def position(rollout_id: UUID, values: Mapping[str, Value]) -> float:
    """Where a rollout puts a patient, in [0, 1): uniform, for ever, and elsewhere in the next rollout.

    Without a patient's number the encounter's is taken, and without either, chance.
    """
    for identifier, kind in (("patient_nbr", b"patient"), ("encounter_id", b"encounter")):
        number = values.get(identifier)
        if number is not None:
            digest = hashlib.blake2b(str(number).encode(), digest_size=8, key=rollout_id.bytes, person=kind).digest()
            return (int.from_bytes(digest) >> (64 - _BITS)) / _POSITIONS
    return random.random()  # noqa: S311  spreading, not secrecy


def answer(serving: Serving | None, trial: Trial | None, encounter: Mapping[str, object]) -> Answered:
    """The answer of whichever model answers this encounter; the champion's where the challenger fails.

    Raises what `predict` does.
    """
    if trial is None or serving is None:
        return predict(serving, encounter)
    cleaned = read(encounter)
    challenger = trial.challenger
    values = cleaned.values | cleaned.history
    if not trial.draws(cleaned.values):
        return score(serving, cleaned)._replace(beside=Beside(trial, challenger, values))
    try:
        answered = score(challenger, cleaned)
        check(answered.risk)
    except Exception as error:  # noqa: BLE001  a model on trial may fail in any way; patients get their answer
        trial.count_failure(challenger, error)
        return score(serving, cleaned)._replace(beside=Beside(trial, challenger, values, has_failed=True))
    _IN_CANARY.inc()
    return answered._replace(beside=Beside(trial, serving, values))


def check(risk: float) -> None:
    """Raises ValueError."""
    if not 0.0 <= risk <= 1.0:  # NaN is not, either
        raise ValueError("the risk is no probability")
