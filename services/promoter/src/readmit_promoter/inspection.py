"""What is measured of a candidate's bundle, once: whether it is the announced one, and what it takes to serve it."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from readmit_bundle import BundleRefused, Manifest, Model, load_model, read_bundle
from readmit_chassis.s3 import ObjectMissing
from readmit_contracts.events import ModelRegistered
from readmit_promoter.canonical import Document
from readmit_promoter.errors import DocumentError
from readmit_promoter.evidence import OBJECT_URI

_LEAST_SCORINGS = 200


@dataclass(frozen=True, slots=True)
class Inspection:
    """Kept with the decision, so that a replay judges by what was measured then.

    `refusal` says why the bundle cannot serve, and nothing else is known then. `golden_error`: largest distance of a
    golden row's risk from the recorded one, None without golden rows; `row_us`: median time of scoring one of them, in
    microseconds.
    """

    refusal: str | None = None
    size_bytes: int | None = None
    golden_rows: int | None = None
    golden_error: float | None = None
    row_us: float | None = None

    def document(self) -> Document:
        """As plain JSON."""
        return asdict(self)

    @classmethod
    def from_document(cls, document: Mapping[str, Any]) -> Inspection:
        """What `document` wrote. Raises `DocumentError`."""
        try:
            return cls(**document)
        except TypeError as error:
            raise DocumentError(f"not the document of an inspection: {error}") from error


def inspect_bundle(get: Callable[[str], bytes], event: ModelRegistered) -> Inspection:
    """Read with `get(uri)`, verify, load, and score the golden rows; blocks for some 0.1 s.

    Whatever is wrong with the bundle becomes its refusal. `Transient` of `get` passes through.
    """
    ref = event.bundle
    if not OBJECT_URI.fullmatch(f"{ref.uri.rstrip('/')}/bundle.json"):
        return Inspection(refusal=f"{ref.uri!r} does not name a bundle")
    try:
        model = load_model(read_bundle(get, ref))
        _check(model.manifest, event)
        error = _golden_error(model)
    except ObjectMissing:
        return Inspection(refusal=f"there is no whole bundle at {ref.uri}")
    except BundleRefused as refused:
        return Inspection(refusal=refused.reason)
    golden = len(model.manifest.golden)
    return Inspection(None, ref.size_bytes, golden, error, _row_us(model) if golden else None)


def _check(manifest: Manifest, event: ModelRegistered) -> None:
    """BundleRefused where the bundle contradicts what was announced of it."""
    pairs = {
        "feature spec": (manifest.feature_spec_sha256, event.feature_spec_sha256),
        "model name": (manifest.model_name, event.model.name),
        "family": (manifest.family, event.model.family),
        "synthetic": (manifest.synthetic, event.synthetic),
        "dataset version": (manifest.lineage.dataset_version, event.dataset_version),
        "batch": (manifest.lineage.batch, event.batch),
        "threshold": (manifest.threshold.value, event.validation.threshold),
    }
    for name, (found, announced) in pairs.items():
        if found != announced and announced is not None:
            raise BundleRefused(f"{name} {found} in the bundle, {announced} announced")


def _golden_error(model: Model) -> float | None:
    """Raises BundleRefused when a golden row cannot be scored, or its risk is not a number."""
    worst = None
    for number, row in enumerate(model.manifest.golden):
        try:
            distance = abs(model.score_values(row.values) - row.risk)
        except (KeyError, TypeError, ValueError) as error:
            raise BundleRefused(f"golden row {number} cannot be scored ({type(error).__name__})") from error
        if not distance <= 1.0:
            raise BundleRefused(f"golden row {number}: its risk is not a number")
        worst = max(distance, worst or 0.0)
    return worst


def _row_us(model: Model) -> float:
    """Median over repeated scorings of each golden row, one at a time; `_golden_error` has warmed up."""
    golden = [row.values for row in model.manifest.golden]
    taken = []
    for _ in range(-(-_LEAST_SCORINGS // len(golden))):
        for values in golden:
            started = time.perf_counter_ns()
            model.score_values(values)
            taken.append(time.perf_counter_ns() - started)
    return statistics.median(taken) / 1000
