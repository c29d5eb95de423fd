"""The data dictionary says everything that the schema says, once, and can be found one's way in."""

from __future__ import annotations

import re

from readmit_contracts.code_tables import CODE_TABLES
from readmit_contracts.data_dictionary import data_dictionary
from readmit_contracts.encounter import COLUMNS, NOT_READMITTABLE
from readmit_contracts.history import HISTORY_COLUMNS
from readmit_contracts.icd9 import INTERVALS

PAGE = data_dictionary()
LINES = PAGE.splitlines()


def cells(line: str) -> list[str]:
    return [cell.strip() for cell in line.strip("|").split("|")]


def test_every_column_has_one_row_with_its_rules() -> None:
    rows = {cells(line)[0]: line for line in LINES if line.startswith("| `")}
    assert set(rows) == {f"`{column.name}`" for column in (*COLUMNS, *HISTORY_COLUMNS)}
    for column in HISTORY_COLUMNS:
        assert column.description in rows[f"`{column.name}`"]
    for column in COLUMNS:
        row = rows[f"`{column.name}`"]
        told = [column.description, *column.allowed, column.unit or "", column.missing_marker or "", column.table_1]
        assert all(text in row for text in told), column.name
        assert ("required" in row) == column.required
        assert ("never missing" in row) == (not column.may_be_missing)


def test_every_code_and_every_group_of_diagnoses_is_listed() -> None:
    for codes in CODE_TABLES.values():
        for code in codes:
            assert f"| {code.code} | {code.label} | {code.meaning or ''} |" in LINES
    groups = {cells(line)[0] for line in LINES}
    assert {interval.group for interval in INTERVALS} <= groups


def test_who_is_set_apart_stands_there_with_the_reason() -> None:
    chapter = PAGE.partition("## Who is set apart")[2].partition("\n## ")[0]
    listed = [cells(line) for line in chapter.splitlines() if re.match(r"\| \d", line)]
    assert {int(code) for code, _, _ in listed} == NOT_READMITTABLE
    assert {reason for _, _, reason in listed} == {"death", "hospice"}


def test_every_table_is_rectangular() -> None:
    for table in re.findall(r"(?:^\|.*\n)+", PAGE, re.MULTILINE):
        assert len({len(cells(line)) for line in table.splitlines()}) == 1


def test_every_heading_is_another_one_and_every_link_has_its_heading() -> None:
    headings = [line.lstrip("#").strip().lower().replace(" ", "-") for line in LINES if line.startswith("#")]
    assert len(set(headings)) == len(headings)
    links = set(re.findall(r"\]\(#([^)]+)\)", PAGE))
    assert links
    assert links <= set(headings)
