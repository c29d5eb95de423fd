"""The encounter schema: all 50 columns of the UCI data set as one declared table.

Everything that needs to know a column derives it from `COLUMNS`: validation at ingestion and at `/predict`, database
types, the OpenAPI schema, the synthetic sample, the form's choices.

Sources: the UCI data dictionary (data set 296, doi 10.24432/C5230J) and Strack et al., "Impact of HbA1c Measurement on
Hospital Readmission Rates", BioMed Research International 2014, doi 10.1155/2014/781670 (table 1).
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from types import MappingProxyType
from typing import Any


class Kind(StrEnum):
    """How a column's value is read."""

    IDENTIFIER = "identifier"  #: whole number that names an encounter or a patient; never a feature
    COUNT = "count"  #: whole number between `low` and `high`
    CODE = "code"  #: whole number out of a code table (`labels`)
    CLOSED = "closed"  #: one of `allowed`
    OPEN = "open"  #: text; `allowed` lists what is known, new values are taken with a warning
    DIAGNOSIS = "diagnosis"  #: ICD-9-CM code, e.g. 250.83, V27, E849


class Group(StrEnum):
    """Where the column stands in a form, as in the original."""

    IDENTITY = "identity"
    DEMOGRAPHICS = "demographics"
    ADMISSION = "admission"
    STAY = "stay"
    DIAGNOSES = "diagnoses"
    LABORATORY = "laboratory"
    MEDICATION = "medication"
    OUTCOME = "outcome"


@dataclass(frozen=True, slots=True)
class Column:
    """One column of an encounter.

    `required` says whether `/predict` insists on it; `default` is what stands there when it is absent (None: missing).
    `low`/`high` bound what is possible; beyond `usual_high` (the largest value in the study) a value is capped.
    """

    name: str
    kind: Kind
    group: Group
    description: str
    unit: str | None = None
    allowed: tuple[str, ...] = ()
    labels: Mapping[int, str] = field(default_factory=lambda: MappingProxyType({}))
    low: int | None = None
    high: int | None = None
    usual_high: int | None = None
    required: bool = False
    default: str | None = None
    is_feature: bool = True
    example: str | int | None = None

    @property
    def key(self) -> str:
        """Name in the database, in JSON written by us and in the feature spec: lower case, underscores."""
        return normalise_name(self.name)

    @property
    def is_number(self) -> bool:
        """Whether the cleaned value is a whole number (else text)."""
        return self.kind in {Kind.IDENTIFIER, Kind.COUNT, Kind.CODE}


def normalise_name(name: str) -> str:
    """Field names arrive as `A1Cresult`, `glyburide-metformin` or `glyburide_metformin`: all mean one column."""
    return name.strip().lower().replace("-", "_").replace(" ", "_")


#: What stands for "we do not know" in a source file. "None" in the two laboratory columns is *not* one of these: there
#: it means "not measured", which is knowledge.
MISSING_MARKERS: frozenset[str] = frozenset({"", "?", "null", "nan", "na", "n/a"})

_ADMISSION_TYPES = {
    1: "Emergency", 2: "Urgent", 3: "Elective", 4: "Newborn", 5: "Not available", 6: "Null", 7: "Trauma center",
    8: "Not mapped",
}  # fmt: skip
_DISPOSITIONS = {
    1: "Discharged to home",
    2: "Transferred to another short-term hospital",
    3: "Transferred to a skilled nursing facility",
    4: "Transferred to an intermediate care facility",
    5: "Transferred to another type of inpatient institution",
    6: "Home with home health service",
    7: "Left against medical advice",
    8: "Home under care of a home IV provider",
    9: "Admitted as an inpatient to this hospital",
    10: "Neonate transferred for aftercare",
    11: "Expired",
    12: "Still a patient, or expected back for outpatient services",
    13: "Hospice, home",
    14: "Hospice, medical facility",
    15: "Transferred to a Medicare-approved swing bed here",
    16: "Referred elsewhere for outpatient services",
    17: "Referred to this institution for outpatient services",
    18: "Null",
    19: "Expired at home (Medicaid hospice)",
    20: "Expired in a medical facility (Medicaid hospice)",
    21: "Expired, place unknown (Medicaid hospice)",
    22: "Transferred to a rehabilitation facility",
    23: "Transferred to a long-term care hospital",
    24: "Transferred to a nursing facility certified by Medicaid only",
    25: "Not mapped",
    26: "Unknown or invalid",
    27: "Transferred to a federal health care facility",
    28: "Transferred to a psychiatric hospital",
    29: "Transferred to a critical access hospital",
    30: "Transferred to another type of institution",
}
_SOURCES = {
    1: "Physician referral", 2: "Clinic referral", 3: "HMO referral", 4: "Transfer from a hospital",
    5: "Transfer from a skilled nursing facility", 6: "Transfer from another facility", 7: "Emergency room",
    8: "Court or law enforcement", 9: "Not available", 10: "Transfer from a critical access hospital",
    11: "Normal delivery", 12: "Premature delivery", 13: "Sick baby", 14: "Extramural birth", 15: "Not available",
    17: "Null", 18: "Transfer from another home health agency", 19: "Readmission to the same home health agency",
    20: "Not mapped", 21: "Unknown or invalid", 22: "Transfer within the hospital, separate claim",
    23: "Born inside this hospital", 24: "Born outside this hospital",
    25: "Transfer from an ambulatory surgery center", 26: "Transfer from hospice",
}  # fmt: skip

