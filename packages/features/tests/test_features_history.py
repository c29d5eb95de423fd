"""The patients' history: derived from a table, and read from a request."""

from __future__ import annotations

from typing import Any

import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from readmit_contracts.encounter import example_encounter
from readmit_contracts.history import HISTORY_KEYS, example_history
from readmit_features.cleaning import clean_encounter
from readmit_features.history import READ, hide_history, with_history


def encounters(rows: list[tuple[int, int, bool]]) -> pd.DataFrame:
    """Rows of (encounter, patient, readmitted); the other columns follow from the encounter's number."""
    frame = pd.DataFrame(rows, columns=["encounter_id", "patient_nbr", "readmitted_30d"])
    number = frame["encounter_id"]
    return frame.assign(
        time_in_hospital=number % 14 + 1, number_inpatient=number % 5, discharge_disposition_id=number % 28 + 1,
        diag_1=number.map(lambda n: None if n % 7 == 0 else str(250 + n % 40)).astype("object"),
    )  # fmt: skip


def slowly(frame: pd.DataFrame) -> list[dict[str, Any]]:
    """The same, one encounter at a time, as one would say it."""
    answers = []
    for row in frame.to_dict("records"):
        before = sorted(
            (r for r in frame.to_dict("records")
             if r["patient_nbr"] == row["patient_nbr"] and r["encounter_id"] < row["encounter_id"]),
            key=lambda r: r["encounter_id"],
        )  # fmt: skip
        last = before[-1] if before else {}
        answers.append(
            {
                "previous_encounters": len(before),
                "is_readmission": "Yes" if last and last["readmitted_30d"] else "No",
                "readmissions": sum(r["readmitted_30d"] for r in before),
                "previous_time_in_hospital": last.get("time_in_hospital"),
                "previous_number_inpatient": last.get("number_inpatient"),
                "previous_discharge_disposition_id": last.get("discharge_disposition_id"),
                "previous_diag_1": None if pd.isna(last.get("diag_1")) else last["diag_1"],
            }
        )
    return answers


def told(frame: pd.DataFrame) -> list[dict[str, Any]]:
    return [
        {key: None if pd.isna(value) else value for key, value in row.items()}
        for row in frame[list(HISTORY_KEYS)].to_dict("records")
    ]


ROWS = st.lists(
    st.tuples(st.integers(1, 500), st.integers(1, 4), st.booleans()), min_size=1, max_size=25, unique_by=lambda r: r[0]
)


@settings(max_examples=100, deadline=None)
@given(rows=ROWS)
def test_an_encounter_sees_what_came_before_it_and_nothing_else(rows: list[tuple[int, int, bool]]) -> None:
    frame = encounters(rows)
    assert told(with_history(frame)) == slowly(frame)


@settings(max_examples=50, deadline=None)
@given(rows=ROWS, cut=st.integers(0, 25))
def test_rows_outside_the_window_still_count_as_history(rows: list[tuple[int, int, bool]], cut: int) -> None:
    frame = encounters(rows)
    whole = with_history(frame)
    window = with_history(frame.iloc[cut:].reset_index(drop=True), frame.iloc[:cut][list(READ)])
    assert told(window) == told(whole.iloc[cut:])


@settings(max_examples=50, deadline=None)
@given(rows=ROWS)
def test_what_comes_later_changes_nothing(rows: list[tuple[int, int, bool]]) -> None:
    rows.sort()
    frame = encounters(rows)
    for end in range(1, len(rows) + 1):
        assert told(with_history(frame.iloc[:end])) == told(with_history(frame).iloc[:end])


def test_hidden_history_is_that_of_whole_patients_and_always_the_same_ones() -> None:
    frame = with_history(encounters([(n, n % 300, n % 9 == 0) for n in range(1, 1200)]))
    hidden = hide_history(frame, 0.4)["previous_encounters"].isna()
    by_patient = hidden.groupby(frame["patient_nbr"]).mean()
    assert set(by_patient) == {0.0, 1.0}
    assert 0.3 < by_patient.mean() < 0.5
    more = hide_history(frame, 0.6)["previous_encounters"].isna()
    assert (more | ~hidden).all()


def test_a_request_may_tell_the_history() -> None:
    cleaned = clean_encounter({**example_encounter(), "history": example_history()})
    assert cleaned.errors == []
    assert cleaned.history == example_history()
    assert not set(HISTORY_KEYS) & set(cleaned.values)


@pytest.mark.parametrize("absent", [{}, {"history": None}])
def test_without_it_nothing_is_known(absent: dict[str, Any]) -> None:
    cleaned = clean_encounter({**example_encounter(), **absent})
    assert (cleaned.history, cleaned.errors) == ({}, [])


def test_no_earlier_encounter_says_all_the_rest() -> None:
    cleaned = clean_encounter({**example_encounter(), "history": {"previous_encounters": 0}})
    assert cleaned.errors == []
    assert cleaned.history == {
        **dict.fromkeys(HISTORY_KEYS), "previous_encounters": 0, "is_readmission": "No", "readmissions": 0,
    }  # fmt: skip


@pytest.mark.parametrize(("given_as", "read_as"), [(True, "Yes"), (False, "No"), ("yes", "Yes"), (None, None)])
def test_a_readmission_may_be_told_as_a_boolean(given_as: object, read_as: str | None) -> None:
    history = {"previous_encounters": 2, "is_readmission": given_as}
    assert clean_encounter({**example_encounter(), "history": history}).history["is_readmission"] == read_as


@pytest.mark.parametrize(
    ("history", "field", "problem"),
    [
        ([], "history", "is not an object"),
        ("none", "history", "is not an object"),
        ({}, "history.previous_encounters", "is required"),
        ({"previous_encounters": -1}, "history.previous_encounters", "is below 0"),
        ({"previous_encounters": "many"}, "history.previous_encounters", "is not a whole number"),
        ({"previous_encounters": 1, "previous_diag_1": "heart"}, "history.previous_diag_1", "is not an ICD-9-CM code"),
        ({"previous_encounters": 1, "is_readmission": "maybe"}, "history.is_readmission", "is not one of the allowed"),
        ({"previous_encounters": 0, "previous_diag_1": "428"}, "history.previous_diag_1", "contradicts"),
        ({"previous_encounters": 0, "is_readmission": True}, "history.is_readmission", "contradicts"),
    ],
)
def test_a_history_that_cannot_be_is_refused_by_name(history: object, field: str, problem: str) -> None:
    errors = clean_encounter({**example_encounter(), "history": history}).errors
    assert [error.field for error in errors] == [field]
    assert problem in errors[0].problem
    assert errors[0].allowed


def test_what_no_history_has_is_warned_about() -> None:
    history = {"previous_encounters": 1, "shoe_size": 43}
    cleaned = clean_encounter({**example_encounter(), "history": history})
    assert [warning.field for warning in cleaned.warnings] == ["history.shoe_size"]
