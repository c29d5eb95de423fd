"""The feature spec and its two readers."""

from __future__ import annotations

import csv
import os
import zipfile
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from readmit_contracts.encounter import BY_KEY, COLUMNS, FEATURE_COLUMNS, NOT_READMITTABLE, Column, Kind
from readmit_features import icd9
from readmit_features.cleaning import clean_rows
from readmit_features.frame import encode_frame, fit_spec
from readmit_features.row import RowEncoder
from readmit_features.spec import FeatureSpec, NumericFeature
from readmit_features.synthetic import sample_columns

KEYS = [column.key for column in COLUMNS]


@pytest.fixture(scope="module")
def sample() -> pd.DataFrame:
    cells = sample_columns(2_000)
    rows = clean_rows(list(zip(*cells.values(), strict=True))).rows
    frame = pd.DataFrame(rows, columns=KEYS, dtype=object)
    return frame[~frame["discharge_disposition_id"].isin(NOT_READMITTABLE)].reset_index(drop=True)


@pytest.fixture(scope="module")
def spec(sample: pd.DataFrame) -> FeatureSpec:
    return fit_spec(sample, min_count=20)


def _values(frame: pd.DataFrame) -> list[dict[str, Any]]:
    return [{key: None if pd.isna(value) else value for key, value in row.items()} for row in frame.to_dict("records")]


def _any_value(column: Column) -> st.SearchStrategy[Any]:
    if column.kind is Kind.COUNT:
        return st.none() | st.integers(0, 500)
    if column.kind is Kind.CODE:
        return st.none() | st.sampled_from(list(column.labels))
    if column.kind is Kind.DIAGNOSIS:
        codes = st.integers(0, 999).map(str) | st.sampled_from(["250.83", "V27", "E849.7", "428.0", "1"])
        return st.none() | codes
    return st.none() | st.sampled_from(column.allowed) | st.sampled_from(["SomethingNew", "None"])


@settings(max_examples=150, deadline=None)
@given(rows=st.lists(st.fixed_dictionaries({c.key: _any_value(c) for c in FEATURE_COLUMNS}), min_size=1, max_size=4))
def test_both_forms_encode_any_row_to_the_same_bits(spec: FeatureSpec, rows: list[dict[str, Any]]) -> None:
    frame = pd.DataFrame(rows, columns=[c.key for c in FEATURE_COLUMNS], dtype=object)
    singly = np.array([RowEncoder(spec).encode(row) for row in rows])
    assert encode_frame(spec, frame).tobytes() == singly.tobytes()


def test_both_forms_encode_a_whole_sample_to_the_same_bits(sample: pd.DataFrame, spec: FeatureSpec) -> None:
    encoder = RowEncoder(spec)
    rows = encode_frame(spec, sample)
    assert rows.shape == (len(sample), encoder.width)
    assert rows.tobytes() == np.array([encoder.encode(values) for values in _values(sample)]).tobytes()


@pytest.mark.skipif("READMIT_REAL_DATA" not in os.environ, reason="READMIT_REAL_DATA does not name the UCI zip")
def test_both_forms_encode_every_row_of_the_real_data_to_the_same_bits() -> None:
    with zipfile.ZipFile(os.environ["READMIT_REAL_DATA"]) as archive:
        lines = archive.read("diabetic_data.csv").decode().splitlines()
    cleaned = clean_rows(list(csv.reader(lines))[1:])
    assert cleaned.refused == {}
    frame = pd.DataFrame(cleaned.rows, columns=KEYS, dtype=object)
    spec = fit_spec(frame, min_count=200)
    encoder = RowEncoder(spec)
    for start in range(0, len(frame), 10_000):
        rows = cleaned.rows[start : start + 10_000]
        singly = np.array([encoder.encode(dict(zip(KEYS, row, strict=True))) for row in rows])
        assert encode_frame(spec, frame.iloc[start : start + 10_000]).tobytes() == singly.tobytes()


def test_rows_read_back_as_typed_columns_encode_the_same(sample: pd.DataFrame, spec: FeatureSpec) -> None:
    typed = sample.astype({c.key: "Int64" if c.is_number else "str" for c in COLUMNS})
    assert encode_frame(spec, typed).tobytes() == encode_frame(spec, sample).tobytes()
    assert fit_spec(typed, 20).sha256() == spec.sha256()