#: Discharges after which nobody can be readmitted: death or hospice. Such encounters are set apart from modelling.
NOT_READMITTABLE: frozenset[int] = frozenset({11, 13, 14, 19, 20, 21})

AGE_BANDS = tuple(f"[{low}-{low + 10})" for low in range(0, 100, 10))
WEIGHT_BANDS = (*(f"[{low}-{low + 25})" for low in range(0, 200, 25)), ">200")
PAYERS = (
    "BC", "CH", "CM", "CP", "DM", "FR", "HM", "MC", "MD", "MP", "OG", "OT", "PO", "SI", "SP", "UN", "WC",
)  # fmt: skip
SPECIALTIES = (
    "InternalMedicine", "Emergency/Trauma", "Family/GeneralPractice", "Cardiology", "Surgery-General", "Nephrology",
    "Orthopedics", "Orthopedics-Reconstructive", "Radiologist", "Pulmonology", "Psychiatry", "Urology",
    "ObstetricsandGynecology", "Surgery-Cardiovascular/Thoracic", "Gastroenterology", "Surgery-Vascular",
    "Surgery-Neuro", "PhysicalMedicineandRehabilitation", "Oncology", "Pediatrics", "Hematology/Oncology", "Neurology",
    "Pediatrics-Endocrinology", "Otolaryngology", "Endocrinology",
)  # fmt: skip
DOSES = ("No", "Steady", "Up", "Down")

_DRUGS = (
    "metformin", "repaglinide", "nateglinide", "chlorpropamide", "glimepiride", "acetohexamide", "glipizide",
    "glyburide", "tolbutamide", "pioglitazone", "rosiglitazone", "acarbose", "miglitol", "troglitazone", "tolazamide",
    "examide", "citoglipton", "insulin", "glyburide-metformin", "glipizide-metformin", "glimepiride-pioglitazone",
    "metformin-rosiglitazone", "metformin-pioglitazone",
)  # fmt: skip


def _count(
    name: str, description: str, low: int, high: int, usual_high: int, example: int, unit: str | None = None
) -> Column:
    return Column(
        name, Kind.COUNT, Group.STAY, description, unit=unit, low=low, high=high, usual_high=usual_high,
        required=True, example=example,
    )  # fmt: skip


def _diagnosis(name: str, which: str, example: str, *, required: bool = False) -> Column:
    return Column(
        name,
        Kind.DIAGNOSIS,
        Group.DIAGNOSES,
        f"{which} diagnosis, ICD-9-CM code",
        required=required,
        example=example,
    )


