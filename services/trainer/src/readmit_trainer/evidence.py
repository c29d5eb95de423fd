"""The evidence: every validation row's risk and label, under pseudonyms. Gates recompute their figures from it."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from readmit_contracts.events import ArtifactRef
from readmit_trainer.validation import hashed

_ROW_SALT = b"readmit-row"
_PATIENT_SALT = b"readmit-patient"


def patient_keys(patients: NDArray[np.int64]) -> NDArray[np.uint64]:
    """Pseudonyms of patients."""
    return hashed(patients.tolist(), _PATIENT_SALT)


def evidence_bytes(
    encounters: NDArray[np.int64],
    patients: NDArray[np.uint64],
    labels: NDArray[np.bool_],
    risks: NDArray[np.float64],
    held_out: NDArray[np.bool_],
    groups: Mapping[str, Sequence[str]],
) -> bytes:
    """An .npz of `row`, `patient` (uint64), `label`, `held_out` (int8), `risk` (float64), in the order of `row`.

    `held_out`: rows that the calibration map was not fitted on. `groups` names each row's group by attribute; of each
    attribute there is an array of codes (uint8), and one of the names that they stand for, `<attribute>_names`.
    """
    rows = hashed(encounters.tolist(), _ROW_SALT)
    order = np.argsort(rows, kind="stable")
    columns: dict[str, NDArray[Any]] = {
        "row": rows[order],
        "patient": patients[order],
        "label": labels[order].astype(np.int8),
        "risk": risks[order],
        "held_out": held_out[order].astype(np.int8),
    }
    for attribute, of_rows in groups.items():
        names, codes = np.unique(np.array(of_rows, dtype=np.str_), return_inverse=True)
        columns |= {attribute: codes[order].astype(np.uint8), f"{attribute}_names": names}
    buffer = io.BytesIO()
    np.savez_compressed(buffer, allow_pickle=False, **columns)
    return buffer.getvalue()


def write_evidence(put: Callable[[str, bytes], object], bucket: str, data: bytes) -> ArtifactRef:
    """Store it under its digest."""
    digest = hashlib.sha256(data).hexdigest()
    uri = f"s3://{bucket}/evidence/{digest}/validation.npz"
    put(uri, data)
    return ArtifactRef(uri=uri, sha256=digest, size_bytes=len(data))
