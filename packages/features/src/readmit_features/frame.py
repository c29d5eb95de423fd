"""The vectorised form of the encoder, and its fitting. pandas (an extra): serving never imports this module."""

from __future__ import annotations

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from readmit_contracts.encounter import DRUG_KEYS, FEATURE_COLUMNS, Column, Kind
from readmit_contracts.history import HISTORY_COLUMNS, HISTORY_KEYS, INPUTS_BY_KEY
from readmit_features.row import READINGS, log_odds
from readmit_features.spec import (
    AUDITED,
    CategoricalFeature,
    DifferenceFeature,
    FeatureSpec,
    NumericFeature,
    Reading,
    TallyFeature,
    TargetFeature,
    TargetTable,
    band_middle,
)
from readmit_features.target import CodeColumns, fold_of

Floats = NDArray[np.float64]
Labels = NDArray[np.bool_]

#: Folds of the out-of-fold encodings; cross-validation uses the same ones.
FOLDS = 4
#: A diagnosis code is encoded by itself when at least so many values in training are it: enough to say something, and
#: too many for a table to tell of anybody.
_MIN_CODE_ROWS = 20
_DIAGNOSES = ("diag_1", "diag_2", "diag_3")
_PREVIOUS_DIAGNOSIS = "previous_diag_1"
#: The table that the three diagnoses share.
_ANY_DIAGNOSIS = "any"


def fit_spec(frame: pd.DataFrame, labels: Labels, min_count: int, *, with_race: bool = False) -> FeatureSpec:
    """The spec of training rows (a column per `Column.key`): values seen `min_count` times get a feature of their own.

    The patients' history is used where the frame has its columns. A categorical column in which training saw a single
    level says nothing and is left out.
    """
    has_history = set(HISTORY_KEYS) <= set(frame.columns)
    columns: list[Column] = [*FEATURE_COLUMNS, *(HISTORY_COLUMNS if has_history else ())]
    if with_race:
        columns.append(INPUTS_BY_KEY[AUDITED])
    numeric = [_number(frame, c.key) for c in columns if c.kind is Kind.COUNT]
    age = NumericFeature(column="age", reading="band_middle", fill=_median(frame["age"].map(band_middle, "ignore")))
    numeric.append(age)
    if has_history:
        numeric.append(NumericFeature(column="previous_encounters", reading="is_known", fill=0.0))
    categorical: list[CategoricalFeature] = []
    for column in columns:
        if column.kind is Kind.COUNT or column.key == "age":
            continue
        reading: Reading = "icd9_group" if column.kind is Kind.DIAGNOSIS else "value"
        counts = _levels(frame[column.key], reading).value_counts(dropna=False)
        if len(counts) > 1:
            kept = sorted(str(value) for value in counts.index[counts >= min_count].dropna())
            categorical.append(CategoricalFeature(column=column.key, reading=reading, values=tuple(kept)))
    whole = np.zeros(len(frame), dtype=np.int64)
    targets = _targets(has_history)
    return FeatureSpec(
        numeric=tuple(numeric),
        differences=(_difference(frame, "number_inpatient", "previous_number_inpatient"),) if has_history else (),
        tallies=(
            TallyFeature(name="drugs_given", columns=DRUG_KEYS, values=("Steady", "Up", "Down")),
            TallyFeature(name="drugs_changed", columns=DRUG_KEYS, values=("Up", "Down")),
        ),
        targets=targets,
        categorical=tuple(categorical),
        tables={
            name: CodeColumns([frame[key] for key in keys], labels, whole, 1).table(_MIN_CODE_ROWS)
            for name, keys in _columns_of_tables(targets).items()
        },
    )


def encode_frame(spec: FeatureSpec, frame: pd.DataFrame) -> Floats:
    """Encoded rows, shape (n, len(spec.names)), equal to `RowEncoder.encode` of each row bit for bit.

    A column that the frame lacks is missing in every row.
    """
    rows = np.zeros((len(frame), len(spec.names)))
    for at, numeric in enumerate(spec.numeric):
        rows[:, at] = _numbers(frame, numeric)
    at = len(spec.numeric)
    for difference in spec.differences:
        apart = _whole(frame, difference.column) - _whole(frame, difference.subtracted)
        rows[:, at] = apart.fillna(0).clip(difference.low, difference.high).to_numpy(dtype=np.float64)
        at += 1
    for tally in spec.tallies:
        for column in tally.columns:
            rows[:, at] += _column(frame, column).isin(tally.values).to_numpy()
        at += 1
    for target in spec.targets:
        rows[:, at] = _log_odds(spec.tables[target.table], _column(frame, target.column))
        at += 1
    everyone = np.arange(len(frame))
    for feature in spec.categorical:
        place = {value: i for i, value in enumerate(feature.values)}
        levels = _levels(_column(frame, feature.column), feature.reading)
        known = levels.map(place).fillna(len(place)).to_numpy(dtype=np.int64)
        places = np.where(levels.isna(), len(place) + 1, known)
        rows[everyone, at + places] = 1.0
        at += len(feature.names)
    return rows


