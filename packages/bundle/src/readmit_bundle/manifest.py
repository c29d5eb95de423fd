"""`bundle.json`: everything about a model but the numbers of its scorer."""

from __future__ import annotations

import math
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, FiniteFloat

from readmit_contracts.events import Probability, Sha256, ValidationScores
from readmit_features.spec import FeatureSpec

FORMAT_VERSION: Literal[1] = 1

ScorerKind = Literal["lightgbm_text", "tree_arrays", "linear"]


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Calibration(_Frozen):
    """risk = 1 / (1 + exp(-(a * margin + b))), the margin being the scorer's log-odds (Platt 1999).

    `a` is positive, so calibration never changes the order of patients, nor the AUROC.
    """

    method: Literal["platt", "identity"] = "identity"
    a: Annotated[FiniteFloat, Field(gt=0)] = 1.0
    b: FiniteFloat = 0.0

    def risk(self, margin: float) -> float:
        """Calibrated probability of one margin."""
        z = self.a * margin + self.b
        if z >= 0:
            return 1.0 / (1.0 + math.exp(-z))
        odds = math.exp(z)
        return odds / (1.0 + odds)


class Threshold(_Frozen):
    """From which risk on an encounter counts as "readmitted", and the costs that this figure follows from."""

    value: Probability
    statement: str


class Lineage(_Frozen):
    """What the model was made from, and with what."""

    dataset_version: Annotated[int, Field(ge=1)]
    batch: Annotated[int, Field(ge=1, description="trained on batches 1..batch")]
    batch_sha256: tuple[Sha256, ...]
    content_sha256: Sha256
    schema_sha256: Sha256
    code_version: str
    libraries: dict[str, str]


class GoldenRow(_Frozen):
    """A cleaned encounter (by column key) and the risk that the fitted library model gave it."""

    values: dict[str, str | int | None]
    risk: Probability


class Manifest(_Frozen):
    """Format 1."""

    format_version: Literal[1] = FORMAT_VERSION
    family: str
    model_name: str
    scorer: ScorerKind
    model_sha256: Annotated[Sha256, Field(description="digest of the model file beside this one")]
    feature_spec: FeatureSpec
    feature_spec_sha256: Sha256
    calibration: Calibration
    threshold: Threshold
    validation: ValidationScores
    lineage: Lineage
    synthetic: bool
    golden: tuple[GoldenRow, ...]
