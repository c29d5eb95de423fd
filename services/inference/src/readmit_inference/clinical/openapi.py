"""The clinical endpoints in the OpenAPI document: shapes of what is taken and answered, with real examples."""

from __future__ import annotations

from typing import Any

from readmit_inference import problems
from readmit_inference.clinical import cds_hooks, example, risk_assessment

Responses = dict[int | str, dict[str, Any]]

_TEXT: dict[str, Any] = {"type": "string", "minLength": 1}
_REFERENCE = {"type": "object", "properties": {"reference": _TEXT, "type": _TEXT, "display": _TEXT}}
_RESOURCE = {"type": "object", "properties": {"resourceType": _TEXT}, "required": ["resourceType"]}
_BUNDLE: dict[str, Any] = {
    "type": "object",
    "properties": {
        "resourceType": {"const": "Bundle"},
        "type": {"type": "string", "enum": ["collection", "searchset"]},
        "entry": {
            "type": "array",
            "items": {
                "type": "object",
                "properties": {"fullUrl": {"type": "string", "format": "uri"}, "resource": _RESOURCE},
                "required": ["resource"],
            },
        },
    },
    "required": ["resourceType", "type", "entry"],
}
_SEARCHSET = _BUNDLE | {"required": ["resourceType", "type"]}
_RISK_ASSESSMENT: dict[str, Any] = {
    "type": "object",
    "description": "FHIR R4 RiskAssessment",
    "properties": {
        "resourceType": {"const": "RiskAssessment"},
        "id": {"type": "string", "format": "uuid", "description": "the prediction's id"},
        "status": {"const": "final"},
        "contained": {"type": "array", "items": _RESOURCE, "description": "the model, as a Device"},
        "subject": _REFERENCE,
        "encounter": _REFERENCE,
        "basis": {"type": "array", "items": _REFERENCE, "minItems": 1},
        "prediction": {
            "type": "array",
            "minItems": 1,
            "maxItems": 1,
            "items": {
                "type": "object",
                "properties": {
                    "probabilityDecimal": {
                        "type": "number",
                        "minimum": 0,
                        "maximum": 100,
                        "description": "calibrated probability, in percent",
                    },
                    "qualitativeRisk": {"type": "object"},
                    "whenPeriod": {
                        "type": "object",
                        "properties": {
                            "start": {"type": "string", "format": "date"},
                            "end": {"type": "string", "format": "date"},
                        },
                        "required": ["start", "end"],
                    },
                },
                "required": ["outcome", "probabilityDecimal", "qualitativeRisk", "whenPeriod"],
            },
        },
    },
    "required": ["resourceType", "id", "status", "subject", "encounter", "method", "prediction", "note"],
}
_OPERATION_OUTCOME: dict[str, Any] = {
    "type": "object",
    "description": "FHIR R4 OperationOutcome",
    "properties": {
        "resourceType": {"const": "OperationOutcome"},
        "issue": {
            "type": "array",
            "minItems": 1,
            "items": {
                "type": "object",
                "properties": {
                    "severity": {"const": "error"},
                    "code": _TEXT,
                    "diagnostics": _TEXT,
                    "expression": {"type": "array", "items": _TEXT, "description": "FHIRPath of the element"},
                },
                "required": ["severity", "code", "diagnostics"],
            },
        },
    },
    "required": ["resourceType", "issue"],
}
_CALL: dict[str, Any] = {
    "type": "object",
    "properties": {
        "hook": {"const": cds_hooks.HOOK},
        "hookInstance": {"type": "string", "format": "uuid"},
        "context": {
            "type": "object",
            "properties": {"userId": _TEXT, "patientId": _TEXT, "encounterId": _TEXT},
            "required": ["userId", "patientId", "encounterId"],
        },
        "prefetch": {
            "type": "object",
            "properties": {
                key: _RESOURCE if key in {"patient", "encounter"} else {"anyOf": [_SEARCHSET, {"type": "null"}]}
                for key in cds_hooks.PREFETCH
            },
        },
    },
    "required": ["hook", "hookInstance", "context"],
}
_CARDS: dict[str, Any] = {
    "type": "object",
    "properties": {
        "cards": {
            "type": "array",
            "minItems": 1,
            "maxItems": 1,
            "items": {
                "type": "object",
                "properties": {
                    "uuid": {"type": "string", "format": "uuid"},
                    "summary": {"type": "string", "maxLength": 139},
                    "detail": _TEXT,
                    "indicator": {"type": "string", "enum": ["info", "warning"]},
                    "source": {"type": "object", "properties": {"label": _TEXT}, "required": ["label"]},
                },
                "required": ["uuid", "summary", "detail", "indicator", "source"],
            },
        }
    },
    "required": ["cards"],
}


def fhir_request() -> dict[str, Any]:
    """The body of the FHIR operation."""
    value = example.example_bundle()
    content = {"schema": _BUNDLE, "examples": {"stay": {"summary": "A stay as a Bundle", "value": value}}}
    return {"requestBody": {"required": True, "content": {risk_assessment.MEDIA_TYPE: content}}}


def cds_request() -> dict[str, Any]:
    """The body of a hook call."""
    value = example.example_call()
    content = {"schema": _CALL, "examples": {"discharge": {"summary": "A discharge, data prefetched", "value": value}}}
    return {"requestBody": {"required": True, "content": {"application/json": content}}}


def fhir_responses() -> Responses:
    """The answers of the FHIR operation: the statuses of `/predict`, with OperationOutcomes."""
    refusals = {
        status: {"description": response["description"], **_fhir(_OPERATION_OUTCOME)}
        for status, response in problems.openapi_responses().items()
    }
    return {200: {"description": "The risk", **_fhir(_RISK_ASSESSMENT)}, **refusals}


def metadata_responses() -> Responses:
    """The answer of `/fhir/metadata`."""
    return {200: {"description": "CapabilityStatement", **_fhir(_RESOURCE)}}


def cds_responses() -> Responses:
    """The answers of a hook call: those of `/predict`, and 412."""
    schema = {"schema": {"$ref": "#/components/schemas/Problem"}}
    missing = {"description": "Prefetch data is missing", "content": {problems.MEDIA_TYPE: schema}}
    cards = {"description": "One card", "content": {"application/json": {"schema": _CARDS}}}
    return {200: cards, **problems.openapi_responses(), 412: missing}


def discovery_responses() -> Responses:
    """The answer of discovery."""
    content = {"schema": {"type": "object", "required": ["services"]}, "example": cds_hooks.discovery()}
    return {200: {"description": "The one service", "content": {"application/json": content}}}


def _fhir(schema: dict[str, Any]) -> dict[str, Any]:
    return {"content": {risk_assessment.MEDIA_TYPE: {"schema": schema}}}
