"""What is measured of a bundle, on real ones: each way to be refused, and the figures of a good one."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from readmit_bundle import Bundle, write_bundle
from readmit_chassis.s3 import MemoryStore, StoreUnavailable
from readmit_contracts.events import ModelRegistered
from readmit_promoter.errors import DocumentError
from readmit_promoter.inspection import Inspection, inspect_bundle

Register = Callable[..., ModelRegistered]
Cohort = Callable[..., dict[str, Any]]
TinyBundle = Callable[..., Bundle]


@pytest.fixture
def event(candidate: Register, cohort: Cohort) -> ModelRegistered:
    return candidate(cohort(1.0))


def with_bundle(event: ModelRegistered, objects: MemoryStore, bundle: Bundle) -> ModelRegistered:
    return event.model_copy(update={"bundle": write_bundle(objects.put, "s3://bucket/bundles", bundle)})


def test_a_good_bundle_is_measured(event: ModelRegistered, objects: MemoryStore) -> None:
    found = inspect_bundle(objects.get, event)
    assert (found.refusal, found.size_bytes, found.golden_rows) == (None, event.bundle.size_bytes, 1)
    assert found.golden_error == 0.0
    assert found.row_us is not None
    assert 0 < found.row_us < 10_000
    assert Inspection.from_document(json.loads(json.dumps(found.document()))) == found


def test_golden_rows_that_differ_are_measured_and_not_yet_refused(
    event: ModelRegistered, objects: MemoryStore, tiny: TinyBundle
) -> None:
    found = inspect_bundle(objects.get, with_bundle(event, objects, tiny(1, golden_shift=1e-4)))
    assert found.golden_error == pytest.approx(1e-4)


def test_a_bundle_that_is_gone_is_refused_and_a_store_that_is_away_is_not(
    event: ModelRegistered, objects: MemoryStore
) -> None:
    objects.objects.pop(f"{event.bundle.uri}/model.txt")
    assert inspect_bundle(objects.get, event) == Inspection(refusal=f"there is no whole bundle at {event.bundle.uri}")
    objects.available = False
    with pytest.raises(StoreUnavailable):
        inspect_bundle(objects.get, event)


@given(data=st.data())
@settings(max_examples=100, deadline=None)
def test_one_altered_byte_is_refused(registered: tuple[MemoryStore, ModelRegistered], data: st.DataObject) -> None:
    objects, event = registered
    name = data.draw(st.sampled_from(["bundle.json", "model.txt"]))
    whole = objects.get(f"{event.bundle.uri}/{name}")
    at, other = data.draw(st.integers(0, len(whole) - 1)), data.draw(st.integers(1, 255))
    altered = whole[:at] + bytes([whole[at] ^ other]) + whole[at + 1 :]

    def get(uri: str) -> bytes:
        return altered if uri.endswith(name) else objects.get(uri)

    refusal = inspect_bundle(get, event).refusal
    assert refusal is not None
    assert refusal.startswith("digest ")


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"feature_spec_sha256": "ab" * 32}, "feature spec"),
        ({"synthetic": True}, "synthetic False in the bundle, True announced"),
        ({"dataset_version": 2}, "dataset version 1 in the bundle, 2 announced"),
        ({"batch": 7}, "batch 1 in the bundle, 7 announced"),
    ],
)
def test_a_bundle_that_contradicts_its_announcement_is_refused(
    event: ModelRegistered, objects: MemoryStore, changes: dict[str, Any], told: str
) -> None:
    refusal = inspect_bundle(objects.get, event.model_copy(update=changes)).refusal
    assert refusal is not None
    assert refusal.startswith(told)


def test_another_threshold_than_the_announced_one_is_refused(event: ModelRegistered, objects: MemoryStore) -> None:
    other = event.validation.model_copy(update={"threshold": 0.2})
    refusal = inspect_bundle(objects.get, event.model_copy(update={"validation": other})).refusal
    assert refusal == "threshold 0.3 in the bundle, 0.2 announced"


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"size_bytes": 65 * 2**20}, "at most 67108864 are read"),
        ({"size_bytes": 1}, "1 announced"),
        ({"uri": "s3://Bad_Bucket!/key"}, "does not name a bundle"),
    ],
)
def test_a_reference_that_cannot_be_right_is_refused(
    event: ModelRegistered, objects: MemoryStore, changes: dict[str, Any], told: str
) -> None:
    wrong = event.model_copy(update={"bundle": event.bundle.model_copy(update=changes)})
    refusal = inspect_bundle(objects.get, wrong).refusal
    assert refusal is not None
    assert told in refusal


@pytest.mark.parametrize(
    ("old", "new", "told"),
    [
        (b'"brier": 0.5', b'"brier": NaN', "bundle.json: validation.brier"),
        (b'"brier": 0.5', b'"mystery": 1, "brier": 0.5', None),
        (b'"tallies": []', b'"mystery": []', "bundle.json: feature_spec"),
        (b'"time_in_hospital": 3', b'"time_in_hospital": "three"', "golden row 0 cannot be scored"),
        (b'"format_version": 2', b'"format_version": 9', "bundle.json: format_version"),
    ],
)
def test_a_manifest_that_is_none_is_refused_with_the_place(
    event: ModelRegistered, objects: MemoryStore, tiny: TinyBundle, old: bytes, new: bytes, told: str | None
) -> None:
    """Under a digest that agrees, as a broken trainer would write it."""
    files = dict(tiny(1).files)
    assert old in files["bundle.json"].replace(b"\n", b"")
    files["bundle.json"] = files["bundle.json"].replace(old, new)
    refusal = inspect_bundle(objects.get, with_bundle(event, objects, Bundle(files))).refusal
    assert refusal is None if told is None else refusal is not None and refusal.startswith(told)


def test_a_document_of_something_else_is_told() -> None:
    with pytest.raises(DocumentError, match="not the document of an inspection"):
        Inspection.from_document({"mystery": 1})
