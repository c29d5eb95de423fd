"""The pipeline as BentoML's documentation serves a model: a service of one worker that takes a list of encounters.

A list, not a DataFrame: with one, adaptive batching ends in a TypeError (1.4.40 adds a shape to a number of rows).
"""

from __future__ import annotations

import os
from typing import Any

import bentoml
import joblib
import pandas as pd

_BATCH = int(os.environ["PEER_BATCH"])
_BATCHES = {"batchable": True, "max_batch_size": _BATCH, "max_latency_ms": 60_000} if _BATCH > 1 else {}


@bentoml.service(
    workers=1, traffic={"timeout": 60}, logging={"access": {"enabled": False}}, endpoints={"readyz": "/readyz"}
)
class Encounters:
    """One worker."""

    def __init__(self) -> None:
        self.model = joblib.load(os.environ["PEER_MODEL"])

    @bentoml.api(**_BATCHES)
    def predict(self, encounters: list[dict[str, Any]]) -> list[float]:
        """The risk of each."""
        risks: list[float] = self.model.predict_proba(pd.DataFrame(encounters))[:, 1].tolist()
        return risks
