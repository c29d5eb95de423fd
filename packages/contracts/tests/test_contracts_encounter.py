"""The encounter schema is complete and says of itself what the study says."""

from __future__ import annotations

from readmit_contracts.encounter import (
    BY_KEY,
    COLUMNS,
    DRUG_KEYS,
    FEATURE_COLUMNS,
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
