"""Reading FHIR JSON that nobody has validated: whatever it holds, nothing raises, and what is wrong is noted."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from contextlib import suppress
from datetime import date
from typing import NamedTuple

from readmit_contracts.prediction import FieldError, FieldWarning
from readmit_features.cleaning import shown

#: What is said of one request at most: a megabyte of nonsense must not become ten of complaints.
MAX_SAID = 50

_DATE = re.compile(r"([0-9]{4})(?:-([0-9]{2})(?:-([0-9]{2})(?:T[0-9:.]+(?:Z|[+-][0-9]{2}:[0-9]{2})?)?)?)?")
#: A stay has some hundreds of resources. What is read of one request has to end, however small its elements are.
MAX_REPEATS = 2_000
MAX_ELEMENTS = 50_000

_YEARS = range(1800, 2201)
_URI = re.compile(r"(?:urn:|https?://)[!-~]{1,500}")
#: In JSON a choice of types is named with its type, in FHIRPath without: `valueQuantity` is `value`.
_CHOICE = re.compile(r"(value|effective|performed|medication|dose(?!And))[A-Z]\w*")
_ID = re.compile(r"[A-Za-z0-9\-.]{1,64}")


def relative(address: str) -> str:
    """`Type/id` of an address on some server, without version; a URN or `#id` as it is."""
    if address.startswith(("#", "urn:")):
        return address
    return "/".join(address.partition("/_history/")[0].split("/")[-2:])


class Findings:
    """What is to be said about a request: errors refuse it, warnings go with the answer."""

    def __init__(self) -> None:
        self.errors: list[FieldError] = []
        self.warnings: list[FieldWarning] = []
        self.elements_left = MAX_ELEMENTS
        self._said: set[tuple[str, str]] = set()

    def refuse(self, path: str, value: object, problem: str, allowed: str) -> None:
        """Note an error at a FHIRPath; only once, though an element may be read several times."""
        if len(self.errors) < MAX_SAID and (path, problem) not in self._said:
            self._said.add((path, problem))
            self.errors.append(FieldError(field=path, value=shown(value), problem=problem, allowed=allowed))

    def warn(self, path: str, value: object, message: str) -> None:
        """Note something that was understood, but deserves a look."""
        if len(self.warnings) < MAX_SAID and (path, message) not in self._said:
            self._said.add((path, message))
            self.warnings.append(FieldWarning(field=path, value=shown(value), message=message))


class Coding(NamedTuple):
    """One coding of a concept, and where it stands."""

    system: str
    code: str
    display: str
    path: str


class Element:
    """An element of a resource and its FHIRPath. An absent one is an element too: of it, everything is absent."""

    __slots__ = ("findings", "path", "value")

    def __init__(self, value: object, path: str, findings: Findings) -> None:
        """`value`: as parsed from JSON; None where it is absent."""
        if value is not None and not isinstance(value, Mapping):
            findings.refuse(path, value, "is not an object", "an object, as FHIR R4 defines this element")
            value = None
        self.value: Mapping[str, object] = value or {}
        self.path = path
        self.findings = findings

    def __bool__(self) -> bool:
        return bool(self.value)

    def path_of(self, name: str) -> str:
        """The FHIRPath of the element of that name."""
        choice = _CHOICE.fullmatch(name)
        return f"{self.path}.{choice[1] if choice else name}"

    def child(self, name: str) -> Element:
        """The element of that name."""
        return Element(self.value.get(name), self.path_of(name), self.findings)

    def each(self, name: str) -> Iterator[Element]:
        """The elements of a repeating element."""
        found = self.value.get(name)
        path = f"{self.path}.{name}"
        if found is None:
            return
        if not isinstance(found, list):
            self.findings.refuse(path, found, "is not an array", "an array: in FHIR R4 this element repeats")
            return
        if len(found) > MAX_REPEATS:
            self.findings.refuse(path, len(found), "has too many elements", f"at most {MAX_REPEATS} elements")
            return
        self.findings.elements_left -= len(found)
        if self.findings.elements_left < 0:
            self.findings.refuse(path, None, "is too much", f"resources with {MAX_ELEMENTS} elements together")
            return
        for index, one in enumerate(found):
            yield Element(one, f"{path}[{index}]", self.findings)

    def text(self, name: str) -> str | None:
        """A text; None if it is absent, empty or something else."""
        found = self.value.get(name)
        if found is None or isinstance(found, str):
            return found or None
        self.findings.refuse(self.path_of(name), found, "is not text", "text")
        return None

    def number(self, name: str) -> float | None:
        """A number, never NaN or infinite."""
        found = self.value.get(name)
        if found is None:
            return None
        if isinstance(found, int | float) and not isinstance(found, bool) and abs(found) < 1e15:
            return float(found)
        self.findings.refuse(self.path_of(name), found, "is not a number", "a number")
        return None

    def date(self, name: str) -> date | None:
        """The day of a date, dateTime or instant, as it was at the place; the middle of a year or month without day."""
        found = self.text(name)
        if found is None:
            return None
        if match := _DATE.fullmatch(found):
            year, month, day = match.groups()
            if int(year) in _YEARS:
                with suppress(ValueError):
                    return date(int(year), int(month or 7), int(day or (15 if month else 1)))
        allowed = "a FHIR date or dateTime such as 2024-05-17 or 2024-05-17T09:30:00+02:00"
        self.findings.refuse(self.path_of(name), found, "is not a date", allowed)
        return None

    def uri(self, name: str) -> str | None:
        """An absolute address: a URN, or a URL of http or https."""
        found = self.text(name)
        if found is None or _URI.fullmatch(found):
            return found
        self.findings.refuse(self.path_of(name), found, "is not an absolute URI", "a URN or a URL")
        return None

    def codings(self) -> list[Coding]:
        """The codings of this CodeableConcept."""
        return [one.coding() for one in self.each("coding")]

    def coding(self) -> Coding:
        """This element as a coding."""
        return Coding(self.text("system") or "", self.text("code") or "", self.text("display") or "", self.path)

    def reference(self) -> str | None:
        """What this Reference points to: `Type/id` of a relative or absolute address, `#id`, or a URN."""
        target = self.text("reference")
        return None if target is None else relative(target)

    def own_reference(self) -> str | None:
        """How this resource is referred to: `Type/id`. None where it has no id."""
        type_, id_ = self.text("resourceType"), self.text("id")
        if type_ is None or id_ is None:
            return None
        if not _ID.fullmatch(id_):
            self.findings.refuse(f"{self.path}.id", id_, "is not an id", "1 to 64 letters, digits, hyphens and points")
            return None
        return f"{type_}/{id_}"
