"""Why a model gives an encounter its risk, by the fields that clinicians know. No I/O."""

from __future__ import annotations

from collections.abc import Mapping

from readmit_bundle import NotExplained
from readmit_contracts.history import HISTORY, HISTORY_KEYS, INPUTS_BY_KEY
from readmit_contracts.prediction import Contribution, Explanation
from readmit_features.cleaning import Value, clean_encounter
from readmit_features.spec import FeatureSpec
from readmit_inference.domain import Serving
from readmit_inference.errors import NotExplainable
from readmit_inference.trial import Trial, answer


def explain(serving: Serving | None, trial: Trial | None, encounter: Mapping[str, object]) -> Explanation:
    """The answer to an encounter and the Shapley values behind it, summed by field. Some milliseconds.

    Raises what `predict` does, and `NotExplainable` for a model that was trained before its file held what that takes.
    """
    answered = answer(serving, trial, encounter)
    cleaned = clean_encounter(encounter)  # again: an answer does not keep the history
    values = cleaned.values | cleaned.history
    model = answered.serving.model
    row = model.encoder.encode(values)
    try:
        told, base = model.scorer.shapley(row)
    except NotExplained as lacking:
        raise NotExplainable(f"The model in service can't be explained: {lacking}. One trained anew can.") from lacking
    sums: dict[str, float] = {}
    for field, contribution in zip(_fields_of(model.manifest.feature_spec), told.tolist(), strict=True):
        sums[field] = sums.get(field, 0.0) + contribution
    made_of = _made_of(model.manifest.feature_spec)
    contributions = [
        Contribution(
            field=_shown_name(field),
            value=_value(field, model.manifest.feature_spec, values),
            contribution=contribution,
            made_of=[_shown_name(key) for key in made_of.get(field, ())],
        )
        for field, contribution in sorted(sums.items(), key=lambda item: -abs(item[1]))
    ]
    return Explanation(
        risk=answered.risk,
        readmitted_within_30_days=answered.readmitted_within_30_days,
        threshold=model.threshold,
        used_history=answered.used_history,
        base=base,
        margin=model.scorer.one(row),
        contributions=contributions,
        calibration=model.manifest.calibration.method,
        model=answered.serving.named,
        warnings=answered.warnings,
    )


def _fields_of(spec: FeatureSpec) -> list[str]:
    """For each encoded number, the field it comes from; differences and tallies are fields of their own."""
    return [
        *(feature.column for feature in spec.numeric),
        *(feature.name for feature in spec.differences),
        *(feature.name for feature in spec.tallies),
        *(feature.column for feature in spec.targets),
        *(feature.column for feature in spec.categorical for _ in feature.names),
    ]


def _made_of(spec: FeatureSpec) -> dict[str, tuple[str, ...]]:
    differences = {feature.name: (feature.column, feature.subtracted) for feature in spec.differences}
    return differences | {feature.name: feature.columns for feature in spec.tallies}


def _value(field: str, spec: FeatureSpec, values: Mapping[str, Value]) -> Value:
    """Of a field, what was understood; of a difference or a tally, the number."""
    for difference in spec.differences:
        if difference.name == field:
            whole, subtracted = values.get(difference.column), values.get(difference.subtracted)
            return whole - subtracted if isinstance(whole, int) and isinstance(subtracted, int) else None
    for tally in spec.tallies:
        if tally.name == field:
            return sum(values.get(column) in tally.values for column in tally.columns)
    return values.get(field)


def _shown_name(field: str) -> str:
    """As a client writes it."""
    column = INPUTS_BY_KEY.get(field)
    if column is None:
        return field
    return f"{HISTORY}.{column.name}" if field in HISTORY_KEYS else column.name
