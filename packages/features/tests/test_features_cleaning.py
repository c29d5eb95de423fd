"""One value means one thing, wherever it comes from."""

from __future__ import annotations

import csv
import io
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from readmit_contracts.encounter import BY_KEY, COLUMNS, example_encounter
from readmit_features.cleaning import ColumnReader, clean_encounter, clean_rows, parse_value
from readmit_features.split import split_of, splits_of
from readmit_features.synthetic import write_sample

_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)


@pytest.mark.parametrize(
    ("key", "raw", "value"),
    [
        ("time_in_hospital", "3", 3),
        ("time_in_hospital", " 3.0 ", 3),
        ("time_in_hospital", 3.0, 3),
        ("age", "[50-60)", "[50-60)"),
        ("age", "50-60", "[50-60)"),
        ("max_glu_serum", "> 200", ">200"),
        ("max_glu_serum", ">300", ">300"),
        ("a1cresult", ">8", ">8"),
        ("a1cresult", "norm", "Norm"),
        ("a1cresult", "None", "None"),
        ("a1cresult", None, "None"),
        ("metformin", "steady", "Steady"),
        ("readmitted", "<30", "<30"),
        ("race", "?", None),
        ("weight", ">200", ">200"),
        ("diag_1", "250.83", "250.83"),
        ("diag_1", 428, "428"),
        ("diag_1", "v27", "V27"),
        ("diag_1", "38", "038"),
        ("payer_code", "XX", "XX"),
        ("medical_specialty", "cardiology", "Cardiology"),
    ],
)
def test_a_value_is_understood(key: str, raw: object, value: object) -> None:
    parsed = parse_value(BY_KEY[key], raw)
    assert (parsed.value, parsed.problem) == (value, None)


@pytest.mark.parametrize(
    ("key", "raw"),
    [
        ("time_in_hospital", True),
        ("time_in_hospital", 2.5),
        ("time_in_hospital", float("nan")),
        ("time_in_hospital", float("inf")),
        ("time_in_hospital", 0),
        ("time_in_hospital", -1),
        ("time_in_hospital", 10**30),
        ("time_in_hospital", "three"),
        ("time_in_hospital", [3]),
        ("admission_type_id", 99),
        ("metformin", "Sideways"),
        ("metformin", 1),
        ("age", "fifty"),
        ("diag_1", "DROP TABLE"),
        ("diag_1", 250.1),
        ("payer_code", "x" * 65),
    ],
)
def test_a_value_that_cannot_be_is_refused(key: str, raw: object) -> None:
    assert parse_value(BY_KEY[key], raw).problem


def test_a_count_beyond_the_study_is_capped_with_a_warning() -> None:
    parsed = parse_value(BY_KEY["num_medications"], 200)
    assert parsed.value == 81
    assert "largest value in the study" in (parsed.warning or "")


@given(st.sampled_from(COLUMNS), _JSON)
def test_nothing_makes_the_reader_raise_and_remembering_changes_nothing(column: Any, raw: object) -> None:
    reader = ColumnReader(column)
    assert reader.read(raw) == reader.read(raw) == parse_value(column, raw)


@given(st.dictionaries(st.sampled_from([c.name for c in COLUMNS]) | st.text(), _JSON, max_size=60))
def test_any_object_is_read_or_refused_in_words_that_can_be_written_as_json(raw: dict[str, object]) -> None:
    cleaned = clean_encounter(raw)
    json.dumps([problem.model_dump() for problem in (*cleaned.errors, *cleaned.warnings)], allow_nan=False)


def test_names_are_taken_in_every_accepted_spelling() -> None:
    encounter: dict[str, object] = dict(example_encounter())
    expected = clean_encounter(encounter).values
    for name in ("glyburide-metformin", "A1Cresult", "diabetesMed"):
        encounter[name.lower().replace("-", "_")] = encounter.pop(name)
    cleaned = clean_encounter(encounter)
    assert (cleaned.values, cleaned.errors) == (expected, [])


def test_two_spellings_of_one_field_must_agree() -> None:
    encounter: dict[str, object] = {**example_encounter(), "a1cresult": "Norm"}
    assert [error.field for error in clean_encounter(encounter).errors] == ["a1cresult"]


def test_a_missing_required_field_is_named_and_an_unknown_one_only_warned_about() -> None:
    encounter: dict[str, object] = {**example_encounter(), "shoe_size": 43}
    del encounter["age"]
    cleaned = clean_encounter(encounter)
    assert [(error.field, error.problem) for error in cleaned.errors] == [("age", "is required")]
    assert [warning.field for warning in cleaned.warnings] == ["shoe_size"]


def test_a_row_of_a_file_and_the_same_encounter_as_json_mean_the_same() -> None:
    written = io.StringIO()
    write_sample(written, rows=300)
    rows = list(csv.DictReader(io.StringIO(written.getvalue())))
    cleaned = clean_rows([list(row.values()) for row in rows])
    assert cleaned.refused == {}
    keys = [column.key for column in COLUMNS]
    for row, values in zip(rows, cleaned.rows, strict=True):
        from_file = dict(zip(keys, values, strict=True))
        del from_file["readmitted"]
        from_json = clean_encounter({name: cell for name, cell in row.items() if name != "readmitted"})
        assert from_json.values == from_file


def test_a_bad_row_of_a_file_is_refused_with_every_reason_and_the_others_are_kept() -> None:
    written = io.StringIO()
    write_sample(written, rows=3)
    rows = [list(row.values()) for row in csv.DictReader(io.StringIO(written.getvalue()))]
    keys = [column.key for column in COLUMNS]
    rows[1][keys.index("time_in_hospital")] = "?"
    rows[1][keys.index("insulin")] = "Lots"
    cleaned = clean_rows(rows)
    assert cleaned.line_index == [0, 2]
    assert [error.field for error in cleaned.refused[1]] == ["time_in_hospital", "insulin"]


def test_the_split_never_changes() -> None:
    pinned = {1: "train", 2: "train", 55629189: "train", 86047875: "train"}
    assert {patient: split_of(patient) for patient in pinned} == pinned
    splits = [split_of(patient) for patient in range(20_000)]
    for split, share in (("train", 0.70), ("validation", 0.15), ("test", 0.15)):
        assert abs(splits.count(split) / 20_000 - share) < 0.01


@given(st.lists(st.integers(1, 2**53), max_size=30), st.lists(st.integers(1, 2**53), max_size=30))
def test_whoever_arrives_later_moves_nobody(early: list[int], late: list[int]) -> None:
    assert splits_of(early + late) == splits_of(early) + splits_of(late) == list(map(split_of, early + late))


def test_the_synthetic_sample_is_the_same_every_time_and_plausible() -> None:
    first, again = io.StringIO(), io.StringIO()
    write_sample(first, rows=4_000)
    write_sample(again, rows=4_000)
    assert first.getvalue() == again.getvalue()
    rows = list(csv.DictReader(io.StringIO(first.getvalue())))
    assert len(rows) == 4_000
    assert 0.08 < sum(row["readmitted"] == "<30" for row in rows) / 4_000 < 0.15
    assert len({row["patient_nbr"] for row in rows}) < 4_000
