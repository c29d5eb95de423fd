"""The documented examples: the contract's example encounter as FHIR resources, and as a call of CDS Hooks."""

from __future__ import annotations

from typing import Any

from readmit_inference.clinical.cds_hooks import HOOK
from readmit_inference.clinical.codes import (
    ACT_CODE,
    LOINC,
    OBSERVATION_CATEGORY,
    OURS,
    RXNORM,
    SOPT,
    UCUM,
    US_CORE_RACE,
)

_PATIENT, _ENCOUNTER = "example-patient", "example-encounter"
_NUBC = "https://www.nubc.org/CodeSystem/"


def _concept(system: str, code: str, display: str | None = None) -> dict[str, Any]:
    coding = {"system": system, "code": code} | ({"display": display} if display else {})
    return {"coding": [coding]}


def _of_stay() -> dict[str, Any]:
    return {
        "subject": {"reference": f"Patient/{_PATIENT}"},
        "encounter": {"reference": f"Encounter/{_ENCOUNTER}"},
    }


def patient() -> dict[str, Any]:
    """The patient."""
    return {
        "resourceType": "Patient",
        "id": _PATIENT,
        "extension": [
            {
                "url": US_CORE_RACE,
                "extension": [
                    {
                        "url": "ombCategory",
                        "valueCoding": {"system": "urn:oid:2.16.840.1.113883.6.238", "code": "2106-3"},
                    },
                    {"url": "text", "valueString": "White"},
                ],
            }
        ],
        "identifier": [{"system": f"{OURS}patient_nbr", "value": "2000001"}],
        "gender": "female",
        "birthDate": "1950-03-14",
    }


def encounter() -> dict[str, Any]:
    """The stay. Counts of which no resources are sent are told as extensions."""
    counts = {
        "num_lab_procedures": 59, "num_procedures": 0, "num_medications": 18, "number_outpatient": 0,
        "number_emergency": 0, "number_inpatient": 0, "number_diagnoses": 9,
    }  # fmt: skip
    return {
        "resourceType": "Encounter",
        "id": _ENCOUNTER,
        "extension": [
            *({"url": f"{OURS}{column}", "valueInteger": count} for column, count in counts.items()),
            {"url": f"{OURS}weight", "valueString": "[75-100)"},
        ],
        "identifier": [{"system": f"{OURS}encounter_id", "value": "1000001"}],
        "status": "in-progress",
        "class": {"system": ACT_CODE, "code": "IMP"},
        "serviceType": {"text": "Cardiology"},
        "priority": _concept("http://terminology.hl7.org/CodeSystem/v3-ActPriority", "EM"),
        "subject": {"reference": f"Patient/{_PATIENT}"},
        "period": {"start": "2024-05-17T21:40:00+02:00", "end": "2024-05-20T11:00:00+02:00"},
        "diagnosis": [
            {"condition": {"reference": f"Condition/{id_}"}, "rank": rank}
            for rank, (id_, _, _) in enumerate(_CONDITIONS, start=1)
        ],
        "hospitalization": {
            "admitSource": _concept("http://terminology.hl7.org/CodeSystem/admit-source", "emd"),
            "dischargeDisposition": _concept(f"{_NUBC}PatDischargeStatus", "01"),
        },
    }


_CONDITIONS = (
    ("heart-failure", "428", "Heart failure"),
    ("diabetes", "250.01", "Diabetes mellitus type I"),
    ("hypertension", "401", "Essential hypertension"),
)


def conditions() -> list[dict[str, Any]]:
    """Three diagnoses."""
    return [
        {
            "resourceType": "Condition",
            "id": id_,
            "code": _concept("http://hl7.org/fhir/sid/icd-9-cm", code, display),
            **_of_stay(),
        }
        for id_, code, display in _CONDITIONS
    ]


def observations() -> list[dict[str, Any]]:
    """HbA1c."""
    return [
        {
            "resourceType": "Observation",
            "id": "hba1c",
            "status": "final",
            "category": [_concept(OBSERVATION_CATEGORY, "laboratory")],
            "code": _concept(LOINC, "4548-4", "Hemoglobin A1c/Hemoglobin.total in Blood"),
            **_of_stay(),
            "effectiveDateTime": "2024-05-18",
            "valueQuantity": {"value": 9.1, "unit": "%", "system": UCUM, "code": "%"},
        }
    ]


def medications() -> list[dict[str, Any]]:
    """Insulin, raised during the stay."""
    return [
        {
            "resourceType": "MedicationRequest",
            "id": id_,
            "status": status,
            "intent": "order",
            "medicationCodeableConcept": _concept(RXNORM, "274783", "insulin glargine"),
            **_of_stay(),
            **replaced,
            "dosageInstruction": [
                {
                    "timing": {"repeat": {"frequency": 1, "period": 1, "periodUnit": "d"}},
                    "doseAndRate": [{"doseQuantity": {"value": dose, "unit": "U", "system": UCUM, "code": "[iU]"}}],
                }
            ],
        }
        for id_, status, dose, replaced in (
            ("insulin-before", "completed", 10, {}),
            ("insulin", "active", 14, {"priorPrescription": {"reference": "MedicationRequest/insulin-before"}}),
        )
    ]


def coverage() -> dict[str, Any]:
    """Medicare."""
    return {
        "resourceType": "Coverage",
        "id": "medicare",
        "status": "active",
        "type": _concept(SOPT, "1", "Medicare"),
        "beneficiary": {"reference": f"Patient/{_PATIENT}"},
        "payor": [{"display": "Medicare"}],
    }


def example_bundle() -> dict[str, Any]:
    """What `POST /fhir/RiskAssessment/$predict` takes: `example_encounter()` of the contract, in FHIR."""
    resources = [patient(), encounter(), *conditions(), *observations(), *medications(), coverage()]
    return {"resourceType": "Bundle", "type": "collection", "entry": [{"resource": one} for one in resources]}


def example_call() -> dict[str, Any]:
    """What `POST /cds-services/readmission-risk` takes: the same encounter."""

    def searchset(resources: list[dict[str, Any]]) -> dict[str, Any]:
        found = {"resourceType": "Bundle", "type": "searchset", "total": len(resources)}
        # An empty array is no FHIR.
        return found | ({"entry": [{"resource": one} for one in resources]} if resources else {})

    return {
        "hook": HOOK,
        "hookInstance": "d1577c69-dfbe-44ad-ba6d-3e05e953b2ea",
        "context": {"userId": "Practitioner/example", "patientId": _PATIENT, "encounterId": _ENCOUNTER},
        "prefetch": {
            "patient": patient(),
            "encounter": encounter(),
            "conditions": searchset(conditions()),
            "laboratory": searchset(observations()),
            "procedures": searchset([]),
            "medications": searchset(medications()),
            "encounters": searchset([encounter()]),
            "coverage": searchset([coverage()]),
        },
    }
