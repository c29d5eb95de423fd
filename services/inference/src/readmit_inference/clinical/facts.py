"""Diagnoses, laboratory tests and procedures of the stay."""

from __future__ import annotations

import re
from collections.abc import Mapping

from readmit_inference.clinical.codes import GLUCOSE, HBA1C, ICD9, LOINC, OBSERVATION_CATEGORY
from readmit_inference.clinical.elements import Element
from readmit_inference.clinical.reading import Reading

_NOT_TRUE = frozenset({"refuted", "entered-in-error"})
_NOT_DONE = frozenset({"entered-in-error", "cancelled", "registered", "not-done", "preparation"})
_MEASURED = ("effectiveDateTime", "effectivePeriod", "effectiveInstant")
#: Factor and offset to the data set's unit, by the value's unit in small letters.
_GLUCOSE_UNITS = {"mg/dl": (1.0, 0.0), "mmol/l": (18.016, 0.0)}
_HBA1C_UNITS = {"%": (1.0, 0.0), "mmol/mol": (0.09148, 2.152)}  # IFCC to NGSP
_ICD9_WITHOUT_POINT = re.compile(r"(\d{3}|V\d{2}|E\d{3})(\d{1,2})", re.IGNORECASE)


def read_diagnoses(reading: Reading) -> None:
    """The first three ICD-9-CM codes, and how many diagnoses there are."""
    ranked, conditions = _conditions(reading)
    if not reading.record.is_known("Condition"):
        return
    codes: dict[str, str] = {}
    for index, condition in enumerate(conditions):
        coding = next((c for c in condition.child("code").codings() if c.system in ICD9 and c.code), None)
        path = f"{condition.path}.code"
        if coding is not None:
            written = _ICD9_WITHOUT_POINT.fullmatch(coding.code)
            code = ".".join(written.groups()) if written else coding.code
            if code not in codes:
                codes[code] = f"{coding.path}.code"
                reading.basis.append(condition)
        elif index == 0 and ranked and "diag_1" not in reading.values:
            allowed = f"a coding of {min(ICD9)}; a terminology server translates ICD-10-CM to it"
            reading.findings.refuse(path, None, "has no ICD-9-CM code, which the primary diagnosis needs", allowed)
            return
        else:
            reading.findings.warn(path, None, "has no ICD-9-CM code: the diagnosis is counted, but not read")
    for column, (code, place) in zip(("diag_1", "diag_2", "diag_3"), codes.items(), strict=False):
        reading.set(column, code, place)
    uncoded = sum(not any(c.system in ICD9 for c in one.child("code").codings()) for one in conditions)
    reading.set("number_diagnoses", len(codes) + uncoded, f"{reading.record.where}.ofType(Condition)")


def _conditions(reading: Reading) -> tuple[bool, list[Element]]:
    """Whether they are ranked, and the conditions: those that the Encounter names by rank, then the stay's others."""
    record = reading.record
    named: list[tuple[float, Element]] = []
    ranked = False
    for diagnosis in record.stay.each("diagnosis"):
        rank = diagnosis.number("rank")
        ranked |= rank is not None
        reference = diagnosis.child("condition").reference()
        condition = None if reference is None else record.resolve(record.stay, reference)
        if condition is not None:
            named.append((float("inf") if rank is None else rank, condition))
        elif reference is not None:
            reading.findings.warn(f"{diagnosis.path}.condition", None, "is not among the resources, and was not read")
    in_order = [condition for _, condition in sorted(named, key=lambda one: one[0])]
    every = {id(one.value): one for one in (*in_order, *record.of_stay("Condition"))}
    true = [
        one for one in every.values()
        if not any(c.code in _NOT_TRUE for c in one.child("verificationStatus").codings())
    ]  # fmt: skip
    return ranked, true


def read_laboratory(reading: Reading) -> None:
    """How many laboratory tests, and the bands of glucose and HbA1c."""
    tests = [
        one for one in reading.record.of_stay("Observation", *_MEASURED)
        if one.text("status") not in _NOT_DONE and _is_laboratory(one)
    ]  # fmt: skip
    if reading.record.is_known("Observation"):
        reading.set("num_lab_procedures", len(tests), f"{reading.record.where}.ofType(Observation)")
    else:
        for column in ("max_glu_serum", "A1Cresult"):
            if column not in reading.values:
                reading.findings.warn(f"{reading.record.where}.ofType(Observation)", None,
                                   f"({column}) none was sent: the test is read as not measured")  # fmt: skip
    _highest(reading, "max_glu_serum", tests, GLUCOSE, _GLUCOSE_UNITS, (200, 300))
    _highest(reading, "A1Cresult", tests, HBA1C, _HBA1C_UNITS, (7, 8))


def _highest(
    reading: Reading,
    column: str,
    tests: list[Element],
    codes: frozenset[str],
    units: Mapping[str, tuple[float, float]],
    bounds: tuple[int, int],
) -> None:
    """The band of the highest value that was measured during the stay."""
    measured: list[tuple[float, Element]] = []
    for test in tests:
        if not _is_coded(test, codes):
            continue
        quantity = test.child("valueQuantity")
        value = quantity.number("value")
        if value is None:
            continue
        unit = quantity.text("code") or quantity.text("unit") or ""
        if unit.casefold() not in units:
            reading.findings.refuse(f"{quantity.path}.code", unit, "is not a unit of this test", " or ".join(units))
            continue
        factor, offset = units[unit.casefold()]
        measured.append((value * factor + offset, test))
    if measured:
        value, test = max(measured, key=lambda one: one[0])
        band = next((f">{bound}" for bound in reversed(bounds) if value > bound), "Norm")
        reading.set(column, band, f"{test.path}.value.value")
        reading.basis.append(test)


def read_procedures(reading: Reading) -> None:
    """How many procedures."""
    if reading.record.is_known("Procedure"):
        done = [
            one for one in reading.record.of_stay("Procedure", "performedDateTime", "performedPeriod")
            if one.text("status") not in _NOT_DONE
        ]  # fmt: skip
        reading.set("num_procedures", len(done), f"{reading.record.where}.ofType(Procedure)")


def _is_laboratory(observation: Element) -> bool:
    return _is_coded(observation, GLUCOSE | HBA1C) or any(
        system == OBSERVATION_CATEGORY and code == "laboratory"
        for category in observation.each("category")
        for system, code, *_ in category.codings()
    )


def _is_coded(observation: Element, codes: frozenset[str]) -> bool:
    return any(system == LOINC and code in codes for system, code, *_ in observation.child("code").codings())
