"""Validation evidence: what a candidate predicted, row by row. Every decision is derived from it anew."""

from __future__ import annotations

import hashlib
import io
import lzma
import re
import tokenize
import zipfile
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from readmit_contracts.events import ArtifactRef
from readmit_promoter.errors import EvidenceError

#: A million rows take 25 MB; more than this, packed or unpacked, is not evidence.
MAX_EVIDENCE_BYTES = 64 * 1024 * 1024
#: What an object store can have been asked to keep.
OBJECT_URI = re.compile(r"s3://[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]/[!-~]{1,1000}")

Scalar = TypeVar("Scalar", bound=np.generic)

_NAMES = ("row", "patient", "label", "risk")
_HELD_OUT = "held_out"
#: By what patients may be told apart: the array of codes, and that of the groups' names.
_ATTRIBUTES = {name: f"{name}_names" for name in ("race", "gender", "age")}
_KNOWN = frozenset({*_NAMES, _HELD_OUT, *_ATTRIBUTES, *_ATTRIBUTES.values()})
_MAX_GROUPS = 64
# What zipfile and numpy raise for bytes that are no archive of plain arrays.
_UNREADABLE = (
    ValueError, TypeError, KeyError, OSError, EOFError, MemoryError, NotImplementedError, RuntimeError, SyntaxError,
    tokenize.TokenError, zipfile.BadZipFile, zlib.error, lzma.LZMAError,
)  # fmt: skip


@dataclass(frozen=True, slots=True, eq=False)
class Grouping:
    """To which group of one attribute each row belongs: an index of `names`."""

    code: NDArray[np.uint8]
    names: tuple[str, ...]


@dataclass(frozen=True, slots=True, eq=False)
class Evidence:
    """Columns of equal length, ordered by `row`, which is unique. Keys are pseudonyms, not identifiers.

    `held_out`: rows on which the calibration map was not fitted, None where the evidence does not tell. `groups`: by
    attribute, as far as the evidence tells.
    """

    sha256: str
    row: NDArray[np.uint64]
    patient: NDArray[np.uint64]
    label: NDArray[np.bool_]
    risk: NDArray[np.float64]
    held_out: NDArray[np.bool_] | None = None
    groups: Mapping[str, Grouping] = field(default_factory=dict)


def read_evidence(data: bytes, ref: ArtifactRef) -> Evidence:
    """Verify the digest, then the form. Raises `EvidenceError`; nothing is parsed before the digest agrees."""
    if len(data) != ref.size_bytes or hashlib.sha256(data).hexdigest() != ref.sha256:
        raise EvidenceError(f"the bytes at {ref.uri} are not those of digest {ref.sha256[:12]}")
    try:
        arrays = _arrays(data)
    except _UNREADABLE as error:
        raise EvidenceError(f"the evidence is not an archive of plain arrays ({type(error).__name__})") from error
    row, patient = _vector(arrays, "row", np.uint64), _vector(arrays, "patient", np.uint64)
    label, risk = _binary(arrays, "label"), _vector(arrays, "risk", np.float64)
    held_out = _binary(arrays, _HELD_OUT) if _HELD_OUT in arrays else None
    groups = {name: _grouping(arrays, name) for name in _ATTRIBUTES if name in arrays}
    columns = [row, patient, label, risk, *(group.code for group in groups.values())]
    if len({len(column) for column in (*columns, label if held_out is None else held_out)}) > 1:
        raise EvidenceError("the arrays of the evidence differ in length")
    if not np.all(row[:-1] < row[1:]):
        raise EvidenceError("the rows of the evidence are not unique and ascending")
    # Written so that a NaN fails it too.
    if not np.all((risk >= 0.0) & (risk <= 1.0)):
        raise EvidenceError("the risks of the evidence are not all finite and between 0 and 1")
    return Evidence(ref.sha256, row, patient, label, risk, held_out, groups)


def _arrays(data: bytes) -> dict[str, NDArray[Any]]:
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        members = archive.infolist()
        found = {member.filename.removesuffix(".npy") for member in members}
        half = any((codes in found) != (names in found) for codes, names in _ATTRIBUTES.items())
        if len(found) < len(members) or not found.issuperset(_NAMES) or not found <= _KNOWN or half:
            raise EvidenceError(
                f"the evidence must hold the arrays {', '.join(_NAMES)}, may hold {_HELD_OUT} and, each with its names,"
                f" {', '.join(_ATTRIBUTES)}, and nothing else"
            )
        # zipfile never unpacks more than a member declares, so that the declared sizes bound the memory.
        if sum(member.file_size for member in members) > MAX_EVIDENCE_BYTES:
            raise EvidenceError(f"the evidence unpacks to more than {MAX_EVIDENCE_BYTES} bytes")
    with np.load(io.BytesIO(data), allow_pickle=False) as arrays:
        return {name: arrays[name] for name in found}


def _binary(arrays: dict[str, NDArray[Any]], name: str) -> NDArray[np.bool_]:
    vector = _vector(arrays, name, np.int8)
    if not np.isin(vector, (0, 1)).all():
        raise EvidenceError(f"the array {name} is not all 0 or 1")
    return np.equal(vector, 1)


def _grouping(arrays: dict[str, NDArray[Any]], name: str) -> Grouping:
    code, array = _vector(arrays, name, np.uint8), arrays[_ATTRIBUTES[name]]
    if array.dtype.kind != "U" or array.ndim != 1 or not 0 < len(array) <= _MAX_GROUPS:
        raise EvidenceError(f"the array {_ATTRIBUTES[name]} must be a vector of at most {_MAX_GROUPS} texts")
    try:
        names = tuple(array.tolist())
    except ValueError as error:
        raise EvidenceError(f"the array {_ATTRIBUTES[name]} holds what is no text") from error
    if len(set(names)) < len(names) or not all(1 <= len(text) <= 64 and text.isprintable() for text in names):
        raise EvidenceError(f"the array {_ATTRIBUTES[name]} must hold different, printable, short texts")
    if len(code) and code.max() >= len(names):
        raise EvidenceError(f"the array {name} names a group that is not among {_ATTRIBUTES[name]}")
    return Grouping(code, names)


def _vector(arrays: dict[str, NDArray[Any]], name: str, dtype: type[Scalar]) -> NDArray[Scalar]:
    array = arrays[name]
    if array.dtype != dtype or array.ndim != 1:
        raise EvidenceError(f"the array {name} must be a vector of {np.dtype(dtype)}")
    return array
