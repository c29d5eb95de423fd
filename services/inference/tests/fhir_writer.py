"""Writes an encounter of the contract as the FHIR R4 resources that a hospital would send: the mapping backwards."""

from __future__ import annotations

from datetime import date, timedelta
from typing import Any

from readmit_contracts.encounter import DRUG_KEYS
from readmit_inference.clinical.codes import (
    ACT_CODE,
    GENDERS,
    LOINC,
    OBSERVATION_CATEGORY,
    OURS,
    PAYERS,
    RACES,
    TABLES,
    UCUM,
    US_CORE_ETHNICITY,
    US_CORE_RACE,
)

START = date(2024, 5, 17)
PATIENT, ENCOUNTER = {"reference": "Patient/p"}, {"reference": "Encounter/e"}
_OF_STAY = {"subject": PATIENT, "encounter": ENCOUNTER}
_GENDERS = {ours: theirs for theirs, ours in GENDERS.items()}
_RACES = {ours: theirs for theirs, ours in RACES.items()}
_GLUCOSE = {"Norm": (110, "mg/dL"), ">200": (13.0, "mmol/L"), ">300": (301, "mg/dL")}
_HBA1C = {"Norm": (6.1, "%"), ">7": (60, "mmol/mol"), ">8": (8.1, "%")}
_DOSES = {"Steady": (10, 10), "Up": (10, 12), "Down": (12, 10)}


def concept(system: str, code: str, display: str = "as written") -> dict[str, Any]:
    """A CodeableConcept of one coding."""
    return {"coding": [{"system": system, "code": code, "display": display}]}


def bundle(resources: list[dict[str, Any]]) -> dict[str, Any]:
    """A collection."""
    return {"resourceType": "Bundle", "type": "collection", "entry": [{"resource": one} for one in resources]}


def resources_of(encounter: dict[str, Any]) -> list[dict[str, Any]]:
    """Every resource of an encounter, by key. Its fields have to agree: no count is below what is named one by one."""
    return [
        _patient(encounter),
        _stay(encounter),
        *_conditions(encounter),
        *_observations(encounter),
        *_procedures(encounter),
        *_medications(encounter),
        *_visits(encounter),
        *_coverage(encounter),
    ]


def _patient(encounter: dict[str, Any]) -> dict[str, Any]:
    race = encounter["race"]
    code, url = ("2135-2", US_CORE_ETHNICITY) if race == "Hispanic" else (_RACES.get(race), US_CORE_RACE)
    category = {"url": "ombCategory", "valueCoding": {"system": "urn:oid:2.16.840.1.113883.6.238", "code": code}}
    born = START.year - int(encounter["age"][1:].partition("-")[0]) - 5
    return {
        "resourceType": "Patient",
        "id": "p",
        "gender": _GENDERS[encounter["gender"]],
        "birthDate": f"{born}-03-01",
        **({"extension": [{"url": url, "extension": [category]}]} if race else {}),
        "identifier": [{"system": f"{OURS}patient_nbr", "value": str(encounter["patient_nbr"])}],
    }


def _coded(column: str, code: int) -> dict[str, Any]:
    """The code in the last system of the table that has it, so that all of them come."""
    for system, table in reversed(TABLES[column].items()):
        for theirs, ours in table.items():
            if ours == code:
                return concept(system, theirs)
    raise AssertionError(code)


def _stay(encounter: dict[str, Any]) -> dict[str, Any]:
    codes = [encounter[f"diag_{n}"] for n in (1, 2, 3) if encounter[f"diag_{n}"]]
    end = START + timedelta(days=encounter["time_in_hospital"])
    return {
        "resourceType": "Encounter",
        "id": "e",
        "identifier": [{"system": f"{OURS}encounter_id", "value": str(encounter["encounter_id"])}],
        "status": "finished",
        "class": {"system": ACT_CODE, "code": "IMP"},
        "subject": PATIENT,
        "period": {"start": START.isoformat(), "end": f"{end}T10:00:00+02:00"},
        "priority": _coded("admission_type_id", encounter["admission_type_id"]),
        "serviceType": concept(f"{OURS}medical_specialty", encounter["medical_specialty"]),
        # The other way round: what counts is the rank.
        "diagnosis": [
            {"condition": {"reference": f"Condition/c{n}"}, "rank": n + 1} for n in reversed(range(len(codes)))
        ],
        "hospitalization": {
            "admitSource": _coded("admission_source_id", encounter["admission_source_id"]),
            "dischargeDisposition": _coded("discharge_disposition_id", encounter["discharge_disposition_id"]),
        },
    }


