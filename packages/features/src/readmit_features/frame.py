"""The vectorised form of the encoder, and its fitting. pandas (an extra): serving never imports this module."""

from __future__ import annotations

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from readmit_contracts.encounter import BY_KEY, DRUG_KEYS, FEATURE_COLUMNS, Kind
from readmit_features.row import READINGS
from readmit_features.spec import (
    CategoricalFeature,
    FeatureSpec,
    NumericFeature,
    Reading,
    TallyFeature,
    band_middle,
)


def fit_spec(frame: pd.DataFrame, min_count: int) -> FeatureSpec:
    """The spec of training rows (a column per `Column.key`): values seen `min_count` times get a feature of their own.

    A categorical column in which training saw a single level says nothing and is left out.
    """
    numeric = [
        NumericFeature(column=c.key, reading="number", fill=_median(frame[c.key].astype("Float64")))
        for c in FEATURE_COLUMNS
        if c.kind is Kind.COUNT
    ]
    age = NumericFeature(column="age", reading="band_middle", fill=_median(frame["age"].map(band_middle, "ignore")))
    tallies = (
        TallyFeature(name="drugs_given", columns=DRUG_KEYS, values=("Steady", "Up", "Down")),
        TallyFeature(name="drugs_changed", columns=DRUG_KEYS, values=("Up", "Down")),
    )
    categorical: list[CategoricalFeature] = []
    for column in FEATURE_COLUMNS:
        if column.kind is Kind.COUNT or column.key == "age":
            continue
        readings: tuple[Reading, ...] = ("value",)
        if column.kind is Kind.DIAGNOSIS:
            readings = ("icd9_group", "icd9_category")
        for reading in readings:
            counts = _levels(frame[column.key], reading).value_counts(dropna=False)
            if len(counts) > 1:
                kept = sorted(str(value) for value in counts.index[counts >= min_count].dropna())
                categorical.append(CategoricalFeature(column=column.key, reading=reading, values=tuple(kept)))
    return FeatureSpec(numeric=(*numeric, age), tallies=tallies, categorical=tuple(categorical))


def encode_frame(spec: FeatureSpec, frame: pd.DataFrame) -> NDArray[np.float64]:
    """Encoded rows, shape (n, len(spec.names)), equal to `RowEncoder.encode` of each row bit for bit."""
    rows = np.zeros((len(frame), len(spec.names)))
    for at, numeric in enumerate(spec.numeric):
        values = frame[numeric.column]
        if numeric.reading == "band_middle":
            values = values.map({band: band_middle(band) for band in BY_KEY[numeric.column].allowed})
        rows[:, at] = values.astype("Float64").fillna(numeric.fill).to_numpy(dtype=np.float64)
    at = len(spec.numeric)
    for tally in spec.tallies:
        for column in tally.columns:
            rows[:, at] += frame[column].isin(tally.values).to_numpy()
        at += 1
    everyone = np.arange(len(frame))
    for feature in spec.categorical:
        place = {value: i for i, value in enumerate(feature.values)}
        levels = _levels(frame[feature.column], feature.reading)
        known = levels.map(place).fillna(len(place)).to_numpy(dtype=np.int64)
        places = np.where(levels.isna(), len(place) + 1, known)
        rows[everyone, at + places] = 1.0
        at += len(feature.names)
    return rows


def _levels(values: pd.Series, reading: Reading) -> pd.Series:
    """The values as text at the level of detail of `reading`; missing stays missing."""
    if pd.api.types.is_numeric_dtype(values):
        values = values.astype("Int64")
    read = READINGS.get(reading, str)
    return values.astype("category").map(lambda value: read(str(value)), "ignore").astype("object")


def _median(values: pd.Series) -> float:
    """Median, 0 when nothing is known. Half of a whole number at worst, so it is exact in float32."""
    median = values.median()
    return 0.0 if pd.isna(median) else float(median)
