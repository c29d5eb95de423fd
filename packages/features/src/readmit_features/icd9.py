"""ICD-9-CM codes, read at two levels of detail. Categories and groups are data of the contract."""

from __future__ import annotations

from bisect import bisect_right
from functools import lru_cache

from readmit_contracts.icd9 import INTERVALS

_NUMBERED = tuple((int(interval.first), interval.group) for interval in INTERVALS if interval.first.isdecimal())
_STARTS = tuple(start for start, _ in _NUMBERED)
_CATEGORIES = frozenset(category for interval in INTERVALS for category in interval.categories)


@lru_cache(maxsize=4096)
def group(code: str) -> str:
    """Group of a diagnosis code: "250.83" is "diabetes", "E849" "external", "V27" "supplementary"; else "other".

    A number that was never assigned goes with its neighbours below.
    """
    if code.startswith("E"):
        return "external"
    if code.startswith("V"):
        return "supplementary"
    whole = category(code)
    if not whole.isdecimal() or int(whole) < 1:
        return "other"
    return _NUMBERED[bisect_right(_STARTS, int(whole)) - 1][1]


def category(code: str) -> str:
    """The code without its decimals: "250.83" is "250"."""
    return code.partition(".")[0]


def is_known_category(code: str) -> bool:
    """Whether the code's category was ever assigned: true for "250.83", "8" and "V27", false for "019" and "V38"."""
    return category(code).zfill(3) in _CATEGORIES
