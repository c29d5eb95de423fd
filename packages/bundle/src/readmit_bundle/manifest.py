"""`bundle.json`: everything about a model but the numbers of its scorer."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

from readmit_bundle.calibration import Calibration
from readmit_contracts.events import Probability, Sha256, ValidationScores
from readmit_features.spec import FeatureSpec

FORMAT_VERSION: Literal[2] = 2

ScorerKind = Literal["lightgbm_text", "tree_arrays", "linear"]


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Threshold(_Frozen):
    """From which risk on an encounter counts as "readmitted", and the costs that this figure follows from."""

    value: Probability
    statement: str


class Lineage(_Frozen):
    """What the model was made from, and with what."""

    dataset_version: Annotated[int, Field(ge=1)]
    first_batch: Annotated[int, Field(ge=1, description="trained on batches first_batch..batch")] = 1
    batch: Annotated[int, Field(ge=1)]
    started_from: Annotated[
        Sha256 | None, Field(description="bundle of the model that this one goes on from, on the batches before")
    ] = None
    batch_sha256: Annotated[tuple[Sha256, ...], Field(description="of batches 1..batch, which the history is made of")]
    sample_fraction: Annotated[float, Field(gt=0, le=1, description="share of the training patients")] = 1.0
    content_sha256: Sha256
    schema_sha256: Sha256
    code_version: str
    libraries: dict[str, str]


class GoldenRow(_Frozen):
    """A cleaned encounter (by column key, its history included) and the risk that the fitted library model gave it."""

    values: dict[str, str | int | None]
    risk: Probability


class Manifest(_Frozen):
    """Format 2."""

    format_version: Literal[2] = FORMAT_VERSION
    family: str
    model_name: str
    scorer: ScorerKind
    model_sha256: Annotated[Sha256, Field(description="digest of the model file beside this one")]
    feature_spec: FeatureSpec
    feature_spec_sha256: Sha256
    calibration: Calibration
    threshold: Threshold
    validation: ValidationScores
    without_history: Annotated[
        ValidationScores | None, Field(description="scores of the same model where no history is given")
    ] = None
    card: Annotated[str | None, Field(description="what people should know before they trust the model, Markdown")] = (
        None
    )
    lineage: Lineage
    synthetic: bool
    golden: tuple[GoldenRow, ...]
