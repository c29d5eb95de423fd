"""Evidence is verified before it is believed: each guard, and whatever else a byte can do."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from readmit_chassis.s3 import MemoryStore, StoreUnavailable
from readmit_contracts.events import ArtifactRef
from readmit_promoter import evidence as module
from readmit_promoter.errors import EvidenceError
from readmit_promoter.evidence import MAX_EVIDENCE_BYTES, read_evidence
from readmit_promoter.handlers import fetch_evidence

Arrays = dict[str, NDArray[Any]]
Pack = Callable[[Arrays], bytes]
Refer = Callable[[bytes], ArtifactRef]


def grouped(codes: NDArray[Any] | None = None, names: NDArray[Any] | None = None) -> Arrays:
    return {
        "race": np.zeros(600, np.uint8) if codes is None else codes,
        "race_names": np.array(["Asian", "Other"]) if names is None else names,
    }


def test_groups_and_held_out_rows_are_read_where_the_evidence_tells_them(
    cohort: Callable[..., Arrays], packed: Pack, reference: Refer
) -> None:
    arrays = cohort(1.0)
    plain = packed(arrays)
    old = read_evidence(plain, reference(plain))
    assert (old.held_out, old.groups) == (None, {})
    codes = (np.arange(600) % 2).astype(np.uint8)
    data = packed(arrays | grouped(codes) | {"held_out": codes.astype(np.int8)})
    read = read_evidence(data, reference(data))
    assert read.held_out is not None
    assert read.held_out.sum() == 300
    assert (read.groups["race"].names, read.groups["race"].code.sum()) == (("Asian", "Other"), 300)


def test_well_formed_evidence_is_read(cohort: Callable[..., Arrays], packed: Pack, reference: Refer) -> None:
    arrays = cohort(1.0)
    data = packed(arrays)
    read = read_evidence(data, reference(data))
    assert read.sha256 == reference(data).sha256
    assert np.array_equal(read.risk, arrays["risk"])
    assert np.array_equal(read.label, arrays["label"] == 1)


def test_a_flipped_byte_is_refused(cohort: Callable[..., Arrays], packed: Pack, reference: Refer) -> None:
    data = packed(cohort(1.0))
    flipped = data[:-1] + bytes([data[-1] ^ 1])
    with pytest.raises(EvidenceError, match="not those of digest"):
        read_evidence(flipped, reference(data))


def test_a_size_that_differs_from_the_reference_is_refused(
    cohort: Callable[..., Arrays], packed: Pack, reference: Refer
) -> None:
    data = packed(cohort(1.0))
    ref = reference(data).model_copy(update={"size_bytes": len(data) - 1})
    with pytest.raises(EvidenceError, match="not those of digest"):
        read_evidence(data, ref)


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (lambda a: a.pop("risk"), "must hold the arrays"),
        (lambda a: a.update(extra=a["row"]), "must hold the arrays"),
        (lambda a: a.update(risk=a["risk"].astype(np.float32)), "risk must be a vector of float64"),
        (lambda a: a.update(row=a["row"].astype(np.int64)), "row must be a vector of uint64"),
        (lambda a: a.update(label=a["label"].reshape(-1, 2)), "label must be a vector of int8"),
        (lambda a: a.update(risk=a["risk"][:-1]), "differ in length"),
        (lambda a: a.update(risk=np.array([None] * 600)), "not an archive of plain arrays"),  # would need a pickle
        (lambda a: np.put(a["risk"], 5, np.nan), "finite"),
        (lambda a: np.put(a["risk"], 5, np.inf), "finite"),
        (lambda a: np.put(a["risk"], 5, -0.1), "between 0 and 1"),
        (lambda a: np.put(a["label"], 5, 2), "not all 0 or 1"),
        (lambda a: a.update(held_out=np.full(600, 2, np.int8)), "held_out is not all 0 or 1"),
        (lambda a: a.update(held_out=np.zeros(599, np.int8)), "differ in length"),
        (lambda a: a.update(race=np.zeros(600, np.uint8)), "each with its names"),
        (lambda a: a.update(race_names=np.array(["Asian"])), "each with its names"),
        (lambda a: a.update(grouped(codes=np.full(600, 2, np.uint8))), "not among race_names"),
        (lambda a: a.update(grouped(codes=np.zeros(600, np.int64))), "race must be a vector of uint8"),
        (lambda a: a.update(grouped(codes=np.zeros(5, np.uint8))), "differ in length"),
        (lambda a: a.update(grouped(names=np.array([1, 2]))), "vector of at most 64 texts"),
        (lambda a: a.update(grouped(names=np.array([f"group {n}" for n in range(65)]))), "at most 64 texts"),
        (lambda a: a.update(grouped(names=np.array(["Asian", "Asian"]))), "different, printable, short"),
        (lambda a: a.update(grouped(names=np.array(["Asian", "a\nb"]))), "different, printable, short"),
        (lambda a: a.update(grouped(names=np.array(["Asian", "x" * 65]))), "different, printable, short"),
        (lambda a: np.put(a["row"], 5, 4), "unique and ascending"),
        (lambda a: np.put(a["row"], [5, 6], [6, 5]), "unique and ascending"),
    ],
)
def test_malformed_evidence_is_refused_with_the_reason(
    cohort: Callable[..., Arrays], packed: Pack, reference: Refer, spoil: Callable[[Arrays], object], reason: str
) -> None:
    arrays = cohort(1.0)
    spoil(arrays)
    data = packed(arrays)
    with pytest.raises(EvidenceError, match=reason):
        read_evidence(data, reference(data))


def test_an_archive_that_unpacks_to_too_much_is_refused_before_it_is_unpacked(
    cohort: Callable[..., Arrays], packed: Pack, reference: Refer
) -> None:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name in ("row", "patient", "label", "risk"):
            archive.writestr(f"{name}.npy", bytes(MAX_EVIDENCE_BYTES // 4 + 1))
    data = buffer.getvalue()
    assert len(data) < 1_000_000
    with pytest.raises(EvidenceError, match="unpacks to more"):
        read_evidence(data, reference(data))


@given(data=st.data())
@settings(max_examples=300, deadline=None)
def test_no_bytes_whatever_crash_the_reader(
    cohort: Callable[..., Arrays], packed: Pack, reference: Refer, data: st.DataObject
) -> None:
    """The digest agrees here, as it would for a broken writer; what is read then is either sound or refused."""
    arrays = cohort(1.0, rows=20)
    arrays |= {name: array[:20] if name == "race" else array for name, array in grouped().items()}
    whole = bytearray(packed(arrays))
    for _ in range(data.draw(st.integers(1, 8))):
        whole[data.draw(st.integers(0, len(whole) - 1))] = data.draw(st.integers(0, 255))
    spoiled = bytes(whole[: data.draw(st.integers(0, len(whole)))])
    try:
        read = read_evidence(spoiled, reference(spoiled))
    except EvidenceError:
        return
    assert len(read.row) == len(read.patient) == len(read.label) == len(read.risk)
    assert np.all((read.risk >= 0) & (read.risk <= 1))


async def test_a_missing_object_is_bad_evidence(objects: MemoryStore, reference: Refer) -> None:
    with pytest.raises(EvidenceError, match="there is nothing at"):
        await fetch_evidence(objects, reference(b"never stored"))


async def test_a_store_that_is_away_is_no_judgement_on_the_candidate(objects: MemoryStore, reference: Refer) -> None:
    objects.available = False
    with pytest.raises(StoreUnavailable):
        await fetch_evidence(objects, reference(b""))


@pytest.mark.parametrize("uri", ["s3://bucket", "s3://", "s3://Bad_Bucket!/key", "s3://bucket/new\nline"])
async def test_a_reference_that_names_no_object_is_bad_evidence(
    objects: MemoryStore, reference: Refer, uri: str
) -> None:
    with pytest.raises(EvidenceError, match="does not name an object"):
        await fetch_evidence(objects, reference(b"").model_copy(update={"uri": uri}))


async def test_an_object_that_is_said_to_be_huge_is_not_fetched(objects: MemoryStore, reference: Refer) -> None:
    objects.available = False  # fetching would raise another error
    ref = reference(b"").model_copy(update={"size_bytes": module.MAX_EVIDENCE_BYTES + 1})
    with pytest.raises(EvidenceError, match="more than"):
        await fetch_evidence(objects, ref)
