"""Events: examples round-trip, schemas on file are fresh, and a change that breaks a consumer is noticed."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from pydantic import ValidationError

from readmit_contracts.__main__ import generated_files
from readmit_contracts.events import EVENTS, BatchReady, Event, PredictionMade, PredictionsMade
from readmit_contracts.examples import EXAMPLES
from readmit_contracts.testing import example_prediction, message_of
from readmit_contracts.topics import TOPICS

ROOT = Path(__file__).parents[3]


def test_every_event_has_an_example_and_a_topic() -> None:
    assert [type(example) for example in EXAMPLES] == list(EVENTS)
    assert {topic.event for topic in TOPICS} == set(EVENTS)


def test_names_on_the_wire_are_distinct_and_versioned() -> None:
    names = [event.EVENT_TYPE for event in EVENTS]
    assert len(set(names)) == len(names)
    assert all(name.rsplit(".v", 1)[1].isdigit() for name in names)


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda example: type(example).__name__)
def test_an_event_reads_back_as_it_was_written(example: Event) -> None:
    assert type(example).model_validate_json(example.model_dump_json()) == example


def test_a_consumer_tolerates_a_field_that_it_does_not_know() -> None:
    batch = next(example for example in EXAMPLES if isinstance(example, BatchReady))
    later = json.loads(batch.model_dump_json()) | {"added_later": 1}
    assert BatchReady.model_validate(later) == batch


def test_a_digest_that_is_not_one_is_refused() -> None:
    batch = next(example for example in EXAMPLES if isinstance(example, BatchReady))
    with pytest.raises(ValidationError, match="batch_sha256"):
        BatchReady.model_validate(batch.model_dump() | {"batch_sha256": "abc"})


def test_answers_come_out_of_a_message_as_they_went_in() -> None:
    made = [
        example_prediction(
            prediction_id=uuid4(), risk=number / 8, features={"age": "[70-80)", "weight": number or None}
        )
        for number in range(8)
    ]
    made[3] = made[3].model_copy(update={"other": None, "patient_key": None, "split": None})
    told = PredictionsMade.model_validate_json(message_of(*made).model_dump_json())
    assert list(told.predictions()) == made
    assert [PredictionMade.model_validate(one.model_dump()) for one in told.predictions()] == made


@pytest.mark.parametrize(
    ("column", "value", "problem"),
    [
        ("risk", [0.1], "columns of different lengths"),
        ("other", [], "columns of different lengths"),
        ("prediction_id", [], "prediction_id"),
        ("at_us", [-1, 0], "at_us"),
        ("at_us", [0, 253_402_300_800_000_000], "at_us"),
        ("features", [["[70-80)", 5, 2, "Up", None], ["[50-60)"]], "exactly 5 features"),
        ("features", [["[70-80)", 5, 2, "Up", None], ["[50-60)", 1, 0, "No", {}]], "features"),
    ],
)
def test_columns_that_do_not_fit_together_or_hold_what_they_cannot_are_refused(
    column: str, value: list[Any], problem: str
) -> None:
    told = json.loads(next(e for e in EXAMPLES if isinstance(e, PredictionsMade)).model_dump_json())
    told["answers"][column] = value
    with pytest.raises(ValidationError, match=problem):
        PredictionsMade.model_validate_json(json.dumps(told))


@pytest.mark.parametrize("number", ["NaN", "Infinity", "-Infinity"])
@pytest.mark.parametrize("instead_of", ['"latency_ms":[0.41,', '"score_ms":0.05', '"features":[["[70-80)",5,'])
def test_what_is_no_number_is_refused(instead_of: str, number: str) -> None:
    told = next(e for e in EXAMPLES if isinstance(e, PredictionsMade)).model_dump_json()
    changed = told.replace(instead_of, re.sub(r"\d+(\.\d+)?(?=,?$)", number, instead_of))
    assert number in changed
    with pytest.raises(ValidationError, match="finite"):
        PredictionsMade.model_validate_json(changed)


def test_the_latest_time_that_a_message_can_tell_is_one() -> None:
    told = json.loads(message_of(example_prediction()).model_dump_json())
    told["answers"]["at_us"] = [253_402_300_799_999_999]
    [made] = PredictionsMade.model_validate_json(json.dumps(told)).predictions()
    assert made.at.isoformat() == "9999-12-31T23:59:59.999999+00:00"


@pytest.mark.parametrize("name", sorted(generated_files()))
def test_generated_files_are_fresh(name: str) -> None:
    assert (ROOT / name).read_text(encoding="utf-8") == generated_files()[name]


def breaking_changes(old: dict[str, Any], new: dict[str, Any], where: str = "") -> list[str]:
    """What a consumer of the old schema would miss: properties gone, no longer required, or of another type."""
    broken = []
    for name, was in old.get("properties", {}).items():
        at = f"{where}.{name}"
        now = new.get("properties", {}).get(name)
        if now is None:
            broken.append(f"{at} is gone")
        elif {k: was.get(k) for k in ("type", "$ref", "const", "anyOf")} != {
            k: now.get(k) for k in ("type", "$ref", "const", "anyOf")
        }:
            broken.append(f"{at} changed its type")
        elif name in old.get("required", []) and name not in new.get("required", []):
            broken.append(f"{at} may now be absent")
    for name, definition in old.get("$defs", {}).items():
        broken += breaking_changes(definition, new.get("$defs", {}).get(name, {}), f"{where}.{name}")
    return broken


@pytest.mark.parametrize("event", EVENTS, ids=lambda event: event.EVENT_TYPE)
def test_the_schema_still_serves_those_who_read_the_committed_one(event: type[Event]) -> None:
    committed = json.loads((ROOT / f"packages/contracts/schemas/{event.EVENT_TYPE}.json").read_text(encoding="utf-8"))
    assert breaking_changes(committed, event.model_json_schema()) == []


def test_the_breaking_change_check_sees_a_removed_a_retyped_and_a_loosened_field() -> None:
    old = BatchReady.model_json_schema()
    new = json.loads(json.dumps(old))
    del new["properties"]["rows"]
    new["properties"]["batch"]["type"] = "string"
    new["required"].remove("positives")
    assert breaking_changes(old, new) == [".batch changed its type", ".rows is gone", ".positives may now be absent"]
