"""Encounters in the forms that a batch may be sent in."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from typing import Any, Final

import orjson

from readmit_contracts.encounter import COLUMNS, Group, example_encounter
from readmit_contracts.history import HISTORY, example_history

NAMES: Final = [column.name for column in COLUMNS if column.group is not Group.OUTCOME]
#: With all names that an encounter can have.
USUAL: Final[dict[str, Any]] = {**example_encounter(), HISTORY: example_history()}


def as_csv(rows: Sequence[dict[str, Any]], names: Sequence[str] = NAMES) -> bytes:
    text = io.StringIO()
    writer = csv.DictWriter(text, names, lineterminator="\r\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue().encode()


def as_ndjson(rows: Sequence[Any]) -> bytes:
    return b"".join(orjson.dumps(row) + b"\n" for row in rows)
