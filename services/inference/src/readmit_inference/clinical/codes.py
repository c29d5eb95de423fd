"""Code systems of FHIR, and what their codes are in the data set's columns. docs/clinical.md explains the choices."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from readmit_contracts.encounter import BY_KEY, COLUMNS, Group

#: Prefix of our extensions, identifiers and code systems: what follows is the name of a column.
OURS = "urn:readmit:fhir:"

ACT_CODE = "http://terminology.hl7.org/CodeSystem/v3-ActCode"
LOINC = "http://loinc.org"
RXNORM = "http://www.nlm.nih.gov/research/umls/rxnorm"
ATC = "http://www.whocc.no/atc"
SNOMED = "http://snomed.info/sct"
UCUM = "http://unitsofmeasure.org"
OBSERVATION_CATEGORY = "http://terminology.hl7.org/CodeSystem/observation-category"
ICD9 = frozenset(
    {
        "http://hl7.org/fhir/sid/icd-9-cm",
        "http://hl7.org/fhir/sid/icd-9-cm/diagnosis",
        "urn:oid:2.16.840.1.113883.6.103",
    }
)
US_CORE_RACE = "http://hl7.org/fhir/us/core/StructureDefinition/us-core-race"
US_CORE_ETHNICITY = "http://hl7.org/fhir/us/core/StructureDefinition/us-core-ethnicity"
HISPANIC = "2135-2"

_ACT_PRIORITY = "http://terminology.hl7.org/CodeSystem/v3-ActPriority"
_ADMIT_SOURCE = "http://terminology.hl7.org/CodeSystem/admit-source"
_DISCHARGE = "http://terminology.hl7.org/CodeSystem/discharge-disposition"
_NUBC = "https://www.nubc.org/CodeSystem/"
#: Source of payment typology.
SOPT = "https://nahdo.org/sopt"

INPATIENT = frozenset({"IMP", "ACUTE", "NONAC"})
EMERGENCY = frozenset({"EMER"})
OUTPATIENT = frozenset({"AMB", "VR", "HH", "FLD", "OBSENC", "SS"})

GENDERS: Mapping[str, str] = MappingProxyType(
    {"female": "Female", "male": "Male", "other": "Unknown/Invalid", "unknown": "Unknown/Invalid"}
)
#: OMB categories as US Core codes them.
RACES: Mapping[str, str] = MappingProxyType(
    {
        "2106-3": "Caucasian", "2054-5": "AfricanAmerican", "2028-9": "Asian", "1002-5": "Other", "2076-8": "Other",
        "2131-1": "Other",
    }
)  # fmt: skip

_DISCHARGED_NUBC = {
    "01": 1, "02": 2, "03": 3, "04": 4, "05": 5, "06": 6, "07": 7, "08": 8, "09": 9, "20": 11, "21": 30, "30": 12,
    "40": 19, "41": 20, "42": 21, "43": 27, "50": 13, "51": 14, "61": 15, "62": 22, "63": 23, "64": 24, "65": 28,
    "66": 29, "69": 30, "70": 30, "71": 16, "72": 17,
    # The same places, with an inpatient readmission that is planned.
    "81": 1, "82": 2, "83": 3, "84": 4, "85": 5, "86": 6, "87": 30, "88": 27, "89": 15, "90": 22, "91": 23, "92": 24,
    "93": 28, "94": 29, "95": 30,
}  # fmt: skip


def _own(key: str) -> dict[str, int]:
    """The column's own codes, as text."""
    return {str(code): code for code in BY_KEY[key].labels}


