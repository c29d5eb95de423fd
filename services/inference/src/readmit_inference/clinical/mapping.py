"""From FHIR R4 resources to one encounter as `POST /predict` takes it. Pure; docs/clinical.md holds it as a table."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import date

from readmit_contracts.encounter import BY_KEY, Group, normalise_name
from readmit_contracts.history import HISTORY
from readmit_contracts.prediction import FieldError, FieldWarning
from readmit_inference.clinical.codes import OURS
from readmit_inference.clinical.earlier_encounters import read_earlier_encounters
from readmit_inference.clinical.elements import Element, Findings
from readmit_inference.clinical.facts import read_diagnoses, read_laboratory, read_procedures
from readmit_inference.clinical.medications import read_medications
from readmit_inference.clinical.reading import Reading
from readmit_inference.clinical.record import Record, Sent
from readmit_inference.clinical.stay import read_admission, read_length, read_patient

#: Where the native value of a required column stands, for who has to be told that it is missing.
_PLACES: Mapping[str, str] = {
    "gender": "Patient.gender",
    "age": "Patient.birthDate",
    "time_in_hospital": "Encounter.period",
    "num_lab_procedures": "Observation",
    "num_procedures": "Procedure",
    "num_medications": "MedicationRequest",
    "change": "MedicationRequest",
    "diabetesMed": "MedicationRequest",
    "number_outpatient": "Encounter",
    "number_emergency": "Encounter",
    "number_inpatient": "Encounter",
    "diag_1": "Condition.code",
    "number_diagnoses": "Condition",
}


@dataclass(frozen=True, slots=True)
class Mapped:
    """One encounter read from FHIR: predict `encounter`, unless there are `errors`.

    `places` says where each field was read, as a FHIRPath. `patient`, `stay` and `basis` are references for the answer.
    """

    encounter: dict[str, object]
    places: dict[str, str]
    warnings: list[FieldWarning]
    errors: list[FieldError]
    patient: str | None
    stay: str | None
    basis: list[str]
    discharged_on: date
    where: str

    def place(self, field: str) -> str:
        """The FHIRPath of what was read for a field of `/predict`, or from where it would have been."""
        if field in self.places:
            return self.places[field]
        type_, _, element = _PLACES.get(field, "Encounter").partition(".")
        return f"{self.where}.ofType({type_})" + (f".{element}" if element else "")

    def error_there(self, error: FieldError) -> FieldError:
        """What was said of a field of `/predict`, said of the element that it was read from."""
        allowed = f"{error.allowed}; or the Encounter's extension {OURS}{error.field}"
        return FieldError(
            field=self.place(error.field),
            value=error.value,
            problem=f"({error.field}) {error.problem}",
            allowed=allowed,
        )

    def warning_there(self, warning: FieldWarning) -> FieldWarning:
        """The same for a warning."""
        message = f"({warning.field}) {warning.message}"
        return FieldWarning(field=self.place(warning.field), value=warning.value, message=message)


def map_record(
    sent: Iterable[Sent],
    findings: Findings,
    *,
    where: str,
    today: date,
    stay_id: str | None = None,
    known: frozenset[str] = frozenset(),
) -> Mapped:
    """Read one encounter from resources; never raises, whatever they hold. See `Record` for the arguments.

    `today` ends a stay whose period has no end.
    """
    record = Record(sent, findings, stay_id=stay_id, known=known, where=where)
    reading = Reading(record, today)
    if record.stay and record.patient:
        for read in _READERS:
            read(reading)
    return Mapped(
        reading.values,
        reading.places,
        findings.warnings,
        findings.errors,
        record.reference_to(record.patient),
        record.reference_to(record.stay),
        [reference for one in reading.basis if (reference := record.reference_to(one)) is not None],
        reading.end,
        where,
    )


def _read_told(reading: Reading) -> None:
    """What the Encounter's extensions and our identifiers tell."""
    stay = reading.record.stay
    for extension in stay.each("extension"):
        url = extension.text("url") or ""
        if not url.startswith(OURS):
            continue
        name = url.removeprefix(OURS)
        if name == HISTORY:
            parts = {
                part.text("url") or "": (_value(part), f"{part.path}.value") for part in extension.each("extension")
            }
            reading.set(HISTORY, {key: value for key, (value, _) in parts.items()}, extension.path)
            reading.places |= {f"{HISTORY}.{key}": place for key, (_, place) in parts.items()}
        else:
            column = BY_KEY.get(normalise_name(name))
            if column is None or column.group is Group.OUTCOME:
                reading.findings.warn(f"{extension.path}.url", url, "is no field of /predict, and was ignored")
            else:
                reading.set(column.name, _value(extension), f"{extension.path}.value")
    for resource, key in ((reading.record.patient, "patient_nbr"), (stay, "encounter_id")):
        for identifier in resource.each("identifier"):
            if identifier.text("system") == f"{OURS}{key}":
                reading.set(key, identifier.text("value"), f"{identifier.path}.value")


def _value(extension: Element) -> object:
    """The value[x] of an extension, whatever its type."""
    return next((value for name, value in extension.value.items() if name.startswith("value")), None)


_READERS = (
    _read_told,
    read_patient,
    read_admission,
    read_length,
    read_diagnoses,
    read_laboratory,
    read_procedures,
    read_medications,
    read_earlier_encounters,
)
