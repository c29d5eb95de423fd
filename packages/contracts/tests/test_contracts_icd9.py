"""The categories of ICD-9-CM: intervals in order, without overlap, each in one group."""

from __future__ import annotations

from itertools import pairwise

from readmit_contracts.icd9 import INTERVALS, Interval


def test_intervals_are_in_order_and_do_not_overlap() -> None:
    def place(category: str) -> tuple[str, int]:
        letter = category.rstrip("0123456789")
        # Numbers, then V, then E.
        return {"": "0", "V": "1", "E": "2"}[letter], int(category.removeprefix(letter))

    ends = [place(end) for interval in INTERVALS for end in (interval.first, interval.last)]
    assert ends == sorted(ends)
    assert all(
        place(one.last) < place(next_one.first) for one, next_one in pairwise(INTERVALS)
    )  # fmt: skip


def test_an_interval_spells_its_categories_in_full() -> None:
    assert Interval("008", "011", "infectious").categories == ("008", "009", "010", "011")
    assert Interval("V37", "V39", "supplementary").categories == ("V37", "V38", "V39")
    assert Interval("250", "250", "diabetes").categories == ("250",)


def test_the_classification_has_1234_categories_in_20_groups() -> None:
    categories = [category for interval in INTERVALS for category in interval.categories]
    assert len(set(categories)) == len(categories) == 1234
    assert len({interval.group for interval in INTERVALS}) == 20
