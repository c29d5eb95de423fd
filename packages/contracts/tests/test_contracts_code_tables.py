"""The code tables are those of the data set, and what a code means is what its description says."""

from __future__ import annotations

import csv
import io
import os
import zipfile

import pytest

from readmit_contracts.code_tables import CODE_TABLES, WHY_NOT_READMITTABLE, Meaning, labels, unknown_codes
from readmit_contracts.encounter import BY_KEY, COLUMNS, NOT_READMITTABLE, Kind


def test_every_column_of_codes_has_its_table_in_ascending_order() -> None:
    assert set(CODE_TABLES) == {column.key for column in COLUMNS if column.kind is Kind.CODE}
    for table, codes in CODE_TABLES.items():
        numbers = [code.code for code in codes]
        assert numbers == sorted(set(numbers))
        assert all(code.label == code.label.strip() != "" for code in codes)
        assert BY_KEY[table].labels == labels(table)
        assert BY_KEY[table].unknown_values == unknown_codes(table)


def test_nobody_is_readmitted_after_death_or_hospice() -> None:
    death, hospice = Meaning.DEATH, Meaning.HOSPICE
    expected = {11: death, 13: hospice, 14: hospice, 19: death, 20: death, 21: death}
    assert dict(WHY_NOT_READMITTABLE) == expected
    assert set(WHY_NOT_READMITTABLE) == NOT_READMITTABLE
    others = (codes for table, codes in CODE_TABLES.items() if table != "discharge_disposition_id")
    assert {code.meaning for codes in others for code in codes} == {None, Meaning.UNKNOWN}


def _described(meaning: str) -> Meaning | None:
    """What the data set's own words for a discharge mean."""
    if meaning.strip() in {"NULL", "Not Available", "Not Mapped", "Unknown/Invalid"}:
        return Meaning.UNKNOWN
    if meaning.startswith("Expired"):
        return Meaning.DEATH
    return Meaning.HOSPICE if meaning.startswith("Hospice") else None


@pytest.mark.skipif("READMIT_REAL_DATA" not in os.environ, reason="READMIT_REAL_DATA does not name the UCI zip")
def test_the_tables_hold_the_codes_of_the_data_set_with_the_meaning_of_their_description() -> None:
    with zipfile.ZipFile(os.environ["READMIT_REAL_DATA"]) as archive:
        text = archive.read("IDS_mapping.csv").decode()
    described: dict[str, dict[int, Meaning | None]] = {}
    codes: dict[int, Meaning | None] = {}
    for first, second in csv.reader(io.StringIO(text)):
        if second == "description":
            codes = described.setdefault(first, {})
        elif first:
            codes[int(first)] = _described(second)
    assert described == {table: {code.code: code.meaning for code in codes} for table, codes in CODE_TABLES.items()}
