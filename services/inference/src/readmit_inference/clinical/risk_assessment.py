"""The FHIR R4 face: a Bundle is read, and a RiskAssessment or an OperationOutcome is written."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from datetime import UTC, date, datetime, timedelta
from typing import Any

from readmit_contracts.prediction import FieldError, FieldWarning
from readmit_inference.clinical.codes import OURS, SNOMED
from readmit_inference.clinical.elements import Element, Findings
from readmit_inference.clinical.mapping import Mapped, map_record
from readmit_inference.clinical.record import Sent
from readmit_inference.clinical.texts import Texts
from readmit_inference.domain import Answered
from readmit_inference.errors import InvalidEncounter, PredictionRefused

MEDIA_TYPE = "application/fhir+json"
OPERATION = "/fhir/RiskAssessment/$predict"
_WINDOW = timedelta(days=30)
_RISK_PROBABILITY = "http://terminology.hl7.org/CodeSystem/risk-probability"
#: Code of FHIR's issue-type for a refusal's code; what is not here is `processing`.
_ISSUE_TYPES: Mapping[str, str] = {
    "invalid_json": "structure",
    "not_an_object": "structure",
    "body_too_large": "too-long",
    "body_too_slow": "timeout",
    "wrong_content_type": "not-supported",
    "no_model": "transient",
    "overloaded": "throttled",
}


def read_bundle(body: Mapping[str, object], today: date) -> Mapped:
    """The encounter of a Bundle, or of a Parameters resource that holds one, as FHIR operations may be called.

    Raises `InvalidEncounter` for what is neither; other faults are among the errors.
    """
    findings = Findings()
    type_ = body.get("resourceType")
    root = Element(body, "Parameters" if type_ == "Parameters" else "Bundle", findings)
    if type_ == "Parameters":
        root = next((r for p in root.each("parameter") if (r := p.child("resource"))), root.child("parameter.resource"))
    if root.text("resourceType") != "Bundle":
        allowed = "a Bundle of type collection, alone or as resource of a Parameters"
        findings.refuse(f"{root.path}.resourceType", root.value.get("resourceType"), "is not a Bundle", allowed)
        raise InvalidEncounter(findings.errors)
    sent = [Sent(entry.child("resource"), entry.uri("fullUrl")) for entry in root.each("entry")]
    if not sent and findings.errors:
        raise InvalidEncounter(findings.errors)
    return map_record(sent, findings, where=f"{root.path}.entry.resource", today=today)


def risk_assessment(mapped: Mapped, answered: Answered, warnings: list[FieldWarning], texts: Texts) -> dict[str, Any]:
    """The answer as an R4 RiskAssessment. `warnings` name elements by their FHIRPath."""
    serving = answered.serving
    named, threshold = serving.named, serving.model.threshold
    until = mapped.discharged_on + _WINDOW
    level = "high" if answered.risk > 0.5 else "moderate" if answered.readmitted_within_30_days else "low"
    notes = [texts.not_clinical]
    if named.synthetic:
        notes.append(texts.synthetic)
    if not answered.used_history:
        notes.append(texts.unknown_history)
    notes.extend(f"{warning.field}: {warning.message}" for warning in warnings)
    verdict = texts.above if answered.readmitted_within_30_days else texts.below
    resource: dict[str, Any] = {
        "resourceType": "RiskAssessment",
        "id": answered.prediction_id,
        "language": texts.language,
        "contained": [
            {
                "resourceType": "Device",
                "id": "model",
                "identifier": [{"system": f"{OURS}bundle-sha256", "value": named.sha256}],
                "status": "active",
                "deviceName": [{"name": named.name, "type": "model-name"}],
                "version": [{"value": named.version}, {"type": {"text": "epoch"}, "value": str(named.epoch)}],
            }
        ],
        "extension": [
            {"url": f"{OURS}threshold", "valueDecimal": threshold * 100},
            {"url": f"{OURS}used-history", "valueBoolean": answered.used_history},
            {"url": f"{OURS}synthetic", "valueBoolean": named.synthetic},
        ],
        "identifier": [{"system": "urn:ietf:rfc:3986", "value": f"urn:uuid:{answered.prediction_id}"}],
        "status": "final",
        "method": {
            "coding": [{"system": f"{OURS}family", "code": serving.model.manifest.family}],
            "text": f"{named.name} {named.version}",
        },
        "code": {"text": texts.outcome},
        "subject": _reference(mapped.patient, "Patient"),
        "encounter": _reference(mapped.stay, "Encounter"),
        "occurrenceDateTime": datetime.now(UTC).isoformat(timespec="seconds"),
        "performer": {"reference": "#model"},
        "basis": [{"reference": reference} for reference in dict.fromkeys(mapped.basis)],
        "prediction": [
            {
                "outcome": {
                    "coding": [{"system": SNOMED, "code": "417005", "display": "Hospital re-admission"}],
                    "text": texts.outcome,
                },
                # A percentage in this resource: R4 says so, and its rule ras-2 holds it to 100.
                "probabilityDecimal": answered.risk * 100,
                "qualitativeRisk": {"coding": [{"system": _RISK_PROBABILITY, "code": level}]},
                "whenPeriod": {"start": mapped.discharged_on.isoformat(), "end": until.isoformat()},
                "rationale": verdict.format(threshold=texts.percent(threshold)),
            }
        ],
        "note": [{"text": note} for note in notes],
    }
    # An empty array is no FHIR.
    return {name: value for name, value in resource.items() if value != []}


def operation_outcome(refused: PredictionRefused) -> dict[str, Any]:
    """Why there is no RiskAssessment; each wrong element is an issue of its own."""
    errors = refused.errors if isinstance(refused, InvalidEncounter) else []
    code = _ISSUE_TYPES.get(refused.code, "processing")
    return _outcome(list(_issues(errors)) or [_issue(code, refused.detail)])


def failure_outcome() -> dict[str, Any]:
    """What a client is told of a bug: nothing but that it is ours."""
    return _outcome([_issue("exception", "The service has failed. Its log says why.")])


def capability_statement(base_url: str) -> dict[str, Any]:
    """What this endpoint can do, as `GET [base]/metadata` says it."""
    operation = {"name": "predict", "definition": f"{OURS}OperationDefinition/RiskAssessment-predict"}
    return {
        "resourceType": "CapabilityStatement",
        "status": "active",
        "experimental": True,
        "date": "2026-11-28",
        "kind": "instance",
        "implementation": {"description": "Readmit: risk of readmission. Not for clinical use.", "url": base_url},
        "fhirVersion": "4.0.1",
        "format": ["json"],
        "rest": [{"mode": "server", "resource": [{"type": "RiskAssessment", "operation": [operation]}]}],
    }


def _issues(errors: list[FieldError]) -> Iterator[dict[str, Any]]:
    for error in errors:
        code = "required" if error.problem.endswith(("is required", "is missing")) else "value"
        got = "" if error.value is None else f" ({error.value!r})"
        yield _issue(code, f"{error.field}{got} {error.problem}. Allowed: {error.allowed}.") | {
            "expression": [error.field]
        }


def _issue(code: str, diagnostics: str) -> dict[str, Any]:
    return {"severity": "error", "code": code, "diagnostics": diagnostics}


def _outcome(issues: list[dict[str, Any]]) -> dict[str, Any]:
    return {"resourceType": "OperationOutcome", "issue": issues}


def _reference(reference: str | None, type_: str) -> dict[str, str]:
    """A reference to what was sent; what had neither id nor fullUrl can only be named."""
    return {"type": type_} | (
        {"display": f"The {type_} that was sent"} if reference is None else {"reference": reference}
    )
