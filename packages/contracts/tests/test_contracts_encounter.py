"""The encounter schema is complete and says of itself what the study says."""

from __future__ import annotations

from dataclasses import fields, replace
from typing import Any

import pytest

from readmit_contracts.code_tables import CODE_TABLES, Meaning
from readmit_contracts.encounter import (
    BY_KEY,
    COLUMNS,
    DRUG_KEYS,
    FEATURE_COLUMNS,
    MISSING_MARKERS,
    Column,
    Document,
    Group,
    Kind,
    example_encounter,
    json_schema,
    normalise_name,
    schema_sha256,
)


def test_all_fifty_columns_are_declared_once() -> None:
    assert len(COLUMNS) == len(BY_KEY) == 50
    assert len(DRUG_KEYS) == 23


def test_identifiers_audit_fields_and_the_outcome_are_never_features() -> None:
    names = {column.key for column in FEATURE_COLUMNS}
    assert not names & {"encounter_id", "patient_nbr", "race", "weight", "readmitted"}


def test_every_column_says_what_it_allows() -> None:
    for column in COLUMNS:
        if column.kind is Kind.CLOSED:
            assert column.allowed
        if column.kind is Kind.CODE:
            assert column.labels
        if column.kind in {Kind.COUNT, Kind.IDENTIFIER}:
            assert column.low is not None
            assert column.high is not None


def test_every_column_says_where_it_is_described() -> None:
    for column in COLUMNS:
        documents = [source.document for source in column.sources]
        assert documents[:2] == [Document.UCI, Document.STRACK]
        assert (Document.CODES in documents) == (column.kind is Kind.CODE)
        assert column.description
        assert all(source.name for source in column.sources)


def test_counts_and_bands_have_a_unit() -> None:
    assert all(column.unit for column in COLUMNS if column.kind is Kind.COUNT)
    assert all(column.unit for column in COLUMNS if any(value.startswith("[") for value in column.allowed))


def test_missing_not_measured_and_unknown_are_three_things() -> None:
    for column in COLUMNS:
        known = {*column.allowed, *column.labels}
        assert column.missing_marker is None or column.missing_marker in MISSING_MARKERS
        assert column.not_measured is None or column.not_measured in known
        assert set(column.unknown_values) <= known
        assert not {str(value).casefold() for value in known} & MISSING_MARKERS
    assert {column.key for column in COLUMNS if column.not_measured} == {"max_glu_serum", "a1cresult"}
    assert {column.key for column in COLUMNS if column.missing_marker} == {
        "race", "weight", "payer_code", "medical_specialty", "diag_1", "diag_2", "diag_3",
    }  # fmt: skip


def test_numbers_and_the_outcome_are_never_missing_and_what_is_marked_missing_may_be() -> None:
    for column in COLUMNS:
        assert column.may_be_missing == (not column.is_number and column.group is not Group.OUTCOME)
        assert column.may_be_missing or column.missing_marker is None


def test_every_accepted_spelling_means_the_same_column() -> None:
    for spelling in ("glyburide-metformin", "glyburide_metformin", " Glyburide-Metformin "):
        assert normalise_name(spelling) == "glyburide_metformin"
    assert normalise_name("A1Cresult") == normalise_name("a1cresult") == "a1cresult"


def test_the_example_fits_the_published_schema() -> None:
    schema = json_schema()
    example = example_encounter()
    assert set(schema["required"]) <= set(example) <= set(schema["properties"])
    for name, value in example.items():
        allowed = schema["properties"][name].get("enum")
        assert allowed is None or value in allowed


def test_the_schemas_digest_is_stable_within_a_run_and_64_hex_digits() -> None:
    assert schema_sha256() == schema_sha256()
    assert len(schema_sha256()) == 64


#: For each field of a column another value than any column has.
_CHANGED: dict[str, Any] = {
    "name": "other", "kind": "other", "group": "other", "description": "other", "table_1": "other", "unit": "other",
    "allowed": ("other",), "labels": {99: "other"}, "low": -1, "high": -1, "usual_high": -1, "default": "other",
    "example": "other", "missing_marker": "other", "not_measured": "other", "unknown_values": ("other",),
}  # fmt: skip


@pytest.mark.parametrize("rule", [field.name for field in fields(Column)])
def test_the_schemas_digest_changes_with_every_field_of_every_column(rule: str) -> None:
    digests = {schema_sha256()}
    for place, column in enumerate(COLUMNS):
        other: Any = _CHANGED[rule] if rule in _CHANGED else not getattr(column, rule)
        columns = list(COLUMNS)
        columns[place] = replace(column, **{rule: other})
        digests.add(schema_sha256(columns))
    assert len(digests) == 1 + len(COLUMNS)


def test_the_schemas_digest_changes_with_what_a_code_means_and_with_what_is_read_as_missing() -> None:
    table = "discharge_disposition_id"
    alive = [replace(code, meaning=None) if code.meaning is Meaning.HOSPICE else code for code in CODE_TABLES[table]]
    digests = {
        schema_sha256(),
        schema_sha256(code_tables={**CODE_TABLES, table: alive}),
        schema_sha256(missing_markers=MISSING_MARKERS | {"unknown"}),
    }
    assert len(digests) == 3
