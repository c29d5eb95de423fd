"""Save the pipeline as an MLflow model with a signature, for `mlflow models serve`."""

from __future__ import annotations

import argparse
import json
import os
from pathlib import Path

import joblib
import mlflow
import pandas as pd

if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--example", required=True, help="a JSON file of rows")
    parser.add_argument("--to", required=True)
    options = parser.parse_args()
    model = joblib.load(os.environ["PEER_MODEL"])
    example = pd.DataFrame(json.loads(Path(options.example).read_text()))
    mlflow.sklearn.save_model(
        model,
        options.to,
        serialization_format="cloudpickle",
        pyfunc_predict_fn="predict_proba",
        signature=mlflow.models.infer_signature(example, model.predict_proba(example)),
        pip_requirements=[],
    )
