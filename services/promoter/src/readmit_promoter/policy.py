"""The policy: which gates a candidate passes on its way to champion, as a versioned YAML file, reviewed like code."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Iterator, Mapping
from importlib import resources
from pathlib import Path
from typing import Annotated, Any, Literal, Self, get_args

import yaml
from pydantic import Field, FiniteFloat, ValidationError, model_validator

from readmit_promoter.canonical import Document, digest
from readmit_promoter.errors import PolicyError
from readmit_promoter.part import Part
from readmit_promoter.rollout_policy import RolloutPolicy

#: What happens to a candidate of which the evidence shows neither that a gate is passed nor that it is failed.
OnInsufficient = Annotated[
    Literal["accept", "reject", "hold"],
    Field(description="where the evidence settles nothing: accept, reject, or hold for a person"),
]
Margin = Annotated[FiniteFloat, Field(ge=0)]
Attribute = Literal["race", "gender", "age"]
_MAX_FILE_BYTES = 64 * 1024


class Bootstrap(Part):
    """The resampling of patients beneath every interval."""

    resamples: Annotated[int, Field(ge=100, le=10_000)]
    error_rate: Annotated[FiniteFloat, Field(gt=0, lt=0.5, description="of each end of an interval")]

    @model_validator(mode="after")
    def _reaches_the_tail(self) -> Self:
        if self.error_rate * (self.resamples + 1) < 1:
            raise ValueError(f"{self.resamples} resamples are too few for an error rate of {self.error_rate}")
        return self


class EvidenceGate(Part):
    """What there must be to judge on: a candidate's rows, and those that it shares with the champion."""

    min_rows: Annotated[int, Field(ge=1)]
    min_patients_per_class: Annotated[int, Field(ge=1, description="so that no resample can lose a whole class")]
    on_insufficient_evidence: Literal["reject", "hold"]


class ProvenanceGate(Part):
    """Written down so that a reader sees it; there is no other value."""

    synthetic_replaces_real: Literal["never"]


class DiscriminationGate(Part):
    """The candidate's own AUROC: the lower end of its interval lies above this."""

    above_auroc: Annotated[FiniteFloat, Field(ge=0.5, lt=1)]


class ChampionGate(Part):
    """AUROC against the champion's, paired on common rows."""

    comparison: Annotated[
        Literal["superiority", "non_inferiority"],
        Field(description="the lower end of the difference lies above 0, or above -margin"),
    ]
    margin: Margin = 0.0
    on_insufficient_evidence: OnInsufficient

    @model_validator(mode="after")
    def _has_a_margin_where_one_counts(self) -> Self:
        if (self.comparison == "non_inferiority") != (self.margin > 0):
            raise ValueError("non_inferiority takes a margin above 0, superiority takes none")
        return self


class CalibrationGate(Part):
    """Passed where each interval lies within its limits, failed where one lies wholly outside."""

    max_error: Annotated[FiniteFloat, Field(gt=0, le=1, description="expected calibration error, ten bins")]
    min_slope: Annotated[FiniteFloat, Field(gt=0, le=1)]
    max_slope: Annotated[FiniteFloat, Field(ge=1)]
    max_in_the_large: Annotated[FiniteFloat, Field(gt=0, le=1, description="observed rate less mean risk, either way")]
    on_insufficient_evidence: OnInsufficient


class NetBenefitGate(Part):
    """At the threshold that the candidate uses, per encounter, in units of a readmission caught."""

    above_default: Annotated[Margin, Field(description="over the better of following up everybody and nobody")]
    max_loss: Annotated[FiniteFloat, Field(gt=0, description="against the champion on common rows")]
    on_insufficient_evidence: OnInsufficient


class SubgroupGate(Part):
    """The candidate against the champion in each group, on common rows."""

    attributes: Annotated[tuple[Attribute, ...], Field(min_length=1)]
    max_auroc_loss: Annotated[FiniteFloat, Field(gt=0)]
    max_calibration_loss: Annotated[
        FiniteFloat, Field(gt=0, description="how much farther the mean risk may be from the observed rate")
    ]
    min_patients_per_class: Annotated[int, Field(ge=1)]
    on_insufficient_evidence: OnInsufficient


class ExportParityGate(Part):
    """The bundle's risks of its golden rows against those of the library that fitted the model."""

    max_error: Annotated[FiniteFloat, Field(gt=0)]


class LatencyGate(Part):
    """Median time of scoring one row, on the promoter's machine."""

    max_microseconds: Annotated[FiniteFloat, Field(gt=0)]


class BundleSizeGate(Part):
    """Bytes of all files of the bundle."""

    max_bytes: Annotated[int, Field(ge=1)]


