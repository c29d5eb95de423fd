"""The code tables of IDS_mapping.csv as data: `codes.csv` beside this file, in our wording.

A code may mean something beyond its label: that nobody knows ("Null", "Not mapped"), or that the patient cannot come
back. A test holds the codes and meanings against the data set's own file.
"""

from __future__ import annotations

import csv
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from importlib.resources import files
from types import MappingProxyType


class Meaning(StrEnum):
    """What a code says beyond its label."""

    UNKNOWN = "unknown"  #: the hospital did not say, or what it said could not be mapped
    DEATH = "death"
    HOSPICE = "hospice"


@dataclass(frozen=True, slots=True)
class Code:
    """One row of a code table."""

    code: int
    label: str
    meaning: Meaning | None


def _read() -> dict[str, tuple[Code, ...]]:
    tables: dict[str, list[Code]] = {}
    text = (files("readmit_contracts") / "codes.csv").read_text(encoding="utf-8")
    for row in csv.DictReader(text.splitlines()):
        meaning = Meaning(row["meaning"]) if row["meaning"] else None
        tables.setdefault(row["table"], []).append(Code(int(row["code"]), row["label"], meaning))
    return {table: tuple(codes) for table, codes in tables.items()}


#: Codes by the key of their column, in ascending order.
CODE_TABLES: Mapping[str, tuple[Code, ...]] = MappingProxyType(_read())


def labels(table: str) -> Mapping[int, str]:
    """Code → label of one table."""
    return MappingProxyType({code.code: code.label for code in CODE_TABLES[table]})


def unknown_codes(table: str) -> tuple[int, ...]:
    """Codes that stand for "we do not know"."""
    return tuple(code.code for code in CODE_TABLES[table] if code.meaning is Meaning.UNKNOWN)


#: Discharges after which nobody can be readmitted, and why. Such encounters are set apart from modelling.
WHY_NOT_READMITTABLE: Mapping[int, Meaning] = MappingProxyType(
    {
        code.code: meaning
        for code in CODE_TABLES["discharge_disposition_id"]
        for meaning in (Meaning.DEATH, Meaning.HOSPICE)
        if code.meaning is meaning
    }
)
