"""The prediction API: what `POST /predict` answers, and how every service reports an HTTP error (RFC 9457)."""

from __future__ import annotations

from typing import Annotated, Any
from uuid import UUID

from pydantic import BaseModel, Field

from readmit_contracts.events import Probability, Role, Sha256


class ServingModel(BaseModel):
    """Which model gave the answer."""

    name: str
    version: str
    sha256: Annotated[Sha256, Field(description="digest of the bundle that was loaded and verified")]
    epoch: Annotated[int, Field(ge=1, description="number of the promotion that put it in service")]
    synthetic: Annotated[bool, Field(description="trained on generated data: never use for patients")]
    role: Annotated[Role, Field(description="challenger: a candidate on trial answers for a share of the patients")] = (
        "champion"
    )


class FieldWarning(BaseModel):
    """Something in the request was understood, but deserves a look."""

    field: str
    value: str | int | float | bool | None
    message: str


class Prediction(BaseModel):
    """Answer of `POST /predict`."""

    prediction_id: UUID
    risk: Annotated[Probability, Field(description="calibrated probability of readmission within 30 days")]
    readmitted_within_30_days: Annotated[bool, Field(description="risk >= threshold")]
    threshold: Probability
    used_history: Annotated[
        bool, Field(description="whether the patient's history was given and the model reads it")
    ] = False
    model: ServingModel
    warnings: list[FieldWarning]


class FieldError(BaseModel):
    """One field that was refused: what stood there and what is allowed."""

    field: str
    value: Any
    problem: str
    allowed: str


class Contribution(BaseModel):
    """What one field of the encounter adds to the log-odds of readmission."""

    field: Annotated[str, Field(description="name of the field; `history.` before those of the history")]
    value: Annotated[str | int | None, Field(description="as it was understood; null: missing")]
    contribution: Annotated[float, Field(description="Shapley value in log-odds, before calibration")]
    made_of: Annotated[
        list[str], Field(description="the fields that this one is counted from, where it is none of the encounter's")
    ] = []


class Explanation(BaseModel):
    """Answer of `POST /explain`: `base` and all contributions sum to `margin`, whose calibrated form is `risk`."""

    risk: Annotated[Probability, Field(description="as `POST /predict` gives it")]
    readmitted_within_30_days: bool
    threshold: Probability
    used_history: bool
    base: Annotated[float, Field(description="log-odds of a patient of whom nothing is known")]
    margin: Annotated[float, Field(description="log-odds of this patient, before calibration")]
    contributions: Annotated[list[Contribution], Field(description="the largest first, whatever its sign")]
    calibration: Annotated[str, Field(description="method that makes a risk of the margin")]
    model: ServingModel
    warnings: list[FieldWarning]


class RowError(BaseModel):
    """Why a row of a batch has no prediction, or why a batch was not read to its end."""

    code: str
    detail: str
    errors: list[FieldError] = []


class RowPrediction(BaseModel):
    """What a batch is answered for one row: either a risk or an error."""

    row: Annotated[int, Field(ge=1, description="number of the encounter in the batch; the first is 1")]
    risk: Probability | None = None
    readmitted_within_30_days: bool | None = None
    used_history: bool | None = None
    warnings: list[FieldWarning] = []
    prediction_id: Annotated[UUID | None, Field(description="of an answer that is kept in the log")] = None
    error: RowError | None = None


class BatchPrediction(BaseModel):
    """Answer of `POST /predict/batch` as JSON."""

    model: ServingModel
    threshold: Probability
    predictions: list[RowPrediction]
    error: Annotated[RowError | None, Field(description="why the batch was not read to its end")]


class Problem(BaseModel):
    """Problem details for HTTP APIs (RFC 9457), with the refused fields."""

    type: str
    title: str
    status: int
    detail: str
    errors: list[FieldError] = []