#: Column → system → code → the column's code.
TABLES: Mapping[str, Mapping[str, Mapping[str, int]]] = MappingProxyType(
    {
        "admission_type_id": {
            f"{OURS}admission_type_id": _own("admission_type_id"),
            _ACT_PRIORITY: {"EM": 1, "S": 1, "UR": 2, "A": 2, "RR": 2, "EL": 3, "R": 3}
            | dict.fromkeys(("CR", "CS", "CSP", "CSR", "P", "PRN", "T", "UD"), 8),
            f"{_NUBC}PriorityTypeOfAdmitOrVisit": {"1": 1, "2": 2, "3": 3, "4": 4, "5": 7, "9": 5},
        },
        "admission_source_id": {
            f"{OURS}admission_source_id": _own("admission_source_id"),
            _ADMIT_SOURCE: {
                "hosp-trans": 4, "emd": 7, "outp": 2, "born": 23, "gp": 1, "mp": 1, "nursing": 5, "psych": 6,
                "rehab": 6, "other": 20,
            },
            f"{_NUBC}PointOfOrigin": {
                "1": 1, "2": 2, "3": 3, "4": 4, "5": 5, "6": 6, "7": 7, "8": 8, "9": 9, "A": 10, "B": 18, "C": 19,
                "D": 22, "E": 25, "F": 26, "G": 6,
            },
        },
        "discharge_disposition_id": {
            f"{OURS}discharge_disposition_id": _own("discharge_disposition_id"),
            _DISCHARGE: {
                "home": 1, "alt-home": 1, "other-hcf": 30, "hosp": 13, "long": 4, "aadvice": 7, "exp": 11, "psy": 28,
                "rehab": 22, "snf": 3, "oth": 25,
            },
            f"{_NUBC}PatDischargeStatus": _DISCHARGED_NUBC
            | {code[1:]: is_ for code, is_ in _DISCHARGED_NUBC.items() if code[0] == "0"},
        },
    }
)  # fmt: skip
#: What stands for nothing said, and for a code of a system that is not in the table.
NOT_AVAILABLE: Mapping[str, int] = MappingProxyType(
    {"admission_type_id": 5, "admission_source_id": 9, "discharge_disposition_id": 18}
)
NOT_MAPPED: Mapping[str, int] = MappingProxyType(
    {"admission_type_id": 8, "admission_source_id": 20, "discharge_disposition_id": 25}
)

#: Column `payer_code` by system. Only payers that the study names: what the column's other letters mean, nobody says.
PAYERS: Mapping[str, Mapping[str, str]] = MappingProxyType(
    {
        f"{OURS}payer_code": {payer: payer for payer in BY_KEY["payer_code"].allowed},
        SOPT: {"1": "MC", "2": "MD", "6": "BC", "81": "SP"},
    }
)

#: LOINC codes of the two tests that the model reads. Which unit a value has, the value says.
GLUCOSE = frozenset({"2345-7", "2339-0", "1558-6", "14749-6", "15074-8"})
HBA1C = frozenset({"4548-4", "17856-6", "4549-2", "59261-8"})

#: Columns of single drugs and of combinations, by name.
DRUGS: frozenset[str] = frozenset(
    column.name
    for column in COLUMNS
    if column.group is Group.MEDICATION and column.name not in {"change", "diabetesMed"}
)
COMBINATIONS: Mapping[frozenset[str], str] = MappingProxyType(
    {frozenset(name.split("-")): name for name in DRUGS if "-" in name}
)
#: Ingredients.
BY_RXNORM: Mapping[str, str] = MappingProxyType(
    {
        "6809": "metformin", "73044": "repaglinide", "274332": "nateglinide", "2404": "chlorpropamide",
        "25789": "glimepiride", "173": "acetohexamide", "4821": "glipizide", "4815": "glyburide",
        "10635": "tolbutamide", "33738": "pioglitazone", "84108": "rosiglitazone", "16681": "acarbose",
        "30009": "miglitol", "72610": "troglitazone", "10633": "tolazamide", "5856": "insulin", "253182": "insulin",
        "274783": "insulin", "86009": "insulin", "51428": "insulin", "139825": "insulin", "400008": "insulin",
        "1670007": "insulin",
    }
)  # fmt: skip
BY_ATC: Mapping[str, str] = MappingProxyType(
    {
        "A10BA02": "metformin", "A10BX02": "repaglinide", "A10BX03": "nateglinide", "A10BB02": "chlorpropamide",
        "A10BB12": "glimepiride", "A10BB31": "acetohexamide", "A10BB07": "glipizide", "A10BB01": "glyburide",
        "A10BB03": "tolbutamide", "A10BG03": "pioglitazone", "A10BG02": "rosiglitazone", "A10BF01": "acarbose",
        "A10BF02": "miglitol", "A10BG01": "troglitazone", "A10BB05": "tolazamide",
        "A10BD06": "glimepiride-pioglitazone", "A10BD03": "metformin-rosiglitazone",
        "A10BD05": "metformin-pioglitazone",
    }
)  # fmt: skip
#: ATC's groups: insulins, and all drugs used in diabetes.
ATC_INSULINS, ATC_DIABETES = "A10A", "A10"
