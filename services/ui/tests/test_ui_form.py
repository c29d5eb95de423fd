"""The form is the encounter schema, in two languages, and gives an encounter back."""

from __future__ import annotations

import pytest

from readmit_contracts.encounter import COLUMNS, DRUG_KEYS, Group, Kind, example_encounter
from readmit_contracts.history import HISTORY_COLUMNS, HISTORY_KEYS, example_history
from readmit_ui.form import COMMON_DRUGS, GROUPS, UNKNOWN, Control, encounter_of, fields, is_common
from readmit_ui.spanish import SPANISH
from readmit_ui.texts import ENGLISH, Texts

both = pytest.mark.parametrize("texts", [ENGLISH, SPANISH], ids=lambda texts: texts.language)


@both
def test_the_form_holds_every_column_that_a_person_knows(texts: Texts) -> None:
    keys = [field.column.key for field in fields(texts)]
    asked = [c.key for c in COLUMNS if c.group not in {Group.IDENTITY, Group.OUTCOME}]
    assert keys == [*asked, *HISTORY_KEYS]
    assert {field.column.group for field in fields(texts)} == set(GROUPS) == set(texts.groups)


@both
def test_the_untouched_form_is_the_example(texts: Texts) -> None:
    form = fields(texts)
    expected = {name: v for name, v in example_encounter().items() if name not in {"encounter_id", "patient_nbr"}}
    assert encounter_of(form, [field.value for field in form]) == expected


@both
def test_what_a_choice_sends_is_what_the_schema_allows(texts: Texts) -> None:
    for field in fields(texts):
        sent = [value for _, value in field.choices if value != UNKNOWN]
        match field.column.kind:
            case Kind.CODE:
                assert sent == list(field.column.labels)
            case Kind.CLOSED | Kind.OPEN:
                assert sent == list(field.column.allowed)
            case _:
                assert sent == []


@both
def test_choices_can_be_told_apart(texts: Texts) -> None:
    for field in fields(texts):
        shown = [label for label, _ in field.choices]
        assert len(set(shown)) == len(shown), field.column.name


@both
def test_only_fields_that_may_be_missing_offer_unknown(texts: Texts) -> None:
    for field in fields(texts):
        offered = any(value == UNKNOWN for _, value in field.choices)
        may_be_missing = not field.column.required and field.column.default is None
        assert offered == (may_be_missing and field.control in {Control.CHOICE, Control.CHOICE_OR_TEXT})


def test_what_is_entered_of_the_history_goes_into_its_own_object() -> None:
    form = fields(ENGLISH)
    told = {column.key: column.example for column in HISTORY_COLUMNS}
    encounter = encounter_of(form, [told.get(field.column.key, field.value) for field in form])
    assert encounter["history"] == example_history()
    assert not set(HISTORY_KEYS) & set(encounter)


def test_empty_fields_are_left_out_and_number_boxes_give_whole_numbers() -> None:
    form = fields(ENGLISH)
    values: dict[str, str | int | float | None] = {field.column.name: field.value for field in form}
    values |= {"race": UNKNOWN, "num_medications": None, "diag_2": "  ", "diag_1": " 428 ", "time_in_hospital": 3.0}
    encounter = encounter_of(form, list(values.values()))
    assert not {"race", "num_medications", "diag_2"} & set(encounter)
    assert encounter["diag_1"] == "428"
    assert repr(encounter["time_in_hospital"]) == "3"


def test_a_fraction_is_sent_as_it_was_entered_so_that_the_service_can_refuse_it() -> None:
    form = fields(ENGLISH)
    values = [2.5 if field.column.key == "time_in_hospital" else field.value for field in form]
    assert encounter_of(form, values)["time_in_hospital"] == 2.5


def test_the_common_drugs_are_in_sight_and_the_other_fifteen_folded_away() -> None:
    folded = [field.column.key for field in fields(ENGLISH) if not is_common(field)]
    assert set(folded) == set(DRUG_KEYS) - set(COMMON_DRUGS)
    assert len(folded) == 15


def test_spanish_names_everything_itself() -> None:
    inputs = [c for c in COLUMNS if c.group in GROUPS]
    assert {c.key for c in (*inputs, *HISTORY_COLUMNS)} == set(SPANISH.labels)
    for column in inputs:
        assert set(SPANISH.codes.get(column.key, {})) == set(column.labels)
    for name in ("groups", "troubles", "tables", "columns", "states", "families"):
        assert set(getattr(SPANISH, name)) == set(getattr(ENGLISH, name)), name
