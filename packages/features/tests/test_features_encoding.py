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

from readmit_contracts.encounter import (
    BY_KEY,
    COLUMNS,
    FEATURE_COLUMNS,
    NOT_READMITTABLE,
    POSITIVE_OUTCOME,
    Column,
    Kind,
)
from readmit_contracts.history import HISTORY_COLUMNS, HISTORY_KEYS
from readmit_features import icd9
from readmit_features.cleaning import clean_rows
from readmit_features.frame import FOLDS, encode_frame, encode_training, fit_spec
from readmit_features.history import hide_history, with_history, without_history
from readmit_features.row import RowEncoder
from readmit_features.spec import FeatureSpec, NumericFeature, TargetFeature, TargetTable
from readmit_features.synthetic import sample_columns

KEYS = [column.key for column in COLUMNS]


@pytest.fixture(scope="module")
def sample() -> pd.DataFrame:
    cells = sample_columns(2_000)
    rows = clean_rows(list(zip(*cells.values(), strict=True))).rows
    return readmittable(pd.DataFrame(rows, columns=KEYS, dtype=object))


def readmittable(frame: pd.DataFrame) -> pd.DataFrame:
    """The rows that are trained on, with label and history; a third of the patients without the latter."""
    frame = frame[~frame["discharge_disposition_id"].isin(NOT_READMITTABLE)].reset_index(drop=True)
    frame["readmitted_30d"] = frame["readmitted"] == POSITIVE_OUTCOME
    return hide_history(with_history(frame), 0.3)


def labels_of(frame: pd.DataFrame) -> Any:
    return frame["readmitted_30d"].to_numpy(dtype=np.bool_)


@pytest.fixture(scope="module")
def spec(sample: pd.DataFrame) -> FeatureSpec:
    return fit_spec(sample, labels_of(sample), min_count=20)


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
@given(
    rows=st.lists(
        st.fixed_dictionaries({c.key: _any_value(c) for c in (*FEATURE_COLUMNS, *HISTORY_COLUMNS)}),
        min_size=1,
        max_size=4,
    )
)
def test_both_forms_encode_any_row_to_the_same_bits(spec: FeatureSpec, rows: list[dict[str, Any]]) -> None:
    frame = pd.DataFrame(rows, dtype=object)
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
    frame = readmittable(pd.DataFrame(cleaned.rows, columns=KEYS, dtype=object))
    spec = fit_spec(frame, labels_of(frame), min_count=200)
    encoder = RowEncoder(spec)
    for start in range(0, len(frame), 10_000):
        part = frame.iloc[start : start + 10_000]
        singly = np.array([encoder.encode(values) for values in _values(part)])
        assert encode_frame(spec, part).tobytes() == singly.tobytes()


def test_rows_read_back_as_typed_columns_encode_the_same(sample: pd.DataFrame, spec: FeatureSpec) -> None:
    typed = sample.astype({c.key: "Int64" if c.is_number else "str" for c in (*COLUMNS, *HISTORY_COLUMNS)})
    assert encode_frame(spec, typed).tobytes() == encode_frame(spec, sample).tobytes()
    assert fit_spec(typed, labels_of(typed), 20).sha256() == spec.sha256()


def test_a_row_without_history_is_encoded_as_one_that_hides_it(sample: pd.DataFrame, spec: FeatureSpec) -> None:
    assert spec.reads_history
    hidden = hide_history(sample, 1.0)
    assert encode_frame(spec, without_history(sample)).tobytes() == encode_frame(spec, hidden).tobytes()
    known = dict(zip(spec.names, encode_frame(spec, hidden).T, strict=True))
    assert not known["previous_encounters.is_known"].any()


