"""What is decided here: whether a bundle may serve, and what is answered for an encounter. No I/O."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple
from uuid import UUID

import orjson

from readmit_bundle import Bundle, BundleRefused, Model, load_model
from readmit_contracts.encounter import example_encounter
from readmit_contracts.events import ModelPromoted
from readmit_contracts.prediction import FieldWarning, ServingModel
from readmit_features.cleaning import Value, clean_encounter
from readmit_inference.errors import InvalidEncounter, NoModel

_WARM_UP_ROWS = 20


@dataclass(frozen=True, slots=True)
class Serving:
    """A verified model, the promotion that put it in service, and how answers name it."""

    model: Model
    promoted: ModelPromoted
    named: ServingModel
    named_json: orjson.Fragment


class Answered(NamedTuple):
    """An answer, the cleaned values that it was given for, and the model that gave it."""

    prediction_id: UUID
    risk: float
    readmitted_within_30_days: bool
    used_history: bool
    warnings: list[FieldWarning]
    values: dict[str, Value]
    serving: Serving

    def to_json(self) -> bytes:
        """The body of the answer: what a `Prediction` of the contract says, without the time that making one takes."""
        serving = self.serving
        return orjson.dumps(
            {
                "prediction_id": self.prediction_id,
                "risk": self.risk,
                "readmitted_within_30_days": self.readmitted_within_30_days,
                "threshold": serving.model.threshold,
                "used_history": self.used_history,
                "model": serving.named_json,
                "warnings": [warning.model_dump() for warning in self.warnings],
            }
        )


_RANDOM: list[bytes] = []


def new_id() -> UUID:
    """As `uuid4`, from any thread. Random bytes are taken for 256 ids at a time: it is a call of the system."""
    try:
        sixteen = _RANDOM.pop()
    except IndexError:
        many = os.urandom(16 * 256)
        _RANDOM.extend(many[at : at + 16] for at in range(16, len(many), 16))
        sixteen = many[:16]
    return UUID(bytes=sixteen, version=4)


def prepare(bundle: Bundle, promoted: ModelPromoted) -> Serving:
    """Load a bundle whose digest is verified, prove it on its golden rows and warm it up.

    Blocking (tens to hundreds of milliseconds). Raises `BundleRefused` when the bundle isn't what was promoted.
    """
    serving = _named(load_model(bundle), promoted)
    serving.model.check_golden()
    for _ in range(_WARM_UP_ROWS):
        predict(serving, example_encounter()).to_json()
    return serving


def renamed(loaded: Serving, promoted: ModelPromoted) -> Serving:
    """The model of the same digest, proven and warm, as this promotion names it. Some hundred microseconds.

    Raises `BundleRefused` where `prepare` and reading the bundle would.
    """
    known = loaded.promoted.bundle.size_bytes
    if promoted.bundle.size_bytes != known:
        raise BundleRefused(f"{known} bytes found, {promoted.bundle.size_bytes} announced")
    return _named(loaded.model, promoted)


def _named(model: Model, promoted: ModelPromoted) -> Serving:
    """Raises `BundleRefused` when the model isn't what was promoted."""
    manifest = model.manifest
    if manifest.synthetic != promoted.synthetic:
        raise BundleRefused(
            f"the bundle says synthetic={manifest.synthetic}, the promotion synthetic={promoted.synthetic}"
        )
    if manifest.family != promoted.model.family:
        raise BundleRefused(f"the bundle holds a {manifest.family}, promoted was a {promoted.model.family}")
    named = ServingModel(
        name=promoted.model.name,
        version=promoted.model.version,
        sha256=model.sha256,
        epoch=promoted.epoch,
        synthetic=promoted.synthetic,
    )
    return Serving(model, promoted, named, orjson.Fragment(named.model_dump_json()))


def predict(serving: Serving | None, encounter: Mapping[str, object]) -> Answered:
    """Clean and score one encounter, in tens of microseconds.

    Raises `InvalidEncounter` with every field that can't be understood, `NoModel` before the first promotion.
    """
    cleaned = clean_encounter(encounter)
    if cleaned.errors:
        raise InvalidEncounter(cleaned.errors)
    if serving is None:
        raise NoModel("No model has been promoted yet, or it is still loading. Try again in a few seconds.")
    model = serving.model
    history = cleaned.history
    values = cleaned.values | history if history else cleaned.values
    risk = model.score_values(values)
    return Answered(
        new_id(),
        risk,
        risk >= model.threshold,
        bool(history) and model.encoder.reads_history,
        [*cleaned.warnings, *model.encoder.unseen(values)],
        cleaned.values,
        serving,
    )
