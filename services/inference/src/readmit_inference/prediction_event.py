"""Answers as `prediction.made` on the wire: bytes, headers, and no identifier of a patient."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from hashlib import blake2b
from typing import NamedTuple, cast

import orjson
from pydantic import SecretStr

from readmit_chassis.envelope import new_envelope
from readmit_contracts.encounter import COLUMNS, Group, Kind
from readmit_contracts.events import PredictionsMade
from readmit_features.cleaning import Value
from readmit_features.split import split_of
from readmit_inference.comparison import OtherScore
from readmit_inference.domain import Answered, Serving, new_id
from readmit_inference.trial import Beside, Trial

_FEATURES = tuple(
    column.key for column in COLUMNS if column.kind is not Kind.IDENTIFIER and column.group is not Group.OUTCOME
)
#: Values of an encounter that come before its features: the numbers that name it and its patient.
_IDENTIFIERS = sum(column.kind is Kind.IDENTIFIER for column in COLUMNS)
_PATIENT_KEY_BYTES = 8
#: What the envelope of each message says anew.
_OWN_HEADERS = frozenset({"ce_id", "ce_time", "traceparent"})


class Record(NamedTuple):
    """One message, ready for Kafka."""

    key: bytes | None
    value: bytes
    headers: list[tuple[str, bytes]]
    at_ms: int
    events: int = 1  #: how many things it tells of


class Logged(NamedTuple):
    """An answer as the log keeps it until it is encoded: no more of the request than it takes."""

    prediction_id: str
    at_s: float  #: seconds since 1970
    risk: float
    readmitted_within_30_days: bool
    latency_s: float
    patient_nbr: int | None
    features: list[Value]
    serving: Serving
    beside: Beside | None = None  #: in a rollout: the model that did not answer
    other: OtherScore | None = None  #: what that one says, once it was asked


#: Answers to their messages: one for all that the same model gave, in their order.
Encode = Callable[[Sequence[Logged]], list[Record]]


def logged(answered: Answered, latency_s: float, at_s: float) -> Logged:
    """What the log keeps of an answer.

    Taken while its values are in the processor's caches, and so that the rest of them need not stay there.
    """
    features = list(answered.values.values())  # in schema order; to look each up by name takes three times as long
    del features[:_IDENTIFIERS]
    return Logged(
        answered.prediction_id,
        at_s,
        answered.risk,
        answered.readmitted_within_30_days,
        latency_s,
        cast("int | None", answered.values["patient_nbr"]),
        features,
        answered.serving,
        answered.beside,
    )


def encoder(pod_id: str, source: str, pseudonym_key: SecretStr | None) -> Encode:
    """What turns answers into messages, in some microseconds each; a test holds the bytes against `PredictionsMade`.

    A message is of the time of its last answer, and begins a trace that has its id.
    """
    patient_key = pseudonyms(pseudonym_key.get_secret_value().encode()) if pseudonym_key else _nobody
    envelope = new_envelope(PredictionsMade.EVENT_TYPE, source=source, subject=pod_id).headers()
    always = [(name, text.encode()) for name, text in envelope.items() if name not in _OWN_HEADERS]

    def encode(answers: Sequence[Logged]) -> list[Record]:
        return [message(alike) for alike in _by_model(answers)]

    def message(answers: Sequence[Logged]) -> Record:
        ids, at_s, risks, verdicts, latencies_s, patients, features, _, beside, others = zip(*answers, strict=True)
        columns = {
            "prediction_id": ids,
            "at_us": [round(second * 1_000_000) for second in at_s],
            "risk": risks,
            "readmitted_within_30_days": verdicts,
            "latency_ms": [second * 1000 for second in latencies_s],
            "patient_key": [patient_key(patient) for patient in patients],
            "split": [None if patient is None else split_of(patient) for patient in patients],
            "features": features,
        }
        trial: Trial | None = beside[0].trial if beside[0] is not None else None
        if trial is not None:
            columns["other"] = [None if other is None else _other(other) for other in others]
        event = _of_all(pod_id, answers[0].serving, trial) | {"answers": columns}
        name = new_id()
        digits = name.replace("-", "")
        headers = [
            *always,
            ("ce_id", name.encode()),
            ("ce_time", datetime.fromtimestamp(at_s[-1], UTC).isoformat().encode()),
            ("traceparent", f"00-{digits}-{digits[16:]}-01".encode()),
        ]
        return Record(None, orjson.dumps(event), headers, int(at_s[-1] * 1000), len(answers))

    return encode


def _by_model(answers: Sequence[Logged]) -> list[list[Logged]]:
    """Groups that a message can tell of: of one model, and in one stage of a rollout."""
    groups: dict[tuple[int, int], list[Logged]] = {}
    for answer in answers:
        trial = None if answer.beside is None else answer.beside.trial
        groups.setdefault((id(answer.serving), id(trial)), []).append(answer)
    return list(groups.values())


def _of_all(pod_id: str, serving: Serving, trial: Trial | None) -> dict[str, object]:
    """What a message says of the pod and the model."""
    named = serving.named
    return {
        "pod_id": pod_id,
        "model": _version(serving),
        "sha256": named.sha256,
        "epoch": named.epoch,
        "synthetic": named.synthetic,
        "threshold": serving.model.threshold,
        "role": named.role,
        "rollout_id": None if trial is None else trial.changed.rollout_id,
        "feature_names": _FEATURES,
    }


def _version(serving: Serving) -> dict[str, str]:
    named = serving.named
    return {"name": named.name, "version": named.version, "family": serving.model.manifest.family}


def _other(said: OtherScore) -> dict[str, object]:
    named = said.serving.named
    return {
        "role": named.role,
        "model": _version(said.serving),
        "sha256": named.sha256,
        "risk": said.risk,
        "readmitted_within_30_days": said.readmitted_within_30_days,
        "score_ms": said.score_s * 1000,
    }


def pseudonyms(secret: bytes) -> Callable[[int | None], str | None]:
    """Patients' numbers to keyed hashes (BLAKE2b, RFC 7693): who has no key can neither compute nor undo them."""
    key = secret if len(secret) <= blake2b.MAX_KEY_SIZE else blake2b(secret).digest()
    keyed = blake2b(key=key, digest_size=_PATIENT_KEY_BYTES)

    def patient_key(patient_nbr: int | None) -> str | None:
        if patient_nbr is None:
            return None
        digest = keyed.copy()  # a third of what making it anew from the key takes
        digest.update(b"%d" % patient_nbr)
        return digest.hexdigest()

    return patient_key


def _nobody(_: int | None) -> None:
    """Without a key no patient has one."""
