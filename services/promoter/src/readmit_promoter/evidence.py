"""Validation evidence: what a candidate predicted, row by row. Every decision is derived from it anew."""

from __future__ import annotations

import hashlib
import io
import lzma
import tokenize
import zipfile
import zlib
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from readmit_contracts.events import ArtifactRef
from readmit_promoter.errors import EvidenceError

#: A million rows take 25 MB; more than this, packed or unpacked, is not evidence.
MAX_EVIDENCE_BYTES = 64 * 1024 * 1024

Scalar = TypeVar("Scalar", bound=np.generic)

_NAMES = ("row", "patient", "label", "risk")
# What zipfile and numpy raise for bytes that are no archive of plain arrays.
_UNREADABLE = (
    ValueError, TypeError, KeyError, OSError, EOFError, MemoryError, NotImplementedError, RuntimeError, SyntaxError,
    tokenize.TokenError, zipfile.BadZipFile, zlib.error, lzma.LZMAError,
)  # fmt: skip


@dataclass(frozen=True, slots=True, eq=False)
class Evidence:
    """Four columns of equal length, ordered by `row`, which is unique. Keys are pseudonyms, not identifiers."""

    sha256: str
    row: NDArray[np.uint64]
    patient: NDArray[np.uint64]
    label: NDArray[np.bool_]
    risk: NDArray[np.float64]


def read_evidence(data: bytes, ref: ArtifactRef) -> Evidence:
    """Verify the digest, then the form. Raises `EvidenceError`; nothing is parsed before the digest agrees."""
    if len(data) != ref.size_bytes or hashlib.sha256(data).hexdigest() != ref.sha256:
        raise EvidenceError(f"the bytes at {ref.uri} are not those of digest {ref.sha256[:12]}")
    try:
        arrays = _arrays(data)
    except _UNREADABLE as error:
        raise EvidenceError(f"the evidence is not an archive of plain arrays ({type(error).__name__})") from error
    row, patient = _vector(arrays, "row", np.uint64), _vector(arrays, "patient", np.uint64)
    label, risk = _vector(arrays, "label", np.int8), _vector(arrays, "risk", np.float64)
    if not len(row) == len(patient) == len(label) == len(risk):
        raise EvidenceError("the arrays of the evidence differ in length")
    if not np.all(row[:-1] < row[1:]):
        raise EvidenceError("the rows of the evidence are not unique and ascending")
    if not np.isin(label, (0, 1)).all():
        raise EvidenceError("the labels of the evidence are not all 0 or 1")
    # Written so that a NaN fails it too.
    if not np.all((risk >= 0.0) & (risk <= 1.0)):
        raise EvidenceError("the risks of the evidence are not all finite and between 0 and 1")
    return Evidence(ref.sha256, row, patient, label == 1, risk)


def _arrays(data: bytes) -> dict[str, NDArray[Any]]:
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        members = archive.infolist()
        if sorted(member.filename for member in members) != sorted(f"{name}.npy" for name in _NAMES):
            raise EvidenceError(f"the evidence must hold exactly the arrays {', '.join(_NAMES)}")
        # zipfile never unpacks more than a member declares, so that the declared sizes bound the memory.
        if sum(member.file_size for member in members) > MAX_EVIDENCE_BYTES:
            raise EvidenceError(f"the evidence unpacks to more than {MAX_EVIDENCE_BYTES} bytes")
    with np.load(io.BytesIO(data), allow_pickle=False) as arrays:
        return {name: arrays[name] for name in _NAMES}


def _vector(arrays: dict[str, NDArray[Any]], name: str, dtype: type[Scalar]) -> NDArray[Scalar]:
    array = arrays[name]
    if array.dtype != dtype or array.ndim != 1:
        raise EvidenceError(f"the array {name} must be a vector of {np.dtype(dtype)}")
    return array
