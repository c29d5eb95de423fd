"""The evidence: every validation row's risk and label, under pseudonyms. Gates recompute their figures from it."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Callable

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
) -> bytes:
    """An .npz of `row`, `patient` (uint64), `label` (int8), `risk` (float64), in the order of `row`."""
    rows = hashed(encounters.tolist(), _ROW_SALT)
    order = np.argsort(rows, kind="stable")
    buffer = io.BytesIO()
    np.savez_compressed(
        buffer, row=rows[order], patient=patients[order], label=labels[order].astype(np.int8), risk=risks[order]
    )
    return buffer.getvalue()


def write_evidence(put: Callable[[str, bytes], object], bucket: str, data: bytes) -> ArtifactRef:
    """Store it under its digest."""
    digest = hashlib.sha256(data).hexdigest()
    uri = f"s3://{bucket}/evidence/{digest}/validation.npz"
    put(uri, data)
    return ArtifactRef(uri=uri, sha256=digest, size_bytes=len(data))
