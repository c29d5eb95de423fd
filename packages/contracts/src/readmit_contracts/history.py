"""What the patient's earlier encounters say at this discharge: the optional object `history` of `POST /predict`.

Point-in-time: only encounters that had ended when this one ended count. The data set has no dates: "earlier" is the
order of `encounter_id`, which is an assumption. That an earlier encounter was followed by a readmission within 30 days
is known as soon as the readmission begins; that it was not, or was later, is never used.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from readmit_contracts.code_tables import labels, unknown_codes
from readmit_contracts.encounter import BY_KEY, Column, Group, Kind, column_schema, json_schema

#: Name of the object in the body of `POST /predict`.
HISTORY = "history"

HISTORY_COLUMNS: tuple[Column, ...] = (
    Column("previous_encounters", Kind.COUNT, Group.HISTORY, "Earlier encounters of the patient that are known", "",
           unit="encounters", low=0, high=1000, usual_high=39, required=True, may_be_missing=False, example=1),
    Column("is_readmission", Kind.CLOSED, Group.HISTORY,
           "Whether this stay began within 30 days of the previous discharge", "", allowed=("No", "Yes"),
           example="No"),
    Column("readmissions", Kind.COUNT, Group.HISTORY, "Stays that were 30-day readmissions, this one included", "",
           unit="stays", low=0, high=1000, usual_high=24, example=0),
    Column("previous_time_in_hospital", Kind.COUNT, Group.HISTORY, "Length of the previous stay", "", unit="days",
           low=1, high=365, usual_high=14, example=4),
    Column("previous_number_inpatient", Kind.COUNT, Group.HISTORY,
           "Inpatient visits in the year before the previous encounter", "", unit="visits", low=0, high=365,
           usual_high=21, example=0),
    Column("previous_discharge_disposition_id", Kind.CODE, Group.HISTORY,
           "Where the patient went at the previous discharge", "", labels=labels("discharge_disposition_id"),
           unknown_values=unknown_codes("discharge_disposition_id"), example=1),
    Column("previous_diag_1", Kind.DIAGNOSIS, Group.HISTORY,
           "Primary diagnosis of the previous encounter, ICD-9-CM code", "", example="428"),
)  # fmt: skip

HISTORY_KEYS: tuple[str, ...] = tuple(column.key for column in HISTORY_COLUMNS)

#: Every column that a feature may be made of, by key: those of the encounter and those of its history.
INPUTS_BY_KEY: Mapping[str, Column] = MappingProxyType({**BY_KEY, **{c.key: c for c in HISTORY_COLUMNS}})


def example_history() -> dict[str, Any]:
    """A complete history, as a client would post it."""
    return {column.name: column.example for column in HISTORY_COLUMNS}


def request_schema() -> dict[str, Any]:
    """JSON Schema of the body of `POST /predict`: an encounter and, if it is known, the patient's history."""
    encounter = json_schema()
    history = {
        "type": "object",
        "description": "Earlier encounters of the patient, as known at this discharge. Leave out what is not known:"
        " without the object, the risk is that of a patient of unknown history.",
        "properties": {column.name: column_schema(column) for column in HISTORY_COLUMNS},
        "required": [column.name for column in HISTORY_COLUMNS if column.required],
        "examples": [example_history()],
    }
    return encounter | {"properties": {**encounter["properties"], HISTORY: history}}
