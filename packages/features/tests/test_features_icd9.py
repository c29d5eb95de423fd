"""Whether a diagnosis names a category that was ever assigned."""

from __future__ import annotations

import csv
import os
import zipfile

import pytest
from hypothesis import given
from hypothesis import strategies as st

from readmit_contracts.encounter import BY_KEY
from readmit_contracts.icd9 import INTERVALS
from readmit_features import icd9
from readmit_features.cleaning import parse_value


@pytest.mark.parametrize(
    "code", ["428", "250.83", "8", "008.45", "38", "V27", "V37.0", "V91", "E849.7", "E000.8", "999.9", "001", "E030"]
)
def test_a_category_that_was_assigned_is_known(code: str) -> None:
    assert icd9.is_known_category(code)


@pytest.mark.parametrize(
    "code",
    ["0", "000", "19", "019.1", "113", "328", "450", "889.0", "V00", "V38", "V92", "E020", "E031", "E799", "E877.1",
     "V1", "E99", "1000", "nonsense", ""],
)  # fmt: skip
def test_a_category_that_was_never_assigned_is_not(code: str) -> None:
    assert not icd9.is_known_category(code)


def test_a_known_category_is_in_the_group_that_the_contract_says() -> None:
    for interval in INTERVALS:
        for category in interval.categories:
            assert icd9.is_known_category(category)
            assert icd9.group(category) == icd9.group(f"{category}.1") == interval.group


@given(st.text())
def test_any_text_is_known_or_not_and_only_codes_are(text: str) -> None:
    if icd9.is_known_category(text):
        assert parse_value(BY_KEY["diag_1"], icd9.category(text)).problem is None


@pytest.mark.skipif("READMIT_REAL_DATA" not in os.environ, reason="READMIT_REAL_DATA does not name the UCI zip")
def test_every_diagnosis_of_the_real_data_is_of_a_known_category() -> None:
    with zipfile.ZipFile(os.environ["READMIT_REAL_DATA"]) as archive:
        rows = csv.DictReader(archive.read("diabetic_data.csv").decode().splitlines())
        codes = {row[key] for row in rows for key in ("diag_1", "diag_2", "diag_3")}
    assert {code for code in codes - {"?"} if not icd9.is_known_category(code)} == set()
