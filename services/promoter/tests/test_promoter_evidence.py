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
        (lambda a: a.pop("risk"), "exactly the arrays"),
        (lambda a: a.update(extra=a["row"]), "exactly the arrays"),
        (lambda a: a.update(risk=a["risk"].astype(np.float32)), "risk must be a vector of float64"),
        (lambda a: a.update(row=a["row"].astype(np.int64)), "row must be a vector of uint64"),
        (lambda a: a.update(label=a["label"].reshape(-1, 2)), "label must be a vector of int8"),
        (lambda a: a.update(risk=a["risk"][:-1]), "differ in length"),
        (lambda a: a.update(risk=np.array([None] * 600)), "not an archive of plain arrays"),  # would need a pickle
        (lambda a: np.put(a["risk"], 5, np.nan), "finite"),
        (lambda a: np.put(a["risk"], 5, np.inf), "finite"),
        (lambda a: np.put(a["risk"], 5, -0.1), "between 0 and 1"),
        (lambda a: np.put(a["label"], 5, 2), "not all 0 or 1"),
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
    whole = bytearray(packed(cohort(1.0, rows=20)))
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
