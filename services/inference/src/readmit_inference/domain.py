"""What is decided here: whether a bundle may serve, and what is answered for an encounter. No I/O."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple
from uuid import uuid4

from readmit_bundle import Bundle, BundleRefused, Model, load_model
from readmit_contracts.encounter import example_encounter
from readmit_contracts.events import ModelPromoted
from readmit_contracts.prediction import Prediction, ServingModel
from readmit_features.cleaning import Value, clean_encounter
from readmit_inference.errors import InvalidEncounter, NoModel

_WARM_UP_ROWS = 20


@dataclass(frozen=True, slots=True)
class Serving:
    """A verified model, the promotion that put it in service, and how answers name it."""

    model: Model
    promoted: ModelPromoted
    named: ServingModel


class Answered(NamedTuple):
    """An answer, the cleaned values that it was given for, and the model that gave it."""

    prediction: Prediction
    values: dict[str, Value]
    serving: Serving


def prepare(bundle: Bundle, promoted: ModelPromoted) -> Serving:
    """Load a bundle whose digest is verified, prove it on its golden rows and warm it up.

    Blocking (tens to hundreds of milliseconds). Raises `BundleRefused` when the bundle isn't what was promoted.
    """
    model = load_model(bundle)
    manifest = model.manifest
    if manifest.synthetic != promoted.synthetic:
        raise BundleRefused(
            f"the bundle says synthetic={manifest.synthetic}, the promotion synthetic={promoted.synthetic}"
        )
    if manifest.family != promoted.model.family:
        raise BundleRefused(f"the bundle holds a {manifest.family}, promoted was a {promoted.model.family}")
    model.check_golden()
    named = ServingModel(
        name=promoted.model.name,
        version=promoted.model.version,
        sha256=model.sha256,
        epoch=promoted.epoch,
        synthetic=promoted.synthetic,
    )
    serving = Serving(model, promoted, named)
    for _ in range(_WARM_UP_ROWS):
        predict(serving, example_encounter())
    return serving


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
    prediction = Prediction(
        prediction_id=uuid4(),
        risk=risk,
        readmitted_within_30_days=risk >= model.threshold,
        threshold=model.threshold,
        used_history=bool(history) and model.manifest.feature_spec.reads_history,
        model=serving.named,
        warnings=[*cleaned.warnings, *model.encoder.unseen(values)],
    )
    return Answered(prediction, cleaned.values, serving)
