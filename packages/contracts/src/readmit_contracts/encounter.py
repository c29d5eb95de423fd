"""The encounter schema: all 50 columns of the UCI data set as one declared table.

Everything that needs to know a column derives it from `COLUMNS`: validation at ingestion and at `/predict`, database
types and constraints (`encounter_sql`), the OpenAPI schema, the synthetic sample, the form's choices, the page
docs/data-dictionary.md (`data_dictionary`).
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence, Set
from dataclasses import astuple, dataclass, field
from enum import StrEnum
from types import MappingProxyType
from typing import Any

from readmit_contracts.code_tables import CODE_TABLES, WHY_NOT_READMITTABLE, Code, labels, unknown_codes


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
    HISTORY = "history"
    OUTCOME = "outcome"


class Document(StrEnum):
    """Where a column is described; the data dictionary page gives titles and addresses."""

    UCI = "UCI data dictionary"  #: of data set 296, doi 10.24432/C5230J
    STRACK = "Strack et al. 2014, table 1"  #: doi 10.1155/2014/781670
    CODES = "IDS_mapping.csv"  #: part of the data set


@dataclass(frozen=True, slots=True)
class Source:
    """A document, and what it calls the column."""

    document: Document
    name: str


@dataclass(frozen=True, slots=True)
class Column:
    """One column of an encounter.

    `required` says whether `/predict` insists on it; `default` is what stands there when it is absent (None: missing).
    `low`/`high` bound what is possible; beyond `usual_high` (the largest value in the study) a value is capped.
    `table_1` is what table 1 of Strack et al. calls the column.

    Three ways of not knowing are kept apart. `missing_marker` is what the data set writes where nothing was recorded;
    it is read as missing. `not_measured` is a value like any other: that no test was made is knowledge.
    `unknown_values` are values and codes by which the hospital itself said that it does not know; they are kept.
    `may_be_missing` says whether a cleaned row of a file may lack a value.
    """

    name: str
    kind: Kind
    group: Group
    description: str
    table_1: str
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
    missing_marker: str | None = None
    not_measured: str | None = None
    unknown_values: tuple[str | int, ...] = ()
    may_be_missing: bool = True

    @property
    def key(self) -> str:
        """Name in the database, in JSON written by us and in the feature spec: lower case, underscores."""
        return normalise_name(self.name)

    @property
    def is_number(self) -> bool:
        """Whether the cleaned value is a whole number (else text)."""
        return self.kind in {Kind.IDENTIFIER, Kind.COUNT, Kind.CODE}

    @property
    def sources(self) -> tuple[Source, ...]:
        """The documents that this column is declared after."""
        described = (Source(Document.UCI, self.name), Source(Document.STRACK, self.table_1))
        return (*described, Source(Document.CODES, self.name)) if self.kind is Kind.CODE else described


def normalise_name(name: str) -> str:
    """Field names arrive as `A1Cresult`, `glyburide-metformin` or `glyburide_metformin`: all mean one column."""
    return name.strip().lower().replace("-", "_").replace(" ", "_")


#: What the data set writes where nothing was recorded.
MISSING_MARKER = "?"
#: What stands for "we do not know" in a source file, whoever wrote it. "None" in the two laboratory columns is *not*
#: one of these: there it means "not measured", which is knowledge.
MISSING_MARKERS: frozenset[str] = frozenset({"", MISSING_MARKER, "null", "nan", "na", "n/a"})

#: Discharges after which nobody can be readmitted; `code_tables.WHY_NOT_READMITTABLE` says why.
NOT_READMITTABLE: frozenset[int] = frozenset(WHY_NOT_READMITTABLE)

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


def _identifier(name: str, description: str, table_1: str, example: int) -> Column:
    return Column(
        name, Kind.IDENTIFIER, Group.IDENTITY, description, table_1, low=1, high=2**53, is_feature=False,
        may_be_missing=False, example=example,
    )  # fmt: skip


def _code(name: str, description: str, table_1: str, example: int) -> Column:
    return Column(
        name, Kind.CODE, Group.ADMISSION, description, table_1, labels=labels(name), unknown_values=unknown_codes(name),
        required=True, may_be_missing=False, example=example,
    )  # fmt: skip


def _count(
    name: str, description: str, table_1: str, unit: str, *, low: int, high: int, usual_high: int, example: int
) -> Column:
    return Column(
        name, Kind.COUNT, Group.STAY, description, table_1, unit=unit, low=low, high=high, usual_high=usual_high,
        required=True, may_be_missing=False, example=example,
    )  # fmt: skip


def _diagnosis(name: str, which: str, table_1: str, example: str, *, required: bool = False) -> Column:
    return Column(
        name, Kind.DIAGNOSIS, Group.DIAGNOSES, f"{which} diagnosis, ICD-9-CM code", table_1, required=required,
        missing_marker=MISSING_MARKER, example=example,
    )  # fmt: skip


COLUMNS: tuple[Column, ...] = (
    _identifier("encounter_id", "Unique identifier of the encounter", "Encounter ID", 1000001),
    _identifier("patient_nbr", "Unique identifier of the patient", "Patient number", 2000001),
    Column("race", Kind.CLOSED, Group.DEMOGRAPHICS, "Race as recorded; kept for audit, not a feature by default",
           "Race", allowed=("Caucasian", "AfricanAmerican", "Hispanic", "Asian", "Other"), is_feature=False,
           missing_marker=MISSING_MARKER, example="Caucasian"),
    Column("gender", Kind.CLOSED, Group.DEMOGRAPHICS, "Sex as recorded", "Gender",
           allowed=("Female", "Male", "Unknown/Invalid"), unknown_values=("Unknown/Invalid",), required=True,
           example="Female"),
    Column("age", Kind.CLOSED, Group.DEMOGRAPHICS, "Age band", "Age", unit="years",
           allowed=AGE_BANDS, required=True, example="[70-80)"),
    Column("weight", Kind.CLOSED, Group.DEMOGRAPHICS, "Weight band (missing in 97 % of the data)", "Weight",
           unit="pounds", allowed=WEIGHT_BANDS, is_feature=False, missing_marker=MISSING_MARKER, example="[75-100)"),
    _code("admission_type_id", "Type of admission", "Admission type", 1),
    _code("discharge_disposition_id", "Where the patient went at discharge", "Discharge disposition", 1),
    _code("admission_source_id", "Where the patient came from", "Admission source", 7),
    _count("time_in_hospital", "Length of the stay", "Time in hospital", "days",
           low=1, high=365, usual_high=14, example=3),
    Column("payer_code", Kind.OPEN, Group.ADMISSION, "Payer", "Payer code", allowed=PAYERS,
           missing_marker=MISSING_MARKER, example="MC"),
    Column("medical_specialty", Kind.OPEN, Group.ADMISSION, "Specialty of the admitting physician",
           "Medical specialty", allowed=SPECIALTIES, missing_marker=MISSING_MARKER, example="Cardiology"),
    _count("num_lab_procedures", "Laboratory tests during the stay", "Number of lab procedures", "tests",
           low=0, high=1000, usual_high=132, example=59),
    _count("num_procedures", "Procedures other than laboratory tests during the stay", "Number of procedures",
           "procedures", low=0, high=100, usual_high=6, example=0),
    _count("num_medications", "Distinct generic drugs given during the stay", "Number of medications", "drugs",
           low=0, high=500, usual_high=81, example=18),
    _count("number_outpatient", "Outpatient visits in the year before", "Number of outpatient visits", "visits",
           low=0, high=365, usual_high=42, example=0),
    _count("number_emergency", "Emergency visits in the year before", "Number of emergency visits", "visits",
           low=0, high=365, usual_high=76, example=0),
    _count("number_inpatient", "Inpatient visits in the year before", "Number of inpatient visits", "visits",
           low=0, high=365, usual_high=21, example=0),
    _diagnosis("diag_1", "Primary", "Diagnosis 1", "428", required=True),
    _diagnosis("diag_2", "Secondary", "Diagnosis 2", "250.01"),
    _diagnosis("diag_3", "Additional secondary", "Diagnosis 3", "401"),
    _count("number_diagnoses", "Diagnoses entered", "Number of diagnoses", "diagnoses",
           low=0, high=100, usual_high=16, example=9),
    Column("max_glu_serum", Kind.CLOSED, Group.LABORATORY, "Glucose serum test; None: not measured",
           "Glucose serum test result", unit="mg/dL", allowed=("None", "Norm", ">200", ">300"), default="None",
           not_measured="None", example="None"),
    Column("A1Cresult", Kind.CLOSED, Group.LABORATORY, "HbA1c test; None: not measured", "A1c test result", unit="%",
           allowed=("None", "Norm", ">7", ">8"), default="None", not_measured="None", example=">8"),
    *(Column(drug, Kind.CLOSED, Group.MEDICATION, f"Whether {drug} was prescribed and how its dose changed",
             "24 features for medications", allowed=DOSES, default="No",
             example="Up" if drug == "insulin" else "No") for drug in _DRUGS),
    Column("change", Kind.CLOSED, Group.MEDICATION, "Whether diabetes medication changed", "Change of medications",
           allowed=("No", "Ch"), required=True, example="Ch"),
    Column("diabetesMed", Kind.CLOSED, Group.MEDICATION, "Whether diabetes medication was prescribed",
           "Diabetes medications", allowed=("No", "Yes"), required=True, example="Yes"),
    Column("readmitted", Kind.CLOSED, Group.OUTCOME, "Days to readmission; the outcome, never a feature",
           "Readmitted", unit="days", allowed=("NO", ">30", "<30"), is_feature=False, may_be_missing=False,
           example="NO"),
)  # fmt: skip

BY_KEY: Mapping[str, Column] = MappingProxyType({column.key: column for column in COLUMNS})
FEATURE_COLUMNS: tuple[Column, ...] = tuple(column for column in COLUMNS if column.is_feature)
DRUG_KEYS: tuple[str, ...] = tuple(BY_KEY[_drug].key for _drug in map(normalise_name, _DRUGS))

#: What counts as the event: readmitted in less than 30 days.
POSITIVE_OUTCOME = "<30"


def schema_sha256(
    columns: Sequence[Column] = COLUMNS,
    code_tables: Mapping[str, Sequence[Code]] = CODE_TABLES,
    missing_markers: Set[str] = MISSING_MARKERS,
) -> str:
    """Digest of the whole schema: it changes whenever a rule does, so lineage can tell which rules cleaned a row."""
    described = {
        "columns": [
            {
                **{name: getattr(column, name) for name in Column.__slots__ if name != "labels"},
                "labels": dict(column.labels),
            }
            for column in columns
        ],
        "code_tables": {table: [astuple(code) for code in codes] for table, codes in code_tables.items()},
        "missing_markers": sorted(missing_markers),
    }
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
    inputs = [column for column in COLUMNS if column.group is not Group.OUTCOME]
    return {
        "title": "Encounter",
        "type": "object",
        "properties": {column.name: column_schema(column) for column in inputs},
        "required": [column.name for column in COLUMNS if column.required],
        "examples": [example_encounter()],
    }


def column_schema(column: Column) -> dict[str, Any]:
    """JSON Schema of one column's value."""
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
    return described