class FreshnessGate(Part):
    """Age of the newest training batch when the candidate is judged."""

    max_age_days: Annotated[FiniteFloat, Field(gt=0)]
    on_insufficient_evidence: OnInsufficient


class BatchesGate(Part):
    """Batches that the dataset had when the candidate was trained."""

    min_batches: Annotated[int, Field(ge=1)]


class Gates(Part):
    """In the order in which they are judged. One that may be left out is then not judged."""

    evidence: EvidenceGate
    provenance: ProvenanceGate
    discrimination: DiscriminationGate
    champion: ChampionGate
    calibration: CalibrationGate | None = None
    net_benefit: NetBenefitGate | None = None
    subgroups: SubgroupGate | None = None
    export_parity: ExportParityGate | None = None
    latency: LatencyGate | None = None
    bundle_size: BundleSizeGate | None = None
    freshness: FreshnessGate | None = None
    batches: BatchesGate | None = None


class Policy(Part):
    """What a promotion takes. Recorded with every decision."""

    version: Annotated[str, Field(min_length=1, max_length=64, description="changes whenever anything else does")]
    bootstrap: Bootstrap
    gates: Gates
    rollout: RolloutPolicy = RolloutPolicy()

    def document(self) -> Document:
        """As the ledger keeps it; `Policy.model_validate` reads it."""
        return self.model_dump(mode="json")

    @property
    def sha256(self) -> str:
        """Digest of the canonical document."""
        return digest(self.document())


def load_policy(path: Path | None = None) -> Policy:
    """Read a policy file, or the default one. Raises `PolicyError` with everything that is wrong with it."""
    source = path or resources.files("readmit_promoter") / "policies" / "default.yaml"
    name = str(path or "the default policy")
    try:
        with source.open("rb") as file:
            data = file.read(_MAX_FILE_BYTES + 1)
    except OSError as error:
        raise PolicyError(f"{name}: cannot be read ({error.strerror}); is its path right?") from error
    return parse_policy(data, name)


def parse_policy(data: bytes, name: str) -> Policy:
    """The policy in the bytes of a file of this name. Raises `PolicyError`, one line for each problem."""
    if len(data) > _MAX_FILE_BYTES:
        raise PolicyError(f"{name}: more than {_MAX_FILE_BYTES} bytes are no policy")
    try:
        written = yaml.load(data, _Loader)  # noqa: S506  a SafeLoader that refuses doubled keys
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise PolicyError(f"{name}: not YAML: {' '.join(str(error).split())}") from error
    try:
        return Policy.model_validate(written)
    except ValidationError as error:
        raise PolicyError("\n".join(f"{name}: {_told(problem)}" for problem in error.errors())) from error


def schema_text() -> str:
    """JSON Schema of a policy file, for editors and reviewers."""
    return json.dumps({"$id": "urn:readmit:promoter:policy", **Policy.model_json_schema()}, indent=2) + "\n"


class _Loader(yaml.SafeLoader):
    """Of two gates with one name the second would silently win."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        keys = [key.value for key, _ in node.value]
        for key in keys:
            if keys.count(key) > 1:
                raise yaml.constructor.ConstructorError(None, None, f"{key!r} is there twice", node.start_mark)
        return super().construct_mapping(node, deep)


def _told(problem: Mapping[str, Any]) -> str:
    where = ".".join(map(str, problem["loc"])) or "the file"
    if problem["type"] == "extra_forbidden":
        kind = "gate" if problem["loc"][0] == "gates" and len(problem["loc"]) == 2 else "entry"
        return f"{where}: unknown {kind}; known are {', '.join(_siblings(problem['loc']))}"
    message = problem["msg"].removeprefix("Value error, ")
    if problem["type"] == "missing" or isinstance(problem["input"], dict):
        return f"{where}: {message}"
    return f"{where}: {problem['input']!r}: {message}"


def _siblings(loc: tuple[int | str, ...]) -> Iterator[str]:
    """Names of the entries that are allowed beside the last one of `loc`."""
    parts: list[type[Part]] = [Policy]
    for name in loc[:-1]:
        inner = [part.model_fields[str(name)].annotation for part in parts if name in part.model_fields]
        if inner:
            parts = list(_parts_in(inner))
        elif isinstance(name, str):  # which of several kinds it is, as its `stage` says
            parts = [part for part in parts if name in get_args(part.model_fields["stage"].annotation)]
    return iter(dict.fromkeys(field for part in parts for field in part.model_fields))


def _parts_in(annotations: Iterable[Any]) -> Iterator[type[Part]]:
    for annotation in annotations:
        if isinstance(annotation, type) and issubclass(annotation, Part):
            yield annotation
        else:
            yield from _parts_in(get_args(annotation))


if __name__ == "__main__":
    sys.stdout.write(schema_text())
