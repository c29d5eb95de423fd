"""The resources that were sent, found by type and by reference; which patient and which stay they are about."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import date
from typing import NamedTuple

from readmit_inference.clinical.codes import ACT_CODE
from readmit_inference.clinical.elements import Element, Findings, relative

#: Whatever says that a drug was given.
MEDICATIONS = frozenset({"MedicationRequest", "MedicationStatement", "MedicationAdministration"})
_NEVER_HAPPENED = frozenset({"planned", "cancelled", "entered-in-error"})
#: Where a resource says whose it is, and during which encounter it came about.
_OF_PATIENT = ("subject", "patient", "beneficiary")
_OF_ENCOUNTER = ("encounter", "context")
_READ = MEDICATIONS | {"Patient", "Encounter", "Condition", "Observation", "Procedure", "Coverage", "Medication"}


class Sent(NamedTuple):
    """A resource and, where it came in a Bundle's entry, the entry's fullUrl."""

    resource: Element
    full_url: str | None


class Record:
    """What was sent. `patient` and `stay` are empty elements where they can't be told, and the findings say so."""

    def __init__(
        self, sent: Iterable[Sent], findings: Findings, *, stay_id: str | None, known: frozenset[str], where: str
    ) -> None:
        """`stay_id`: id of the Encounter to be assessed, else the newest; `where`: path of the whole, for findings.

        `known`: kinds of resource (`Procedure`, …) of which all that exist are here, so that none means zero.
        """
        self.findings = findings
        self.where = where
        self.known = known
        self._by_type: dict[str, list[Element]] = {}
        self._by_reference: dict[str, Element] = {}
        self._full_urls: dict[int, str] = {}
        for resource, full_url in sent:
            type_ = resource.text("resourceType")
            if type_ not in _READ:
                continue
            names = {resource.own_reference(), None if full_url is None else relative(full_url)} - {None}
            if names & self._by_reference.keys():
                continue  # sent twice: a stay is also among its patient's encounters
            self._by_type.setdefault(type_, []).append(resource)
            self._by_reference |= {name: resource for name in names if name is not None}
            if full_url is not None:
                self._full_urls[id(resource.value)] = full_url
        self.patient = self._only_patient()
        self.encounters = [e for e in self.of("Encounter") if e.text("status") not in _NEVER_HAPPENED]
        self.stay = self._chosen_stay(stay_id)
        period = self.stay.child("period")
        self.start: date | None = period.date("start")
        self.end: date | None = period.date("end")
        self._check_patient()

    def of(self, type_: str) -> list[Element]:
        """All resources of a type."""
        return self._by_type.get(type_, [])

    def of_stay(self, type_: str, *dates: str) -> list[Element]:
        """Those that came about during the stay, as far as can be told.

        What names another encounter is left out, and so is what names none and lies outside the stay by one of `dates`.
        """
        return [one for one in self.of(type_) if self._is_of_stay(one, dates)]

    def is_known(self, type_: str) -> bool:
        """Whether the absence of such resources means that there are none."""
        return type_ in self.known or bool(self.of(type_))

    def resolve(self, container: Element, reference: str) -> Element | None:
        """The resource that a reference in `container` points to, if it is here."""
        if reference.startswith("#"):
            contained = container.each("contained")
            return next((one for one in contained if one.value.get("id") == reference[1:]), None)
        return self._by_reference.get(reference)

    def reference_to(self, resource: Element) -> str | None:
        """How an answer may refer to a resource; None where it has neither id nor fullUrl."""
        return resource.own_reference() or self._full_urls.get(id(resource.value))

    def _only_patient(self) -> Element:
        patients = self.of("Patient")
        if len(patients) == 1:
            return patients[0]
        problem = "is missing" if not patients else "is not one patient"
        self.findings.refuse(f"{self.where}.ofType(Patient)", None, problem, "exactly one Patient")
        return Element(None, f"{self.where}.ofType(Patient)", self.findings)

    def _chosen_stay(self, stay_id: str | None) -> Element:
        nothing = Element(None, f"{self.where}.ofType(Encounter)", self.findings)
        if stay_id is not None:
            found = self._by_reference.get(f"Encounter/{stay_id}", nothing)
        elif len(self.encounters) == 1:
            found = self.encounters[0]
        else:
            dated = [(start, one) for one in self.encounters if (start := one.child("period").date("start"))]
            last = max((start for start, _ in dated), default=None)
            newest = [one for start, one in dated if start == last]
            found = newest[0] if len(newest) == 1 else nothing
        if not found:
            allowed = "one Encounter, or several of which one has the newest period.start: that one is assessed"
            self.findings.refuse(nothing.path, None, "is missing, or it can't be told which is meant", allowed)
        return found

    def _check_patient(self) -> None:
        """Refuse what is another patient's: mixing two patients up is the worst that could be done here."""
        ours = self._names_of(self.patient)
        if not ours:
            return
        for resource in (one for type_ in self._by_type if type_ != "Patient" for one in self.of(type_)):
            for name in _OF_PATIENT:
                if name not in resource.value:
                    continue
                whose = resource.child(name).reference()
                if (
                    whose is not None
                    and whose not in ours
                    and (whose.startswith("Patient/") or whose in self._by_reference)
                ):
                    path = f"{resource.path}.{name}.reference"
                    self.findings.refuse(path, whose, "is another patient", " or ".join(sorted(ours)))

    def _is_of_stay(self, resource: Element, dates: tuple[str, ...]) -> bool:
        for name in _OF_ENCOUNTER:
            if name in resource.value and (encounter := resource.child(name).reference()) is not None:
                return encounter in self._names_of(self.stay) or not (
                    encounter.startswith("Encounter/") or encounter in self._by_reference
                )
        day = next((day for name in dates if (day := _day(resource, name)) is not None), None)
        if day is None:
            return True
        return (self.start is None or day >= self.start) and (self.end is None or day <= self.end)

    def _names_of(self, resource: Element) -> set[str]:
        full_url = self._full_urls.get(id(resource.value))
        names = {resource.own_reference(), None if full_url is None else relative(full_url)}
        return {name for name in names if name is not None}


def encounter_class(encounter: Element) -> str | None:
    """The code of HL7's own class of encounters (`IMP`, `EMER`, …); None for a class of another system."""
    system, code, *_ = encounter.child("class").coding()
    return code if system in {ACT_CODE, ""} and code else None


def _day(resource: Element, name: str) -> date | None:
    """The day of a dateTime, or on which a Period began."""
    value = resource.value.get(name)
    return resource.child(name).date("start") if isinstance(value, Mapping) else resource.date(name)
