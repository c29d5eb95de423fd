"""ICD-9-CM codes, read at two levels of detail.

The groups are the rows of table 2 of Strack et al. 2014 (doi 10.1155/2014/781670), where the paper's own "other" is
kept apart into the rows that it is made of.
"""

from __future__ import annotations

from bisect import bisect_right
from functools import lru_cache

# First code of each interval and its group; an interval ends where the next one begins.
_INTERVALS: tuple[tuple[int, str], ...] = (
    (1, "infectious"), (140, "neoplasms"), (240, "metabolic"), (250, "diabetes"), (251, "metabolic"), (280, "blood"),
    (290, "mental"), (320, "nervous"), (360, "senses"), (390, "circulatory"), (460, "respiratory"), (520, "digestive"),
    (580, "genitourinary"), (630, "pregnancy"), (680, "skin"), (710, "musculoskeletal"), (740, "congenital"),
    (760, "symptoms"), (782, "skin"), (783, "symptoms"), (785, "circulatory"), (786, "respiratory"),
    (787, "digestive"), (788, "genitourinary"), (789, "symptoms"), (800, "injury"),
)  # fmt: skip
_STARTS = tuple(start for start, _ in _INTERVALS)


@lru_cache(maxsize=4096)
def group(code: str) -> str:
    """Group of a diagnosis code: "250.83" is "diabetes", "E849" "external", "V27" "supplementary"; else "other"."""
    if code.startswith("E"):
        return "external"
    if code.startswith("V"):
        return "supplementary"
    whole = category(code)
    if not whole.isdecimal() or int(whole) < 1:
        return "other"
    return _INTERVALS[bisect_right(_STARTS, int(whole)) - 1][1]


def category(code: str) -> str:
    """The code without its decimals: "250.83" is "250"."""
    return code.partition(".")[0]