def _conditions(encounter: dict[str, Any]) -> list[dict[str, Any]]:
    codes = [encounter[f"diag_{n}"] for n in (1, 2, 3) if encounter[f"diag_{n}"]]
    named = [concept("http://hl7.org/fhir/sid/icd-9-cm", code) for code in codes]
    others = [{"text": "something else"} for _ in range(encounter["number_diagnoses"] - len(codes))]
    return [
        {"resourceType": "Condition", "id": f"c{n}", "code": code, **_OF_STAY}
        for n, code in enumerate([*named, *others])
    ]


def _observations(encounter: dict[str, Any]) -> list[dict[str, Any]]:
    named = [
        (concept(LOINC, code), dict(zip(("value", "unit"), values[encounter[column]], strict=True)))
        for column, code, values in (("max_glu_serum", "2345-7", _GLUCOSE), ("a1cresult", "4548-4", _HBA1C))
        if encounter[column] != "None"
    ]
    others = [({"text": "sodium"}, {"value": 140, "unit": "mmol/L"})] * (encounter["num_lab_procedures"] - len(named))
    return [
        {
            "resourceType": "Observation",
            "id": f"o{n}",
            "status": "final",
            "category": [concept(OBSERVATION_CATEGORY, "laboratory")],
            "code": code,
            "effectiveDateTime": START.isoformat(),
            "valueQuantity": quantity | {"system": UCUM, "code": quantity["unit"]},
            **_OF_STAY,
        }
        for n, (code, quantity) in enumerate([*named, *others])
    ]


def _procedures(encounter: dict[str, Any]) -> list[dict[str, Any]]:
    return [
        {"resourceType": "Procedure", "id": f"r{n}", "status": "completed", "code": {"text": "something"}, **_OF_STAY}
        for n in range(encounter["num_procedures"])
    ]


def _medications(encounter: dict[str, Any]) -> list[dict[str, Any]]:
    written: list[dict[str, Any]] = []
    drugs = [(key.replace("_", "-"), encounter[key]) for key in DRUG_KEYS if encounter[key] != "No"]
    for drug, change in drugs:
        before, now = _DOSES[change]
        name = {"text": " / ".join(f"{part} 5 MG" for part in drug.split("-")).upper()}
        written += [
            _request(f"{drug}-before", name, before),
            _request(drug, name, now) | {"priorPrescription": {"reference": f"MedicationRequest/{drug}-before"}},
        ]
    others = range(encounter["num_medications"] - len(drugs))
    return [*written, *(_request(f"m{n}", {"text": f"another drug {n}"}, 1) for n in others)]


def _request(id_: str, name: dict[str, Any], dose: int) -> dict[str, Any]:
    repeat = {"frequency": 2, "period": 1, "periodUnit": "d"}
    return {
        "resourceType": "MedicationRequest",
        "id": id_,
        "status": "completed",
        "intent": "order",
        "medicationCodeableConcept": name,
        "dosageInstruction": [
            {"timing": {"repeat": repeat}, "doseAndRate": [{"doseQuantity": {"value": dose, "unit": "mg"}}]}
        ],
        **_OF_STAY,
    }


def _visits(encounter: dict[str, Any]) -> list[dict[str, Any]]:
    kinds = (("number_inpatient", "ACUTE"), ("number_emergency", "EMER"), ("number_outpatient", "AMB"))
    # Too long ago to count, but it says that there may be others.
    visits = [("AMB", START - timedelta(days=900))]
    for column, class_ in kinds:
        visits += [(class_, START - timedelta(days=10 * n + 40)) for n in range(encounter[column])]
    return [
        {
            "resourceType": "Encounter",
            "id": f"v{n}",
            "status": "finished",
            "class": {"system": ACT_CODE, "code": class_},
            "subject": PATIENT,
            "period": {"start": day.isoformat(), "end": day.isoformat()},
        }
        for n, (class_, day) in enumerate(visits)
    ]


def _coverage(encounter: dict[str, Any]) -> list[dict[str, Any]]:
    system = next(system for system, payers in reversed(PAYERS.items()) if encounter["payer_code"] in payers.values())
    code = next(code for code, payer in PAYERS[system].items() if payer == encounter["payer_code"])
    return [
        {
            "resourceType": "Coverage",
            "id": "k",
            "status": "active",
            "type": concept(system, code),
            "beneficiary": PATIENT,
            "payor": [{"display": "somebody"}],
        }
    ]
