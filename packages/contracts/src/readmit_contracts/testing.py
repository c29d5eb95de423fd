"""Messages for tests of those who read `prediction.made`."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

from readmit_contracts.events import Answers, PredictionMade, PredictionsMade
from readmit_contracts.examples import EXAMPLES

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def example_prediction(**changes: Any) -> PredictionMade:
    """The first answer of the example, but for these fields."""
    example = next(example for example in EXAMPLES if isinstance(example, PredictionsMade))
    return next(example.predictions()).model_copy(update=changes)


def message_of(*made: PredictionMade) -> PredictionsMade:
    """A message that tells of these answers. They have to be of one pod, model, epoch and rollout: the first one's."""
    first = made[0]
    names = tuple(first.features)
    columns: dict[str, Any] = {
        "at_us": [(answer.at - _EPOCH) // timedelta(microseconds=1) for answer in made],
        "features": [[answer.features[name] for name in names] for answer in made],
        "other": None if first.rollout_id is None else [answer.other for answer in made],
    }
    for name in Answers.model_fields.keys() - columns.keys():
        columns[name] = [getattr(answer, name) for answer in made]
    common: dict[str, Any] = {
        name: getattr(first, name) for name in PredictionsMade.model_fields.keys() & PredictionMade.model_fields.keys()
    }
    return PredictionsMade(**common, feature_names=names, answers=Answers(**columns))
