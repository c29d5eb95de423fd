"""An answer as `prediction.made` on the wire: bytes, headers, and no identifier of a patient."""

from __future__ import annotations

import hmac
from collections.abc import Callable
from datetime import UTC, datetime
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
    secret = pseudonym_key.get_secret_value().encode() if pseudonym_key else None
    envelope = new_envelope(PredictionMade.EVENT_TYPE, source=source, subject="").headers()
    always = [(name, envelope[name].encode()) for name in envelope if name not in _OWN_HEADERS]

    def encode(logged: Logged) -> Record:
        prediction = logged.answered
        values, serving = prediction.values, prediction.serving
        at = datetime.fromtimestamp(logged.at_s, UTC)
        features = dict(values)
        for identifier in _IDENTIFIERS:
            features.pop(identifier, None)
        event = {
            "prediction_id": prediction.prediction_id,
            "pod_id": pod_id,
            "model": _version(serving),
            "sha256": serving.named.sha256,
            "epoch": serving.named.epoch,
            "synthetic": serving.named.synthetic,
            "risk": prediction.risk,
            "threshold": serving.model.threshold,
            "readmitted_within_30_days": prediction.readmitted_within_30_days,
            "latency_ms": logged.latency_s * 1000,
            "patient_key": patient_key(secret, values.get("patient_nbr")),
            "split": patient_split(values.get("patient_nbr")),
            "features": features,
            "at": at,
        }
        if prediction.beside is not None:
            event["role"] = serving.named.role
            event["rollout_id"] = prediction.beside.trial.changed.rollout_id
            event["other"] = None if logged.other is None else _other(logged.other)
        name, digits = str(prediction.prediction_id).encode(), prediction.prediction_id.hex
        headers = [
            *always,
            ("ce_id", name),
            ("ce_time", at.isoformat().encode()),
            ("ce_subject", name),
            ("traceparent", f"00-{digits}-{digits[16:]}-01".encode()),
        ]
        return Record(name, orjson.dumps(event), headers, int(logged.at_s * 1000))

    return encode


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


def patient_key(secret: bytes | None, patient_nbr: Value) -> str | None:
    """Keyed hash (HMAC-SHA256) of a patient's number: who has no key can neither compute nor undo it."""
    if secret is None or patient_nbr is None:
        return None
    return hmac.digest(secret, str(patient_nbr).encode(), "sha256").hex()[:_PATIENT_KEY_DIGITS]


def patient_split(patient_nbr: Value) -> Split | None:
    """Where the patient's hash puts the patient, for ever: data that comes back later must not change sides."""
    return split_of(patient_nbr) if isinstance(patient_nbr, int) else None
