"""FLAML and AutoGluon on the tables that `quality.py tables` wrote, in an environment of their own.

    python3.11 -m venv automl && automl/bin/pip install --require-hashes -r requirements/automl.txt
    automl/bin/python benchmarks/automl.py flaml|autogluon --minutes 10 --tables DIR [--cores 1]

Each gets the flat table: the 47 columns of an encounter, codes as categories, and the training and validation patients.
FLAML chooses on the validation patients and fits its choice again on both; AutoGluon bags in eight folds, of whole
patients. Both optimise AUROC. Writes `DIR/<tool>-<minutes>.csv`: the risk of each row of `test.csv`, and beside it how
long it took. The test rows come without their labels.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from pathlib import Path

import numpy as np
import pandas as pd

LABEL, PATIENT = "readmitted_30d", "patient_nbr"
_FOLDS = 8


def read(tables: Path, name: str) -> pd.DataFrame:
    """One split; whatever is no count is a category."""
    frame = pd.read_csv(tables / f"{name}.csv", keep_default_na=False, na_values=[""])
    counts = json.loads((tables / "counts.json").read_text())
    for column in frame.columns.difference([*counts, LABEL, PATIENT]):
        frame[column] = frame[column].astype("str").where(frame[column].notna()).astype("category")
    return frame


def flaml_risks(
    train: pd.DataFrame, validation: pd.DataFrame, test: pd.DataFrame, seconds: float, cores: int
) -> np.ndarray:
    """FLAML with its defaults."""
    from flaml import AutoML  # noqa: PLC0415  each has an environment of its own

    features = [column for column in train.columns if column not in {LABEL, PATIENT}]
    automl = AutoML()
    automl.fit(
        train[features], train[LABEL], X_val=validation[features], y_val=validation[LABEL], task="classification",
        metric="roc_auc", time_budget=seconds, retrain_full=True, n_jobs=cores, seed=0, verbose=1,
    )  # fmt: skip
    print("chosen:", automl.best_estimator, automl.best_config, "validation AUROC", 1 - automl.best_loss)
    return np.asarray(automl.predict_proba(test[features])[:, 1])


def autogluon_risks(
    train: pd.DataFrame, validation: pd.DataFrame, test: pd.DataFrame, seconds: float, cores: int
) -> np.ndarray:
    """AutoGluon at its best quality."""
    from autogluon.tabular import TabularPredictor  # noqa: PLC0415

    both = pd.concat([train, validation], ignore_index=True)
    both["fold"] = both.pop(PATIENT) % _FOLDS
    with tempfile.TemporaryDirectory() as folder:
        predictor = TabularPredictor(
            LABEL, problem_type="binary", eval_metric="roc_auc", path=folder, groups="fold", verbosity=1
        ).fit(both, presets="best_quality", time_limit=seconds, dynamic_stacking=False, num_cpus=cores, num_gpus=0)
        print(predictor.leaderboard(silent=True).to_string())
        return np.asarray(predictor.predict_proba(test)[True])


def main() -> None:
    """Run one tool once."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("tool", choices=["flaml", "autogluon"])
    parser.add_argument("--minutes", type=float, required=True)
    parser.add_argument("--tables", type=Path, required=True)
    parser.add_argument("--cores", type=int, default=1)
    options = parser.parse_args()
    train, validation = read(options.tables, "train"), read(options.tables, "validation")
    test = read(options.tables, "test").drop(columns=[PATIENT, LABEL], errors="ignore")
    for column in test.columns.intersection(train.select_dtypes("category").columns):
        known = pd.concat([train[column], validation[column]]).astype("category").cat.categories
        for frame in (train, validation, test):
            frame[column] = frame[column].astype(pd.CategoricalDtype(known))
    risks = {"flaml": flaml_risks, "autogluon": autogluon_risks}[options.tool]
    started = time.monotonic()
    result = risks(train, validation, test, options.minutes * 60, options.cores)
    seconds = time.monotonic() - started
    stem = options.tables / f"{options.tool}-{options.minutes:g}"
    pd.DataFrame({"risk": result}).to_csv(stem.with_suffix(".csv"), index=False)
    stem.with_suffix(".json").write_text(json.dumps({"seconds": seconds, "cores": options.cores}))
    print(f"{options.tool}: {seconds:.0f} s")


if __name__ == "__main__":
    main()