def encode_training(
    spec: FeatureSpec, frame: pd.DataFrame, labels: Labels, patients: NDArray[np.int64]
) -> tuple[Floats, NDArray[np.int64]]:
    """Encoded rows of the frame that `spec` was fitted on, and the fold of each (n,), in 0..`FOLDS`-1.

    As `encode_frame`, but for the target encodings, which are out of fold: no row's encoding knows its own label.
    """
    rows = encode_frame(spec, frame)
    fold = fold_of(patients.tolist(), FOLDS)
    start = len(spec.numeric) + len(spec.differences) + len(spec.tallies)
    place = {(target.table, target.column): start + i for i, target in enumerate(spec.targets)}
    for name, keys in _columns_of_tables(spec.targets).items():
        shared = CodeColumns([_column(frame, key) for key in keys], labels, fold, FOLDS)
        for key, encoded in zip(keys, shared.out_of_fold(_MIN_CODE_ROWS), strict=True):
            rows[:, place[name, key]] = encoded
    return rows, fold


def _number(frame: pd.DataFrame, key: str) -> NumericFeature:
    values = frame[key].astype("Float64")
    low, high = _usual(values)
    return NumericFeature(column=key, reading="number", fill=_median(values), low=low, high=high)


def _difference(frame: pd.DataFrame, key: str, subtracted: str) -> DifferenceFeature:
    low, high = _usual((_whole(frame, key) - _whole(frame, subtracted)).fillna(0))
    return DifferenceFeature(column=key, subtracted=subtracted, low=low, high=high)


def _targets(has_history: bool) -> tuple[TargetFeature, ...]:
    singly = (*_DIAGNOSES, _PREVIOUS_DIAGNOSIS) if has_history else _DIAGNOSES
    own = [TargetFeature(column=column, table=column) for column in singly]
    return (*own, *(TargetFeature(column=column, table=_ANY_DIAGNOSIS) for column in _DIAGNOSES))


def _columns_of_tables(targets: tuple[TargetFeature, ...]) -> dict[str, list[str]]:
    """Which columns share each table."""
    columns: dict[str, list[str]] = {}
    for target in targets:
        columns.setdefault(target.table, []).append(target.column)
    return columns


def _column(frame: pd.DataFrame, key: str) -> pd.Series:
    return frame[key] if key in frame else pd.Series([None] * len(frame), index=frame.index, dtype="object")


def _whole(frame: pd.DataFrame, key: str) -> pd.Series:
    return _column(frame, key).astype("Int64")


def _numbers(frame: pd.DataFrame, numeric: NumericFeature) -> Floats:
    values = _column(frame, numeric.column)
    if numeric.reading == "is_known":
        return np.asarray(values.notna(), dtype=np.float64)
    if numeric.reading == "band_middle":
        values = values.map({band: band_middle(band) for band in INPUTS_BY_KEY[numeric.column].allowed})
    numbers = values.astype("Float64").fillna(numeric.fill).to_numpy(dtype=np.float64)
    return np.asarray(np.clip(numbers, numeric.low, numeric.high))


def _log_odds(table: TargetTable, codes: pd.Series) -> Floats:
    places, values = pd.factorize(codes.astype("object"))
    of_values = np.array([*(log_odds(table, value) for value in values), table.missing])
    return np.asarray(of_values[places])  # missing is -1, the last


def _levels(values: pd.Series, reading: Reading) -> pd.Series:
    """The values as text at the level of detail of `reading`; missing stays missing."""
    if pd.api.types.is_numeric_dtype(values):
        values = values.astype("Int64")
    read = READINGS.get(reading, str)
    return values.astype("category").map(lambda value: read(str(value)), "ignore").astype("object")


def _usual(values: pd.Series) -> tuple[float, float]:
    """Between which numbers all but the outermost thousandth on each side lie, itself numbers that were seen."""
    known = np.sort(values.dropna().to_numpy(dtype=np.float64))
    if not len(known):
        return 0.0, 0.0
    beyond = len(known) // 1000
    return float(known[beyond]), float(known[-1 - beyond])


def _median(values: pd.Series) -> float:
    """Median, 0 when nothing is known. Half of a whole number at worst, so it is exact in float32."""
    median = values.median()
    return 0.0 if pd.isna(median) else float(median)
