"""Varied encounters, written as different clients write them: the bodies of the load test.

The encounters are synthetic (`readmit_features.synthetic`), so no patient leaves the hospital for a load test.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator

from readmit_contracts.encounter import COLUMNS, Group, normalise_name
from readmit_features.synthetic import sample_columns

Body = dict[str, str | int]

_INPUTS = tuple(column for column in COLUMNS if column.group is not Group.OUTCOME)


def encounters(rows: int, seed: int) -> list[dict[str, str]]:
    """`rows` encounters as a source file has them: every column, every value as text, `?` for unknown."""
    columns = sample_columns(rows, seed)
    return [dict(zip(columns, cells, strict=True)) for cells in zip(*columns.values(), strict=True)]


def as_form(encounter: dict[str, str]) -> Body:
    """As the schema documents it: numbers as numbers, unknown left out."""
    return {
        column.name: int(value) if column.is_number else value
        for column in _INPUTS
        if (value := encounter[column.name]) != "?"
    }


def as_export(encounter: dict[str, str]) -> Body:
    """A line of the file as it stands: numbers as text, `?`, and the outcome (`<30`), which no model uses."""
    return dict(encounter)


def as_program(encounter: dict[str, str]) -> Body:
    """As code tends to write it: lower case and underscores (`a1cresult`), and ages without brackets (`50-60`)."""
    body = {normalise_name(name): value for name, value in as_form(encounter).items()}
    body["age"] = encounter["age"].strip("[)")
    return body


WRITINGS: tuple[Callable[[dict[str, str]], Body], ...] = (as_form, as_export, as_program)


def bodies(draw: random.Random, pool: list[dict[str, str]]) -> Iterator[Body]:
    """Without end: any encounter of the pool in any writing."""
    while True:
        yield draw.choice(WRITINGS)(draw.choice(pool))
