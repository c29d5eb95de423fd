"""What is decided here: whether a bundle may serve, and what is answered for an encounter. No I/O."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import orjson

from readmit_bundle import Bundle, BundleRefused, Model, load_model
from readmit_contracts.encounter import example_encounter
from readmit_contracts.events import ModelPromoted, Role, RolloutChanged
from readmit_contracts.prediction import FieldWarning, ServingModel
from readmit_features.cleaning import Cleaned, Value, clean_encounter
from readmit_inference.errors import InvalidEncounter, NoModel

if TYPE_CHECKING:
    from readmit_inference.trial import Beside

_WARM_UP_ROWS = 20

#: What puts a model in service: as champion, or as challenger.
Cause = ModelPromoted | RolloutChanged
_CHAMPION: Role = "champion"
_CHALLENGER: Role = "challenger"


@dataclass(frozen=True, slots=True)
class Serving:
    """A verified model, what put it in service, and how answers name it."""

    model: Model
    cause: Cause
    named: ServingModel
    named_json: orjson.Fragment


class Answered(NamedTuple):
    """An answer, the cleaned values that it was given for, and the model that gave it."""

    prediction_id: str  #: a UUID, as it is written
    risk: float
    readmitted_within_30_days: bool
    used_history: bool
    warnings: list[FieldWarning]
    values: dict[str, Value]
    serving: Serving
    beside: Beside | None = None  #: in a rollout: the model that did not answer

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
#: Of the sixteen hexadecimal digits, what stands for each where the first two bits are 10.
_VARIANTS = {digit: "89ab"[int(digit, 16) & 3] for digit in "0123456789abcdef"}


def new_id() -> str:
    """A random UUID (version 4 of RFC 9562) as text, from any thread: a third of what `str(uuid4())` takes.

    Random bytes are taken for 256 ids at a time: it is a call of the system.
    """
    try:
        sixteen = _RANDOM.pop()
    except IndexError:
        many = os.urandom(16 * 256)
        _RANDOM.extend(many[at : at + 16] for at in range(16, len(many), 16))
        sixteen = many[:16]
    digits = sixteen.hex()
    variant = _VARIANTS[digits[16]]
    return f"{digits[:8]}-{digits[8:12]}-4{digits[13:16]}-{variant}{digits[17:20]}-{digits[20:]}"


def prepare(bundle: Bundle, cause: Cause) -> Serving:
    """Load a bundle whose digest is verified, prove it on its golden rows and warm it up.

    Blocking (tens to hundreds of milliseconds). Raises `BundleRefused` when the bundle isn't what was announced.
    """
    serving = _named(load_model(bundle), cause)
    serving.model.check_golden()
    for _ in range(_WARM_UP_ROWS):
        predict(serving, example_encounter()).to_json()
    return serving


def renamed(loaded: Serving, cause: Cause) -> Serving:
    """The model of the same digest, proven and warm, as this cause names it. Some hundred microseconds.

    Raises `BundleRefused` where `prepare` and reading the bundle would.
    """
    known = loaded.cause.bundle.size_bytes
    if cause.bundle.size_bytes != known:
        raise BundleRefused(f"{known} bytes found, {cause.bundle.size_bytes} announced")
    return _named(loaded.model, cause)


def _named(model: Model, cause: Cause) -> Serving:
    """Raises `BundleRefused` when the model isn't what was announced."""
    manifest = model.manifest
    if manifest.synthetic != cause.synthetic:
        raise BundleRefused(f"the bundle says synthetic={manifest.synthetic}, the event synthetic={cause.synthetic}")
    if isinstance(cause, ModelPromoted):
        version, epoch, role = cause.model, cause.epoch, _CHAMPION
    else:
        version, epoch, role = cause.challenger, cause.champion_epoch, _CHALLENGER
    if manifest.family != version.family:
        raise BundleRefused(f"the bundle holds a {manifest.family}, announced was a {version.family}")
    named = ServingModel(
        name=version.name,
        version=version.version,
        sha256=model.sha256,
        epoch=epoch,
        synthetic=cause.synthetic,
        role=role,
    )
    return Serving(model, cause, named, orjson.Fragment(named.model_dump_json()))


def predict(serving: Serving | None, encounter: Mapping[str, object]) -> Answered:
    """Clean and score one encounter, in tens of microseconds.

    Raises `InvalidEncounter` with every field that can't be understood, `NoModel` before the first promotion.
    """
    cleaned = read(encounter)
    if serving is None:
        raise NoModel("No model has been promoted yet, or it is still loading. Try again in a few seconds.")
    return score(serving, cleaned)


def read(encounter: Mapping[str, object]) -> Cleaned:
    """The encounter as models read it. Raises `InvalidEncounter`."""
    cleaned = clean_encounter(encounter)
    if cleaned.errors:
        raise InvalidEncounter(cleaned.errors)
    return cleaned


def score(serving: Serving, cleaned: Cleaned) -> Answered:
    """The answer of a model to an encounter."""
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
