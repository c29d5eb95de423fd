"""`POST /predict/batch` in the OpenAPI document; `BatchEndpoint` answers it."""

from __future__ import annotations

import json
from typing import Annotated, Any, NoReturn

from fastapi import FastAPI, Query

from readmit_contracts.encounter import example_encounter
from readmit_contracts.history import HISTORY, example_history, request_schema
from readmit_contracts.prediction import BatchPrediction
from readmit_inference.batch.endpoint import CSV, JSON, NDJSON
from readmit_inference.errors import InvalidBatch
from readmit_inference.problems import openapi_responses


def describe_batch(app: FastAPI) -> None:
    """The operation, for people and for clients; and 405 for other methods."""

    @app.post("/predict/batch", response_model=BatchPrediction, responses=_responses(), openapi_extra=_body(),
              summary="Risks of many encounters", tags=["prediction"])  # fmt: skip
    async def post_predict_batch(
        log: Annotated[bool, Query(description="Keep every answer in the prediction log.")] = False,  # noqa: ARG001
    ) -> NoReturn:
        """Risks of many encounters in one request, answered while they are still being sent. Not for clinical use.

        Send an array (JSON), an object per line (NDJSON), or a file (CSV) whose first line names the columns as the
        data set does; a history stands in columns such as `history.previous_encounters`. The answer has the form of
        what was sent, or the one that `Accept` names. All rows are answered by the champion, also while another model
        is tried; the headers `Readmit-Model…` name it. A row that can't be read is told so in its place, and the next
        one is answered.
        """
        raise AssertionError("the endpoint stands before the app")


def _body() -> dict[str, Any]:
    with_history = example_encounter() | {HISTORY: example_history()}
    lines = "".join(json.dumps(row) + "\n" for row in (example_encounter(), with_history))
    rows = {name: str(value) for name, value in example_encounter().items()}
    content = {
        JSON: {"schema": {"type": "array", "items": request_schema()}, "example": [example_encounter(), with_history]},
        NDJSON: {"schema": {"type": "string"}, "example": lines},
        CSV: {"schema": {"type": "string"}, "example": f"{','.join(rows)}\n{','.join(rows.values())}\n"},
    }
    return {"requestBody": {"required": True, "content": content}}


def _responses() -> dict[int | str, dict[str, Any]]:
    text = {"schema": {"type": "string"}}
    content = {NDJSON: text, CSV: text}
    return {
        200: {"description": "A risk or an error for each row", "content": content},
        **openapi_responses(InvalidBatch),
    }