def test_every_feature_is_exact_in_float32(sample: pd.DataFrame, spec: FeatureSpec) -> None:
    rows = encode_frame(spec, sample)
    assert np.array_equal(rows.astype(np.float32).astype(np.float64), rows)


def test_a_categorical_value_has_exactly_one_one_in_its_block(spec: FeatureSpec) -> None:
    row = RowEncoder(spec).encode({"gender": "Female", "medical_specialty": "Alchemy"})
    ones = {name for name, value in zip(spec.names, row, strict=True) if value == 1.0 and "=" in name}
    assert {"gender=Female", "medical_specialty=(other)", "diag_1.icd9_group=(missing)"} <= ones
    assert len(ones) == len(spec.categorical)


def test_names_are_unique(spec: FeatureSpec) -> None:
    assert len(set(spec.names)) == len(spec.names)


def test_rare_or_new_values_of_open_and_diagnosis_columns_are_reported_once_per_column(spec: FeatureSpec) -> None:
    encoder = RowEncoder(spec)
    known = {"medical_specialty": None, "diag_1": "428", "insulin": "Nonsense"}
    assert encoder.unseen(known) == []
    new = encoder.unseen({**known, "medical_specialty": "Alchemy", "diag_1": "999.9"})
    assert {(warning.field, warning.value) for warning in new} == {
        ("medical_specialty", "Alchemy"),
        ("diag_1", "999.9"),
    }


def test_only_values_seen_often_enough_get_a_feature(sample: pd.DataFrame) -> None:
    rare = fit_spec(sample, min_count=len(sample) + 1)
    assert all(feature.values == () for feature in rare.categorical)


def test_constant_columns_are_left_out(sample: pd.DataFrame, spec: FeatureSpec) -> None:
    assert sample["examide"].nunique() == 1
    assert "examide" not in {feature.column for feature in spec.categorical}


def test_the_spec_survives_json_and_its_digest_notices_a_change(spec: FeatureSpec) -> None:
    again = FeatureSpec.model_validate_json(spec.model_dump_json())
    assert again == spec
    assert again.sha256() == spec.sha256()
    changed = spec.model_copy(update={"tallies": ()})
    assert changed.sha256() != spec.sha256()


def test_no_identifier_race_weight_or_outcome_is_a_feature(spec: FeatureSpec) -> None:
    used = {f.column for f in spec.numeric} | {f.column for f in spec.categorical}
    assert not used & {"encounter_id", "patient_nbr", "race", "weight", "readmitted"}


@pytest.mark.parametrize("column", ["patient_nbr", "race", "weight", "readmitted", "no_such_column"])
def test_a_spec_that_reads_what_is_no_feature_is_refused(column: str) -> None:
    with pytest.raises(ValidationError, match="is not a feature"):
        FeatureSpec(numeric=(NumericFeature(column=column, reading="number", fill=0),), tallies=(), categorical=())


@pytest.mark.parametrize(
    ("code", "group"),
    [
        ("428", "circulatory"), ("785.1", "circulatory"), ("250.83", "diabetes"), ("251", "metabolic"),
        ("249", "metabolic"), ("786", "respiratory"), ("787.01", "digestive"), ("788", "genitourinary"),
        ("780", "symptoms"), ("782.3", "skin"), ("999", "injury"), ("800", "injury"), ("V27", "supplementary"),
        ("E849.7", "external"), ("8", "infectious"), ("140", "neoplasms"), ("239", "neoplasms"), ("0", "other"),
        ("nonsense", "other"),
    ],
)  # fmt: skip
def test_diagnosis_codes_fall_into_the_groups_of_the_paper(code: str, group: str) -> None:
    assert icd9.group(code) == group


def test_a_missing_number_is_filled_with_the_median(sample: pd.DataFrame, spec: FeatureSpec) -> None:
    row = dict(zip(spec.names, RowEncoder(spec).encode({}), strict=True))
    assert row["num_medications"] == sample["num_medications"].median()
    assert row["age"] == 65.0
    assert BY_KEY["age"].is_feature
