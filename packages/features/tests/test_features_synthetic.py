"""The sample: the same bytes for ever, made in blocks, and nothing in it that the schema would stumble over."""

from __future__ import annotations

import csv
import hashlib
import io
import tracemalloc
from itertools import islice
from pathlib import Path

import pytest

from readmit_contracts.encounter import BY_KEY, COLUMNS, Kind
from readmit_features.cleaning import parse_value
from readmit_features.synthetic import FIRST_SYNTHETIC_ID, MAX_ROWS, sample_blocks, sample_columns, write_sample

Columns = dict[str, list[str]]
BLOCKS = tuple(slice(start, start + 100_000) for start in (0, 100_000, 200_000))


@pytest.fixture(scope="module")
def two_and_a_half_blocks() -> Columns:
    return sample_columns(250_000, seed=3)


@pytest.mark.parametrize(
    ("rows", "seed", "sha256"),
    [
        (1, 7, "768a7e2e590ef4248da214d39b2b5366fa5057d31b30b922dddedcd3cce5d1fb"),
        (300, 7, "a1e24f16b044e61f85babd5038d118b075ecbf16fee1d0f459d5545f9b843c80"),
        (1_000, 11, "f6dc8082d80f1a73ba6d9ba133dc099fe22384d7732eeab0a0fb8aee054e92fd"),
        (30_000, 7, "1d0368421b7a9edfa85cdda3da365d7d83f50ab202e922eb710516ea3db28bab"),
        (100_000, 7, "0938d8451b965a9ac9a72a02699f28ff1c44be5c63824d3bef461ade51fd631e"),
    ],
)
def test_a_sample_of_one_block_never_changes(rows: int, seed: int, sha256: str) -> None:
    assert hashlib.sha256(b"".join(sample_blocks(rows, seed))).hexdigest() == sha256


@pytest.mark.parametrize("rows", [1, 5_001, 100_001])
def test_file_stream_pieces_and_columns_say_the_same(tmp_path: Path, rows: int) -> None:
    pieces = list(sample_blocks(rows))
    written = io.StringIO()
    write_sample(written, rows)
    write_sample(tmp_path / "sample.csv", rows)
    assert (tmp_path / "sample.csv").read_bytes() == b"".join(pieces) == written.getvalue().encode()
    assert all(piece.endswith(b"\n") for piece in pieces)
    columns = sample_columns(rows)
    read = csv.reader(io.StringIO(written.getvalue()))
    assert next(read) == list(columns)
    assert list(read) == [list(row) for row in zip(*columns.values(), strict=True)]


def test_identifiers_go_on_from_block_to_block_and_no_patient_is_in_two(two_and_a_half_blocks: Columns) -> None:
    encounters = [int(cell) for cell in two_and_a_half_blocks["encounter_id"]]
    assert len(encounters) == 250_000
    assert encounters == sorted(set(encounters))
    assert FIRST_SYNTHETIC_ID < encounters[0] < encounters[-1] < 2**53
    patients = [set(two_and_a_half_blocks["patient_nbr"][block]) for block in BLOCKS]
    assert sum(map(len, patients)) == len(set().union(*patients))


def test_every_block_is_another_one_and_as_plausible(two_and_a_half_blocks: Columns) -> None:
    assert len({tuple(two_and_a_half_blocks["diag_1"][block][:100]) for block in BLOCKS}) == 3
    for block in BLOCKS:
        outcomes = two_and_a_half_blocks["readmitted"][block]
        assert 0.10 < outcomes.count("<30") / len(outcomes) < 0.12


def test_who_pays_was_not_recorded_in_the_first_part_of_the_whole_study(two_and_a_half_blocks: Columns) -> None:
    recorded = [place for place, cell in enumerate(two_and_a_half_blocks["payer_code"]) if cell != "?"]
    assert recorded[0] >= 0.15 * 250_000
    assert len(recorded) > 0.5 * 250_000


def test_the_schema_takes_every_value_as_it_stands(two_and_a_half_blocks: Columns) -> None:
    """Without a warning, but for diagnoses: as in any hospital, some codes name a category that was never assigned."""
    for column in COLUMNS:
        for cell in set(two_and_a_half_blocks[column.name]):
            parsed = parse_value(column, cell)
            assert parsed.problem is None
            assert column.kind is Kind.DIAGNOSIS or parsed.warning is None
            assert parsed.value is not None or cell == column.missing_marker


@pytest.mark.parametrize("key", ["race", "age", "weight", "gender", "payer_code", "a1cresult", "insulin", "readmitted"])
def test_every_value_of_the_schema_occurs(two_and_a_half_blocks: Columns, key: str) -> None:
    assert set(BY_KEY[key].allowed) <= set(two_and_a_half_blocks[BY_KEY[key].name])


def test_a_sample_takes_the_memory_of_one_block() -> None:
    def peak(rows: int) -> int:
        tracemalloc.start()
        try:
            assert sum(piece.count(b"\n") for piece in sample_blocks(rows)) == rows + 1
            return tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()

    assert peak(500_000) < 1.3 * peak(100_000)


def test_the_first_lines_of_the_largest_sample_come_at_once() -> None:
    header, lines = islice(sample_blocks(MAX_ROWS), 2)
    assert header.decode().rstrip().split(",") == [column.name for column in COLUMNS]
    assert lines.count(b"\n") > 1_000


@pytest.mark.parametrize("rows", [0, -1, MAX_ROWS + 1])
def test_a_sample_that_cannot_be_is_refused(rows: int) -> None:
    with pytest.raises(ValueError, match="a sample has at"):
        next(sample_blocks(rows))


def test_the_last_identifier_of_the_largest_sample_is_exact_in_json() -> None:
    assert FIRST_SYNTHETIC_ID + MAX_ROWS * 8_000 <= 2**53