COLUMNS: tuple[Column, ...] = (
    Column("encounter_id", Kind.IDENTIFIER, Group.IDENTITY, "Unique identifier of the encounter",
           low=1, high=2**53, is_feature=False, example=1000001),
    Column("patient_nbr", Kind.IDENTIFIER, Group.IDENTITY, "Unique identifier of the patient",
           low=1, high=2**53, is_feature=False, example=2000001),
    Column("race", Kind.CLOSED, Group.DEMOGRAPHICS, "Race as recorded; kept for audit, not a feature by default",
           allowed=("Caucasian", "AfricanAmerican", "Hispanic", "Asian", "Other"), is_feature=False,
           example="Caucasian"),
    Column("gender", Kind.CLOSED, Group.DEMOGRAPHICS, "Sex as recorded",
           allowed=("Female", "Male", "Unknown/Invalid"), required=True, example="Female"),
    Column("age", Kind.CLOSED, Group.DEMOGRAPHICS, "Age band", unit="years",
           allowed=AGE_BANDS, required=True, example="[70-80)"),
    Column("weight", Kind.CLOSED, Group.DEMOGRAPHICS, "Weight band (missing in 97 % of the data)", unit="pounds",
           allowed=WEIGHT_BANDS, is_feature=False, example="[75-100)"),
    Column("admission_type_id", Kind.CODE, Group.ADMISSION, "Type of admission",
           labels=MappingProxyType(_ADMISSION_TYPES), required=True, example=1),
    Column("discharge_disposition_id", Kind.CODE, Group.ADMISSION, "Where the patient went at discharge",
           labels=MappingProxyType(_DISPOSITIONS), required=True, example=1),
    Column("admission_source_id", Kind.CODE, Group.ADMISSION, "Where the patient came from",
           labels=MappingProxyType(_SOURCES), required=True, example=7),
    _count("time_in_hospital", "Length of the stay", 1, 365, 14, 3, unit="days"),
    Column("payer_code", Kind.OPEN, Group.ADMISSION, "Payer", allowed=PAYERS, example="MC"),
    Column("medical_specialty", Kind.OPEN, Group.ADMISSION, "Specialty of the admitting physician",
           allowed=SPECIALTIES, example="Cardiology"),
    _count("num_lab_procedures", "Laboratory tests during the stay", 0, 1000, 132, 59),
    _count("num_procedures", "Procedures other than laboratory tests during the stay", 0, 100, 6, 0),
    _count("num_medications", "Distinct generic drugs given during the stay", 0, 500, 81, 18),
    _count("number_outpatient", "Outpatient visits in the year before", 0, 365, 42, 0),
    _count("number_emergency", "Emergency visits in the year before", 0, 365, 76, 0),
    _count("number_inpatient", "Inpatient visits in the year before", 0, 365, 21, 0),
    _diagnosis("diag_1", "Primary", "428", required=True),
    _diagnosis("diag_2", "Secondary", "250.01"),
    _diagnosis("diag_3", "Additional secondary", "401"),
    _count("number_diagnoses", "Diagnoses entered", 0, 100, 16, 9),
    Column("max_glu_serum", Kind.CLOSED, Group.LABORATORY, "Glucose serum test; None: not measured", unit="mg/dL",
           allowed=("None", "Norm", ">200", ">300"), default="None", example="None"),
    Column("A1Cresult", Kind.CLOSED, Group.LABORATORY, "HbA1c test; None: not measured", unit="%",
           allowed=("None", "Norm", ">7", ">8"), default="None", example=">8"),
    *(Column(drug, Kind.CLOSED, Group.MEDICATION, f"Whether {drug} was prescribed and how its dose changed",
             allowed=DOSES, default="No", example="Up" if drug == "insulin" else "No") for drug in _DRUGS),
    Column("change", Kind.CLOSED, Group.MEDICATION, "Whether diabetes medication changed", allowed=("No", "Ch"),
           required=True, example="Ch"),
    Column("diabetesMed", Kind.CLOSED, Group.MEDICATION, "Whether diabetes medication was prescribed",
           allowed=("No", "Yes"), required=True, example="Yes"),
    Column("readmitted", Kind.CLOSED, Group.OUTCOME, "Days to readmission; the outcome, never a feature",
           allowed=("NO", ">30", "<30"), is_feature=False, example="NO"),
)  # fmt: skip

BY_KEY: Mapping[str, Column] = MappingProxyType({column.key: column for column in COLUMNS})
FEATURE_COLUMNS: tuple[Column, ...] = tuple(column for column in COLUMNS if column.is_feature)
DRUG_KEYS: tuple[str, ...] = tuple(BY_KEY[_drug].key for _drug in map(normalise_name, _DRUGS))

#: What counts as the event: readmitted in less than 30 days.
POSITIVE_OUTCOME = "<30"


def schema_sha256() -> str:
    """Digest of the whole schema: it changes whenever a rule does, so lineage can tell which rules cleaned a row."""
    described = [
        {
            **{name: getattr(column, name) for name in Column.__slots__ if name != "labels"},
            "labels": dict(column.labels),
        }
        for column in COLUMNS
    ]
    return hashlib.sha256(json.dumps(described, sort_keys=True).encode()).hexdigest()


def example_encounter() -> dict[str, str | int]:
    """One complete encounter, as a client would post it: for documentation, the form and smoke tests."""
    return {
        column.name: column.example
        for column in COLUMNS
        if column.example is not None and column.group is not Group.OUTCOME
    }


def json_schema() -> dict[str, Any]:
    """JSON Schema of the body of `POST /predict`.

    Numbers may also be given as text, and names in any of the accepted spellings; the schema documents the canonical
    form.
    """
    properties: dict[str, Any] = {}
    for column in COLUMNS:
        if column.group is Group.OUTCOME:
            continue
        described: dict[str, Any] = {"description": column.description + (f" [{column.unit}]" if column.unit else "")}
        if column.kind in {Kind.COUNT, Kind.IDENTIFIER}:
            described |= {"type": "integer", "minimum": column.low, "maximum": column.high}
        elif column.kind is Kind.CODE:
            described |= {"type": "integer", "enum": list(column.labels)}
            described["description"] += ": " + "; ".join(f"{code} {label}" for code, label in column.labels.items())
        elif column.kind is Kind.CLOSED:
            described |= {"type": "string", "enum": list(column.allowed)}
        else:
            described |= {"type": "string", "minLength": 1, "maxLength": 64}
        if column.default is not None:
            described["default"] = column.default
        if column.example is not None:
            described["examples"] = [column.example]
        properties[column.name] = described
    return {
        "title": "Encounter",
        "type": "object",
        "properties": properties,
        "required": [column.name for column in COLUMNS if column.required],
        "examples": [example_encounter()],
    }
