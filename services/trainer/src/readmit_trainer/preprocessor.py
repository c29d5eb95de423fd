"""The scikit-learn preprocessor that the original promised, for notebooks. No service ever reads it: it is a pickle.

Only scikit-learn's own classes are in it, so that a notebook needs nothing of ours. Its encodings are scikit-learn's,
not those of the feature spec: models of the platform are scored from their bundles.
"""

from __future__ import annotations

import io
from typing import Any

import joblib  # type: ignore[import-untyped]  # ships no types
import numpy as np
import pandas as pd
from numpy.typing import NDArray
from sklearn.compose import ColumnTransformer
from sklearn.impute import SimpleImputer
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder, StandardScaler, TargetEncoder

from readmit_contracts.encounter import FEATURE_COLUMNS, Kind

#: Where the original kept it, below the bucket.
PREPROCESSOR_KEY = "preprocessors/preprocessor.joblib"
_MISSING = "(missing)"
_LEAST_ROWS = 200


def preprocessor_bytes(frame: pd.DataFrame, labels: NDArray[np.bool_]) -> bytes:
    """Fitted on training rows (a column per feature's `Column.key`), as joblib writes it.

    It takes a DataFrame of those columns: counts as floats, the others as text, missing as "(missing)".
    """
    counts = [column.key for column in FEATURE_COLUMNS if column.kind is Kind.COUNT]
    codes = [column.key for column in FEATURE_COLUMNS if column.kind is Kind.DIAGNOSIS]
    others = [column.key for column in FEATURE_COLUMNS if column.key not in {*counts, *codes}]
    transformer = ColumnTransformer(
        [
            ("counts", make_pipeline(SimpleImputer(strategy="median"), StandardScaler()), counts),
            ("categories", OneHotEncoder(min_frequency=_LEAST_ROWS, handle_unknown="infrequent_if_exist"), others),
            ("diagnoses", TargetEncoder(target_type="binary"), codes),
        ]
    )
    transformer.fit(as_texts(frame, counts), labels)
    buffer = io.BytesIO()
    joblib.dump(transformer, buffer, compress=3)
    return buffer.getvalue()


def as_texts(frame: pd.DataFrame, counts: list[str]) -> pd.DataFrame:
    """The feature columns as the preprocessor takes them."""
    columns: dict[str, Any] = {}
    for column in FEATURE_COLUMNS:
        values = frame[column.key]
        if column.key in counts:
            columns[column.key] = values.astype("float64")
        else:
            columns[column.key] = values.astype("object").where(values.notna(), _MISSING).astype(str)
    return pd.DataFrame(columns)
