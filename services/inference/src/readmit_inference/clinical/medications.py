"""Which of the data set's drugs a medication resource names, and how the dose has changed."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from readmit_inference.clinical.codes import (
    ATC,
    ATC_DIABETES,
    ATC_INSULINS,
    BY_ATC,
    BY_RXNORM,
    COMBINATIONS,
    DRUGS,
    OURS,
    RXNORM,
)
from readmit_inference.clinical.elements import Element
from readmit_inference.clinical.reading import Reading
from readmit_inference.clinical.record import MEDICATIONS

#: Nobody got these drugs.
_NOT_GIVEN = frozenset({"entered-in-error", "cancelled", "draft", "not-taken", "intended", "not-done", "preparation"})
_NOT_ORDERED = frozenset({"proposal", "plan", "option"})
_UNITS_A_DAY = {"s": 86400.0, "min": 1440.0, "h": 24.0, "d": 1.0, "wk": 1 / 7, "mo": 1 / 30, "a": 1 / 365}

#: Other names of the same substances.
_ALSO = {"glibenclamide": "glyburide", "clorpropamide": "chlorpropamide"}
#: English and Spanish name the same stems: glimepiride and glimepirida, metformin and metformina.
_STEMS = {
    name.removesuffix("e"): drug for name, drug in (*((d, d) for d in DRUGS if "-" not in d), *_ALSO.items())
}  # fmt: skip
_NAMED = re.compile(rf"\b({'|'.join(sorted(_STEMS, key=len, reverse=True))})(?:e|a)?\b")

#: Finds the resource that a Reference in another resource points to.
Resolve = Callable[[Element, str], Element | None]


@dataclass(frozen=True, slots=True)
class Medication:
    """One drug of the stay, as one resource tells it."""

    resource: Element
    drugs: frozenset[str]  #: columns of the data set; empty for every other drug
    is_for_diabetes: bool
    identity: str  #: two resources of one identity are about one drug
    dose: str  #: `Steady`, `Up` or `Down`
    was_stopped: bool


def read_medications(reading: Reading) -> None:
    """How many drugs, which of them are for diabetes, and how their doses changed."""
    if not any(reading.record.is_known(type_) for type_ in MEDICATIONS):
        return
    of_stay = [one for type_ in sorted(MEDICATIONS) for one in reading.record.of_stay(type_)]
    given = medications_of(of_stay, reading.record.resolve)
    for_diabetes = [one for one in given if one.is_for_diabetes]
    place = f"{reading.record.where}.ofType(MedicationRequest)"
    reading.set("num_medications", len({one.identity for one in given}), place)
    reading.set("diabetesMed", "Yes" if for_diabetes else "No", place)
    has_changed = any(one.dose != "Steady" or one.was_stopped for one in for_diabetes)
    reading.set("change", "Ch" if has_changed else "No", place)
    for drug in sorted({drug for one in given for drug in one.drugs}):
        _read_dose(reading, drug, [one for one in given if drug in one.drugs])
    reading.basis.extend(one.resource for one in for_diabetes)


def _read_dose(reading: Reading, drug: str, told: list[Medication]) -> None:
    changed = [one for one in told if one.dose != "Steady"]
    if len({one.dose for one in changed}) > 1 and drug not in reading.values:
        message = f"({drug}) is raised in one prescription and lowered in another: the last one counts"
        reading.findings.warn(changed[-1].resource.path, None, message)
    last = (changed or told)[-1]
    reading.set(drug, last.dose, last.resource.path)


def medications_of(resources: Iterable[Element], resolve: Resolve) -> list[Medication]:
    """Every resource that says that a drug was given; a request that another one replaces is not counted again."""
    given = [one for one in resources if _was_given(one)]
    replaced = {id(prior.value) for one in given if (prior := _prior(one, resolve)) is not None}
    return [_read(one, resolve) for one in given if id(one.value) not in replaced]


def _was_given(resource: Element) -> bool:
    return resource.text("status") not in _NOT_GIVEN and resource.text("intent") not in _NOT_ORDERED


def _prior(resource: Element, resolve: Resolve) -> Element | None:
    reference = resource.child("priorPrescription").reference()
    return None if reference is None else resolve(resource, reference)


def _read(resource: Element, resolve: Resolve) -> Medication:
    concept = resource.child("medicationCodeableConcept")
    pointer = resource.child("medicationReference")
    reference = pointer.reference()
    if not concept and reference is not None:
        found = resolve(resource, reference)
        concept = found.child("code") if found is not None else concept
    codings = concept.codings()
    names = [name.casefold() for name in (concept.text("text"), pointer.text("display"), *(c.display for c in codings))
             if name]  # fmt: skip
    drugs: set[str] = set()
    is_for_diabetes = is_understood = False
    for system, code, _, path in codings:
        if system == f"{OURS}drug":
            if code in DRUGS:
                drugs.add(code)
            else:
                resource.findings.refuse(f"{path}.code", code, "is not a drug of the data set", _names())
        elif system == RXNORM and code in BY_RXNORM:
            drugs.add(BY_RXNORM[code])
        elif system == ATC:
            is_understood = True
            is_for_diabetes |= code.startswith(ATC_DIABETES)
            if code in BY_ATC or code.startswith(ATC_INSULINS):
                drugs.add(BY_ATC.get(code, "insulin"))
    if not drugs:
        drugs.update(_STEMS[stem] for name in names for stem in _NAMED.findall(name))
    if not drugs and not names and not is_understood:
        message = "has no name and no code of a known system: whether it is a diabetes drug can't be told"
        resource.findings.warn(resource.path, None, message)
    combination = COMBINATIONS.get(frozenset(drugs))
    columns = frozenset({combination} if combination else drugs)
    coded = next((f"{system}|{code}" for system, code, *_ in codings if code), None)
    return Medication(
        resource,
        columns,
        is_for_diabetes or bool(columns),
        "+".join(sorted(columns)) or coded or (names[0] if names else resource.path),
        _dose(resource, resolve),
        resource.text("status") == "stopped",
    )


def _names() -> str:
    return "one of " + ", ".join(sorted(DRUGS))


def _dose(resource: Element, resolve: Resolve) -> str:
    for extension in resource.each("extension"):
        if extension.text("url") == f"{OURS}dose_change":
            told = (extension.text("valueCode") or "").capitalize()
            if told in {"Steady", "Up", "Down"}:
                return told
            path = f"{extension.path}.value"
            resource.findings.refuse(path, extension.value.get("valueCode"), "is not a change", "steady, up or down")
            return "Steady"
    prior = _prior(resource, resolve)
    if prior is None:
        if resource.child("priorPrescription"):
            path = f"{resource.path}.priorPrescription"
            resource.findings.warn(path, None, "is not among the resources: the dose is read as steady")
        return "Steady"
    before, now = _daily(prior), _daily(resource)
    if before is None or now is None or before[1] != now[1]:
        path = f"{resource.path}.dosageInstruction"
        message = "can't be compared with that of the prior prescription: the dose is read as steady"
        resource.findings.warn(path, None, message)
        return "Steady"
    return "Up" if now[0] > before[0] else "Down" if now[0] < before[0] else "Steady"


def _daily(resource: Element) -> tuple[float, tuple[str, bool]] | None:
    """The dose, its unit, and whether it is a day's (else it is one dose); None where it isn't said."""
    total = 0.0
    kinds: set[tuple[str, bool]] = set()
    for instruction in resource.each("dosageInstruction"):
        repeat = instruction.child("timing").child("repeat")
        frequency, period = repeat.number("frequency"), repeat.number("period")
        a_day = _UNITS_A_DAY.get(repeat.text("periodUnit") or "")
        times = frequency * a_day / period if frequency and period and a_day else None
        for rate in instruction.each("doseAndRate"):
            quantity = rate.child("doseQuantity")
            value = quantity.number("value")
            if value is None:
                return None
            total += value * (times or 1)
            kinds.add((quantity.text("code") or quantity.text("unit") or "", times is not None))
    return (total, kinds.pop()) if len(kinds) == 1 else None
