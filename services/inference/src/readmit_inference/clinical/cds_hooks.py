"""The CDS Hooks 2.0 face: discovery, the call at discharge, and the card. https://cds-hooks.hl7.org/2.0/"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from datetime import date
from typing import Any
from uuid import UUID

from readmit_contracts.prediction import FieldWarning
from readmit_inference.clinical.codes import OURS
from readmit_inference.clinical.elements import Element, Findings
from readmit_inference.clinical.mapping import Mapped, map_record
from readmit_inference.clinical.record import Sent
from readmit_inference.clinical.texts import ENGLISH, Texts
from readmit_inference.domain import Answered
from readmit_inference.errors import InvalidEncounter, PredictionRefused

SERVICE_ID = "readmission-risk"
HOOK = "encounter-discharge"
_OF_STAY = "patient={{context.patientId}}&encounter={{context.encounterId}}"

#: Prefetch key → query. Only what CDS Hooks recommends: reads, and searches by reference, token, _sort and _count.
PREFETCH: Mapping[str, str] = {
    "patient": "Patient/{{context.patientId}}",
    "encounter": "Encounter/{{context.encounterId}}",
    "conditions": f"Condition?{_OF_STAY}",
    "laboratory": f"Observation?{_OF_STAY}&category=laboratory",
    "procedures": f"Procedure?{_OF_STAY}",
    "medications": f"MedicationRequest?{_OF_STAY}",
    "encounters": "Encounter?patient={{context.patientId}}&_sort=-date&_count=100",
    "coverage": "Coverage?patient={{context.patientId}}&status=active",
}
#: What each of them makes known in full.
_MAKES_KNOWN: Mapping[str, str] = {
    "conditions": "Condition",
    "laboratory": "Observation",
    "procedures": "Procedure",
    "medications": "MedicationRequest",
    "encounters": "Encounter",
}
_READS = frozenset({"patient", "encounter"})
_OPTIONAL = frozenset({"coverage"})
#: Asked for in part: the newest hundred are enough for a year.
_IN_PART = frozenset({"encounters", "coverage"})


class MissingPrefetch(PredictionRefused):
    """Data that the service needs did not come with the call, and it fetches nothing itself: HTTP 412."""

    code = "missing_prefetch"


def discovery() -> dict[str, Any]:
    """The answer of `GET /cds-services`."""
    return {
        "services": [
            {
                "hook": HOOK,
                "title": "Risk of readmission within 30 days",
                "description": "At the discharge of a patient with diabetes: the calibrated risk of readmission within "
                f"30 days, as information. {ENGLISH.not_clinical}",
                "id": SERVICE_ID,
                "prefetch": dict(PREFETCH),
                "usageRequirements": "Diagnoses coded in ICD-9-CM. All prefetch keys but `coverage` have to come: the "
                "service fetches nothing itself, and suggests, changes and overrides nothing.",
            }
        ]
    }


def read_call(body: Mapping[str, object], today: date) -> Mapped:
    """The encounter of a hook call. Raises `MissingPrefetch`, and `InvalidEncounter` for what is no call at all."""
    findings = Findings()
    call = Element(body, "call", findings)
    context = Element(body.get("context"), "context", findings)
    patient_id, encounter_id = _check(call, context, findings)
    prefetch = Element(body.get("prefetch"), "prefetch", findings)
    if findings.errors:
        raise InvalidEncounter(findings.errors)
    given = _given(prefetch)
    sent = list(_sent(given))
    for one, _ in sent:
        if one.path == "prefetch.patient" and one.text("id") != patient_id:
            findings.refuse("prefetch.patient.id", one.value.get("id"), "is not context.patientId", "the patient's id")
    known = frozenset(type_ for key, type_ in _MAKES_KNOWN.items() if key in prefetch.value)
    return map_record(sent, findings, where="prefetch", today=today, stay_id=encounter_id, known=known)


def card(answered: Answered, warnings: list[FieldWarning], texts: Texts) -> dict[str, Any]:
    """One card: information, never a suggestion, an action or an override."""
    named, threshold = answered.serving.named, texts.percent(answered.serving.model.threshold)
    verdict = texts.above if answered.readmitted_within_30_days else texts.below
    detail = [verdict.format(threshold=threshold)]
    if not answered.used_history:
        detail.append(texts.unknown_history)
    if warnings:
        detail.append("\n".join([texts.look, "", *(f"- `{one.field}` {one.message}" for one in warnings)]))
    if named.synthetic:
        detail.append(f"**{texts.synthetic}**")
    detail.append(f"**{texts.not_clinical}**")
    detail.append(texts.answered_by.format(name=named.name, version=named.version))
    return {
        "uuid": answered.prediction_id,
        "summary": texts.summary.format(risk=texts.percent(answered.risk), threshold=threshold),
        "detail": "\n\n".join(detail),
        "indicator": "warning" if answered.readmitted_within_30_days else "info",
        "source": {
            "label": texts.source,
            "topic": {"system": f"{OURS}topic", "code": "readmission-risk", "display": texts.outcome},
        },
    }


def _check(call: Element, context: Element, findings: Findings) -> tuple[str | None, str | None]:
    """What CDS Hooks requires of a call; the ids of patient and encounter."""
    hook = call.value.get("hook")
    if hook != HOOK:
        findings.refuse("hook", hook, "is not the hook of this service", HOOK)
    instance = call.value.get("hookInstance")
    try:
        UUID(instance if isinstance(instance, str) else "")
    except ValueError:
        findings.refuse("hookInstance", instance, "is not a UUID", "a UUID of this call")
    ids = []
    for name in ("userId", "patientId", "encounterId"):
        found = context.text(name)
        if found is None:
            findings.refuse(f"context.{name}", context.value.get(name), "is required", "the id, as text")
        ids.append(found)
    return ids[1], ids[2]


def _given(prefetch: Element) -> list[tuple[str, Element]]:
    """What came for each key. A search may be answered with null (nothing found), a read may not."""
    missing: list[str] = []
    given: list[tuple[str, Element]] = []
    for key in PREFETCH:
        element = prefetch.child(key)
        has_failed = _has_failed(element)
        if key in _OPTIONAL and (not element or has_failed):
            continue
        if key not in prefetch.value:
            missing.append(f"{key} did not come")
        elif has_failed:
            missing.append(f"{key} holds an OperationOutcome")
        elif key in _READS and not element:
            missing.append(f"{key} is null")
        elif key not in _IN_PART and any(link.text("relation") == "next" for link in element.each("link")):
            missing.append(f"{key} is one page of several")
        else:
            given.append((key, element))
    if missing and not prefetch.findings.errors:
        detail = "; ".join(f"{one} ({PREFETCH[one.split()[0]]})" for one in missing)
        raise MissingPrefetch(f"Needed prefetch data is missing, and this service fetches nothing itself: {detail}.")
    return given


def _sent(given: list[tuple[str, Element]]) -> Iterator[Sent]:
    for key, element in given:
        if key in _READS:
            found = [Sent(element, None)]
        else:
            if element and element.text("resourceType") != "Bundle":
                element.findings.refuse(element.path, element.value.get("resourceType"), "is not a Bundle",
                                        "a Bundle of type searchset, or null where nothing was found")  # fmt: skip
            found = [Sent(entry.child("resource"), entry.uri("fullUrl")) for entry in element.each("entry")]
        yield from found


def _has_failed(element: Element) -> bool:
    """Whether the client says that it could not prefetch: an OperationOutcome instead of the data, or among them."""
    if element.value.get("resourceType") == "OperationOutcome":
        return True
    return any(
        issue.text("severity") in {"error", "fatal"}
        for entry in (element.each("entry") if element.value.get("resourceType") == "Bundle" else ())
        if entry.child("resource").value.get("resourceType") == "OperationOutcome"
        for issue in entry.child("resource").each("issue")
    )
