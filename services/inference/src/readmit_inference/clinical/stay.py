"""The patient, and the stay itself: who, how admitted, how long, where to."""

from __future__ import annotations

from collections.abc import Mapping

from readmit_contracts.encounter import BY_KEY, NOT_READMITTABLE
from readmit_inference.clinical.codes import (
    GENDERS,
    HISPANIC,
    INPATIENT,
    NOT_AVAILABLE,
    NOT_MAPPED,
    OURS,
    PAYERS,
    RACES,
    TABLES,
    US_CORE_ETHNICITY,
    US_CORE_RACE,
)
from readmit_inference.clinical.elements import Element
from readmit_inference.clinical.reading import Reading
from readmit_inference.clinical.record import encounter_class

#: Days in a unit of time.
_DAYS = {"d": 1.0, "h": 1 / 24, "min": 1 / 1440, "wk": 7.0}


def read_patient(reading: Reading) -> None:
    """Gender, age band at admission, race."""
    patient = reading.record.patient
    gender = patient.text("gender")
    if gender is not None and gender in GENDERS:
        reading.set("gender", GENDERS[gender], f"{patient.path}.gender")
    elif gender is not None:
        reading.findings.refuse(f"{patient.path}.gender", gender, "is no administrative gender", ", ".join(GENDERS))
    _age(reading, patient)
    for extension in patient.each("extension"):
        url = extension.text("url")
        if url in {US_CORE_RACE, US_CORE_ETHNICITY}:
            codes = {part.child("valueCoding").coding().code for part in extension.each("extension")
                     if part.text("url") == "ombCategory"}  # fmt: skip
            if url == US_CORE_ETHNICITY and HISPANIC in codes:
                # The data set has one column: whoever is Hispanic is that there, whatever else.
                reading.values.pop("race", None)
                reading.set("race", "Hispanic", extension.path)
            elif url == US_CORE_RACE:
                races = {RACES[code] for code in codes if code in RACES}
                reading.set("race", races.pop() if len(races) == 1 else "Other" if races else None, extension.path)


def _age(reading: Reading, patient: Element) -> None:
    born, on = patient.date("birthDate"), reading.start or reading.end
    place = f"{patient.path}.birthDate"
    if born is None:
        return
    years = on.year - born.year - ((on.month, on.day) < (born.month, born.day))
    if years < 0:
        reading.findings.refuse(place, born.isoformat(), "is after the stay", "a day before the admission")
        return
    if years > 99:
        reading.findings.warn(place, None, "is a hundred years or more ago, and is read as 90 to 99 years")
    low = min(years // 10 * 10, 90)
    reading.set("age", f"[{low}-{low + 10})", place)


def read_admission(reading: Reading) -> None:
    """Type, source and disposition, specialty and payer; refuses what is no inpatient stay."""
    stay = reading.record.stay
    class_ = encounter_class(stay)
    if class_ is None:
        message = "is not of HL7's own classes: that this is an inpatient stay is taken for granted"
        reading.findings.warn(f"{stay.path}.class", stay.child("class").text("code"), message)
    elif class_ not in INPATIENT:
        allowed = ", ".join(sorted(INPATIENT))
        reading.findings.refuse(f"{stay.path}.class.code", class_, "is no inpatient stay", f"one of {allowed}")
    hospitalization = stay.child("hospitalization")
    _code(reading, "admission_type_id", stay.child("priority"))
    _code(reading, "admission_source_id", hospitalization.child("admitSource"))
    _code(reading, "discharge_disposition_id", hospitalization.child("dischargeDisposition"))
    if reading.values.get("discharge_disposition_id") in NOT_READMITTABLE:
        message = "is a discharge after which nobody is readmitted: the model has learnt from none"
        reading.findings.warn(reading.places["discharge_disposition_id"], None, message)
    service = stay.child("serviceType")
    named = [c.code for c in service.codings() if c.system == f"{OURS}medical_specialty"]
    reading.set("medical_specialty", next(iter(named), service.text("text")), service.path)
    for coverage in reading.record.of("Coverage"):
        for system, code, _, path in coverage.child("type").codings():
            reading.set("payer_code", PAYERS.get(system, {}).get(code), f"{path}.code")


def _code(reading: Reading, column: str, concept: Element) -> None:
    """A coded element: refused where a known system has no such code, "not mapped" where no system is known."""
    if column in reading.values:
        return
    for system, code, _, path in concept.codings():
        table = TABLES[column].get(system)
        if table is not None:
            if code in table:
                reading.set(column, table[code], f"{path}.code")
            else:
                reading.findings.refuse(f"{path}.code", code, "is no code of its system", ", ".join(table))
            return
    if concept:
        reading.findings.warn(
            concept.path, None, f'has no coding of a known system, and is read as "{_label(column, NOT_MAPPED)}"'
        )
        reading.set(column, NOT_MAPPED[column], concept.path)
    else:
        reading.findings.warn(concept.path, None, f'is missing, and is read as "{_label(column, NOT_AVAILABLE)}"')
        reading.set(column, NOT_AVAILABLE[column], concept.path)


def read_length(reading: Reading) -> None:
    """Length of the stay in days."""
    stay, record = reading.record.stay, reading.record
    length = stay.child("length")
    value = length.number("value")
    if value is not None:
        unit = length.text("code") or length.text("unit") or "d"
        if unit in _DAYS:
            reading.set("time_in_hospital", max(1, round(value * _DAYS[unit])), f"{length.path}.value")
        else:
            reading.findings.refuse(f"{length.path}.code", unit, "is not a unit of time", ", ".join(_DAYS))
    elif reading.start is not None:
        days = (reading.end - reading.start).days
        if days < 0:
            allowed = "a day from period.start on"
            reading.findings.refuse(f"{stay.path}.period.end", reading.end.isoformat(), "is before the start", allowed)
            return
        if record.end is None and "time_in_hospital" not in reading.values:
            reading.findings.warn(f"{stay.path}.period.end", None, "is missing: the stay is counted until today")
        reading.set("time_in_hospital", max(1, days), f"{stay.path}.period")


def _label(column: str, codes: Mapping[str, int]) -> str:
    return BY_KEY[column].labels[codes[column]]
