"""The categories of ICD-9-CM as data: `icd9.csv` beside this file, intervals of categories and the group of each.

Categories are those of the last list of codes that was in force in the United States (CMS, version 32, October 2014):
between two intervals lie numbers that no disease was ever given. Groups are the rows of table 2 of Strack et al. 2014
(doi 10.1155/2014/781670), where the paper's own "other" is kept apart into the rows that it is made of.
"""

from __future__ import annotations

import csv
from dataclasses import dataclass
from importlib.resources import files


@dataclass(frozen=True, slots=True)
class Interval:
    """Categories that follow each other: `first` and `last` are inclusive, such as 390 and 398, or V01 and V37."""

    first: str
    last: str
    group: str

    @property
    def categories(self) -> tuple[str, ...]:
        """Every category between the two."""
        letter = self.first.rstrip("0123456789")
        first, last = (int(end.removeprefix(letter)) for end in (self.first, self.last))
        width = len(self.first) - len(letter)
        return tuple(f"{letter}{number:0{width}}" for number in range(first, last + 1))


def _read() -> tuple[Interval, ...]:
    text = (files("readmit_contracts") / "icd9.csv").read_text(encoding="utf-8")
    return tuple(Interval(row["first"], row["last"], row["group"]) for row in csv.DictReader(text.splitlines()))


#: In ascending order: numbers, then V (supplementary), then E (external causes).
INTERVALS: tuple[Interval, ...] = _read()
