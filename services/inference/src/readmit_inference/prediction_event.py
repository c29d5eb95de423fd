"""An answer as `prediction.made` on the wire: bytes, headers, and no identifier of a patient."""

from __future__ import annotations

import hmac
from collections.abc import Callable
from datetime import UTC, datetime
from functools import lru_cache
from typing import NamedTuple

import orjson
from pydantic import SecretStr

from readmit_chassis.envelope import new_envelope
from readmit_contracts.encounter import COLUMNS, Kind
from readmit_contracts.events import PredictionMade
from readmit_features.cleaning import Value
from readmit_features.split import Split, split_of
from readmit_inference.comparison import OtherScore
from readmit_inference.domain import Answered, Serving

_IDENTIFIERS = tuple(column.key for column in COLUMNS if column.kind is Kind.IDENTIFIER)
#: What the envelope of each event says anew.
_OWN_HEADERS = frozenset({"ce_id", "ce_time", "ce_subject", "traceparent"})
_PATIENT_KEY_DIGITS = 16


class Record(NamedTuple):
    """One message, ready for Kafka."""

    key: bytes
    value: bytes
    headers: list[tuple[str, bytes]]
    at_ms: int


class Logged(NamedTuple):
    """An answer as the log keeps it until it is encoded: references, nothing computed yet."""

    answered: Answered
    latency_s: float
    at_s: float  #: seconds since 1970
    other: OtherScore | None = None  #: what the model that did not answer says, once it was asked


def encoder(pod_id: str, source: str, pseudonym_key: SecretStr | None) -> Callable[[Logged], Record]:
    """What turns an answer into its message, in some microseconds; a test holds the bytes against `PredictionMade`.

    The event's id is the prediction's, and so is its trace's: from a prediction's id, everything it caused is found.
    """
    patient_key = pseudonyms(pseudonym_key.get_secret_value().encode()) if pseudonym_key else _nobody
    envelope = new_envelope(PredictionMade.EVENT_TYPE, source=source, subject="").headers()
    always = [(name, envelope[name].encode()) for name in envelope if name not in _OWN_HEADERS]
    described: Serving | None = None
    beginning = b""

    def encode(logged: Logged) -> Record:
        nonlocal described, beginning
        prediction = logged.answered
        values, serving = prediction.values, prediction.serving
        if serving is not described:
            described, beginning = serving, _beginning(pod_id, serving)
        name, at = prediction.prediction_id, _utc(logged.at_s)
        features = dict(values)
        for identifier in _IDENTIFIERS:
            features.pop(identifier, None)
        event = {
            "prediction_id": name,
            "risk": prediction.risk,
            "readmitted_within_30_days": prediction.readmitted_within_30_days,
            "latency_ms": logged.latency_s * 1000,
            "patient_key": patient_key(values.get("patient_nbr")),
            "split": patient_split(values.get("patient_nbr")),
            "features": features,
            "at": at,
        }
        if prediction.beside is not None:
            event["role"] = serving.named.role
            event["rollout_id"] = prediction.beside.trial.changed.rollout_id
            event["other"] = None if logged.other is None else _other(logged.other)
        key, digits = name.encode(), name.replace("-", "")
        headers = [
            *always,
            ("ce_id", key),
            ("ce_time", at.encode()),
            ("ce_subject", key),
            ("traceparent", f"00-{digits}-{digits[16:]}-01".encode()),
        ]
        return Record(key, beginning + orjson.dumps(event)[1:], headers, int(logged.at_s * 1000))

    return encode


def _beginning(pod_id: str, serving: Serving) -> bytes:
    """What events say of the pod and the model, up to the comma: the same in all, so that it is written once."""
    same = {
        "pod_id": pod_id,
        "model": _version(serving),
        "sha256": serving.named.sha256,
        "epoch": serving.named.epoch,
        "synthetic": serving.named.synthetic,
        "threshold": serving.model.threshold,
    }
    return orjson.dumps(same)[:-1] + b","


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


@lru_cache(maxsize=2)
def _second(at_s: int) -> str:
    return datetime.fromtimestamp(at_s, UTC).strftime("%Y-%m-%dT%H:%M:%S")


def _utc(at_s: float) -> str:
    """As RFC 3339 has it, in microseconds. Most answers share their second with the one before."""
    second, microseconds = divmod(round(at_s * 1_000_000), 1_000_000)
    return f"{_second(second)}.{microseconds:06d}+00:00"


def pseudonyms(secret: bytes) -> Callable[[Value], str | None]:
    """Patients' numbers to keyed hashes (HMAC-SHA256): who has no key can neither compute nor undo them."""
    keyed = hmac.new(secret, digestmod="sha256")

    def patient_key(patient_nbr: Value) -> str | None:
        if patient_nbr is None:
            return None
        digest = keyed.copy()  # half of what making it anew from the key takes
        digest.update(str(patient_nbr).encode())
        return digest.hexdigest()[:_PATIENT_KEY_DIGITS]

    return patient_key


def _nobody(_: Value) -> None:
    """Without a key no patient has one."""


def patient_split(patient_nbr: Value) -> Split | None:
    """Where the patient's hash puts the patient, for ever: data that comes back later must not change sides."""
    return split_of(patient_nbr) if isinstance(patient_nbr, int) else None