def test_out_of_fold_encodings_do_not_know_the_labels_of_their_own_fold(sample: pd.DataFrame) -> None:
    labels, patients = labels_of(sample), sample["patient_nbr"].to_numpy(dtype=np.int64)
    spec = fit_spec(sample, labels, min_count=20)
    rows, fold = encode_training(spec, sample, labels, patients)
    start = spec.names.index(spec.targets[0].name)
    ours = slice(start, start + len(spec.targets))
    for held_out in range(FOLDS):
        flipped = np.where(fold == held_out, ~labels, labels)
        again, _ = encode_training(spec, sample, flipped, patients)
        assert np.array_equal(again[fold == held_out, ours], rows[fold == held_out, ours])
        assert not np.array_equal(again[fold != held_out, ours], rows[fold != held_out, ours])
    assert len(set(zip(patients.tolist(), fold.tolist(), strict=True))) == len(set(patients.tolist()))
    others = [at for at in range(len(spec.names)) if not ours.start <= at < ours.stop]
    assert np.array_equal(rows[:, others], encode_frame(spec, sample)[:, others])


def test_a_code_has_the_log_odds_of_the_finest_level_that_training_saw_often(sample: pd.DataFrame) -> None:
    frame = pd.concat([sample] * 3, ignore_index=True)
    frame.loc[:99, "diag_1"], frame.loc[100:109, "diag_1"] = "250.83", "250.41"
    labels = labels_of(frame).copy()
    labels[:99] = True
    spec = fit_spec(frame, labels, min_count=20)
    table = spec.tables["diag_1"]
    at = spec.names.index("diag_1.log_odds")

    def encoded(code: str | None) -> float:
        return float(RowEncoder(spec).encode({"diag_1": code})[at])

    assert table.codes["250.83"] > table.categories["250"] > table.groups["diabetes"] - 1e-9
    assert "250.41" not in table.codes
    assert encoded("250.83") == table.codes["250.83"]
    assert encoded("250.41") == encoded("250.99") == table.categories["250"]
    assert encoded("249.99") == table.groups["metabolic"]
    assert encoded("not a code") == table.groups.get("other", table.other)
    assert encoded(None) == table.missing


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
    rare = fit_spec(sample, labels_of(sample), min_count=len(sample) + 1)
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
    assert not spec.columns & {"encounter_id", "patient_nbr", "race", "weight", "readmitted"}


def test_race_is_a_feature_only_on_request(sample: pd.DataFrame) -> None:
    spec = fit_spec(sample, labels_of(sample), min_count=20, with_race=True)
    assert "race=Caucasian" in spec.names
    rows = encode_frame(spec, sample)
    assert rows.tobytes() == np.array([RowEncoder(spec).encode(values) for values in _values(sample)]).tobytes()


def test_a_table_that_is_missing_or_not_exact_in_float32_is_refused() -> None:
    with pytest.raises(ValidationError, match="which is not there"):
        FeatureSpec(numeric=(), tallies=(), categorical=(), targets=(TargetFeature(column="diag_1", table="no"),))
    with pytest.raises(ValidationError, match="not exact in float32"):
        TargetTable(codes={}, categories={}, groups={"diabetes": 0.1}, other=0.0, missing=0.0)


def test_without_history_columns_the_spec_reads_none(sample: pd.DataFrame) -> None:
    spec = fit_spec(without_history(sample), labels_of(sample), min_count=20)
    assert not spec.reads_history
    assert not spec.columns & set(HISTORY_KEYS)


@pytest.mark.parametrize("column", ["patient_nbr", "weight", "readmitted", "no_such_column"])
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


def test_numbers_beyond_what_training_hardly_saw_are_read_as_the_outermost_that_it_did(
    sample: pd.DataFrame, spec: FeatureSpec
) -> None:
    encoder = RowEncoder(spec)

    def encoded(**values: Any) -> dict[str, float]:
        return dict(zip(spec.names, encoder.encode(values), strict=True))

    seen = sample["number_emergency"].max()
    assert encoded(number_emergency=500)["number_emergency"] <= seen < 500
    assert encoded(number_emergency=1)["number_emergency"] == 1
    apart = "number_inpatient-previous_number_inpatient"
    assert abs(encoded(number_inpatient=300, previous_number_inpatient=0)[apart]) < 300
    assert encoded(number_inpatient=2)[apart] == 0
