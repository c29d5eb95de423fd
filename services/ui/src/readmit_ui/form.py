"""The patient form as data, made from the encounter schema, and the way back to an encounter. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from enum import StrEnum

from readmit_contracts.encounter import COLUMNS, DRUG_KEYS, Column, Group, Kind
from readmit_contracts.history import HISTORY, HISTORY_COLUMNS
from readmit_ui.texts import Texts

#: The order of the original's form; what is known of earlier encounters stands last, folded away.
GROUPS = (
    Group.DEMOGRAPHICS, Group.ADMISSION, Group.STAY, Group.DIAGNOSES, Group.LABORATORY, Group.MEDICATION, Group.HISTORY,
)  # fmt: skip

#: What is nearly always asked about; the other drugs are folded away.
COMMON_DRUGS = (
    "insulin", "metformin", "glipizide", "glyburide", "pioglitazone", "rosiglitazone", "glimepiride", "repaglinide",
)  # fmt: skip

#: Chosen in a drop-down for "we do not know"; never sent.
UNKNOWN = ""

Value = str | int | float | None
Encounter = dict[str, "str | int | float | Encounter"]


class Control(StrEnum):
    """How a field is entered."""

    CHOICE = "choice"
    CHOICE_OR_TEXT = "choice or text"
    NUMBER = "number"
    TEXT = "text"


@dataclass(frozen=True, slots=True)
class Field:
    """One field of the form: `choices` are pairs of what is shown and what is sent."""

    column: Column
    control: Control
    label: str
    hint: str | None
    choices: tuple[tuple[str, str | int], ...]
    value: str | int | None


def fields(texts: Texts) -> tuple[Field, ...]:
    """Every column that a person fills in, in schema order: prefilled with the example, the history left empty."""
    filled = tuple(_field(column, texts) for column in COLUMNS if column.group in GROUPS)
    return (*filled, *(replace(_field(column, texts), value=None) for column in HISTORY_COLUMNS))


def is_common(field: Field) -> bool:
    """Whether the field is always in sight."""
    return field.column.key not in DRUG_KEYS or field.column.key in COMMON_DRUGS


def encounter_of(form: Sequence[Field], values: Sequence[Value]) -> Encounter:
    """The encounter to post: one value per field in the form's order; what was left empty is left out.

    So is the history, when nothing of it was entered.
    """
    encounter: Encounter = {}
    history: Encounter = {}
    for field, entered in zip(form, values, strict=True):
        value = entered.strip() if isinstance(entered, str) else entered
        if value is not None and value != UNKNOWN:
            # Number boxes give 3 as 3.0.
            whole = isinstance(value, float) and value.is_integer()
            into = history if field.column.group is Group.HISTORY else encounter
            into[field.column.name] = int(value) if whole else value
    return encounter | {HISTORY: history} if history else encounter


def _field(column: Column, texts: Texts) -> Field:
    insists = column.required or column.default is not None
    unknown = () if insists else ((texts.unknown, UNKNOWN),)
    choices: tuple[tuple[str, str | int], ...] = ()
    match column.kind:
        case Kind.CODE:
            control = Control.CHOICE
            choices = tuple((f"{code} - {texts.code(column.key, code)}", code) for code in column.labels)
            choices = (*unknown, *choices)
        case Kind.CLOSED:
            control = Control.CHOICE
            choices = (*unknown, *((texts.value(column.key, value), value) for value in column.allowed))
        case Kind.OPEN:
            control = Control.CHOICE_OR_TEXT
            choices = (*unknown, *((texts.value(column.key, value), value) for value in column.allowed))
        case Kind.DIAGNOSIS:
            control = Control.TEXT
        case Kind.COUNT | Kind.IDENTIFIER:
            control = Control.NUMBER
    return Field(column, control, texts.label(column), texts.hints.get(column.key), choices, column.example)
