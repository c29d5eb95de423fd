"""What most teams write first, and what the platform that Readmit replaces did: FastAPI, joblib, a DataFrame a request.

It is as lenient as that one: names in any writing, numbers as text, what is missing is `?`.
"""

from __future__ import annotations

import argparse
import os
from typing import Any

import joblib
import pandas as pd
import uvicorn
from fastapi import FastAPI

MODEL = joblib.load(os.environ["PEER_MODEL"])
COUNTS = set(MODEL[0].transformers_[0][2])
_ONE_HOT = MODEL[0].transformers_[1]
CODES = {name for name, known in zip(_ONE_HOT[2], _ONE_HOT[1].categories_, strict=True) if known.dtype.kind == "i"}
NAMES = {name.lower().replace("-", "_"): name for name in MODEL.feature_names_in_}

app = FastAPI()


@app.get("/readyz")
def readyz() -> dict[str, str]:
    """The model was loaded at import."""
    return {"status": "ok"}


@app.post("/predict")
def predict(body: dict[str, Any]) -> dict[str, float]:
    """A plain function, as the model blocks: FastAPI runs it in its pool of threads."""
    told = {name.lower().replace("-", "_"): value for name, value in body.items()}
    row = {
        name: float(told[key]) if name in COUNTS else int(told[key]) if name in CODES else told.get(key, "?")
        for key, name in NAMES.items()
    }
    return {"risk": float(MODEL.predict_proba(pd.DataFrame([row]))[0, 1])}


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--port", type=int, required=True)
    uvicorn.run(app, host="127.0.0.1", port=parser.parse_args().port, log_level="warning", access_log=False)
