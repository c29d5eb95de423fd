"""From rows to a candidate: encode, fit, validate, export, and prove that the export says what the model says."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pandas as pd

from readmit_bundle import (
    Bundle,
    Calibration,
    GoldenRow,
    Lineage,
    Manifest,
    Model,
    Threshold,
    load_model,
    pack,
    read_bundle,
    write_bundle,
)
from readmit_contracts.encounter import FEATURE_COLUMNS
from readmit_contracts.events import BatchReady, ValidationScores
from readmit_features.cleaning import Value
from readmit_features.frame import encode_frame, fit_spec
from readmit_features.spec import FeatureSpec
from readmit_trainer.dataset import LABEL
from readmit_trainer.domain import FamilyName, decision_threshold, model_name
from readmit_trainer.errors import ParityBroken
from readmit_trainer.evidence import evidence_bytes, patient_keys
from readmit_trainer.families import FITS, Fitted
from readmit_trainer.families.fitted import SEED, Floats, Labels
from readmit_trainer.lineage import library_versions
from readmit_trainer.validation import log_odds, validate

PARITY_TOLERANCE = 1e-6
_GOLDEN_ROWS = 16
_ROWS_SCORED_SINGLY = 300


@dataclass(frozen=True, slots=True)
class Encoded:
    """The splits of one batch as the families see them; the three of a batch share it."""

    spec: FeatureSpec
    rows: Floats
    labels: Labels
    validation: pd.DataFrame
    validation_rows: Floats
    golden: list[dict[str, Value]]
    golden_rows: Floats


@dataclass(frozen=True, slots=True)
class Candidate:
    """An exported model, its evidence, and what is told about it."""

    bundle: Bundle
    evidence: bytes
    scores: ValidationScores
    spec_sha256: str
    params: Mapping[str, float | int | str]
    parity: float
    fit_seconds: float


def encode(train: pd.DataFrame, validation: pd.DataFrame, min_value_rows: int) -> Encoded:
    """Fit the feature spec on the training rows alone, and encode both splits with it."""
    spec = fit_spec(train, min_value_rows)
    golden = _golden_frame(train)
    return Encoded(
        spec=spec,
        rows=encode_frame(spec, train),
        labels=train[LABEL].to_numpy(dtype=np.bool_),
        validation=validation,
        validation_rows=encode_frame(spec, validation),
        golden=cleaned_values(golden),
        golden_rows=encode_frame(spec, golden),
    )


def make_candidate(
    family: FamilyName,
    data: Encoded,
    event: BatchReady,
    batch_sha256: tuple[str, ...],
    *,
    code_version: str,
    threads: int,
    missed_cost: float,
) -> Candidate:
    """Fit and export one family. The same inputs give the same bytes. Raises BadTrainingData, ParityBroken."""
    started = time.perf_counter()
    fitted = FITS[family](data.rows, data.labels, threads)
    fit_seconds = time.perf_counter() - started
    labels = data.validation[LABEL].to_numpy(dtype=np.bool_)
    patients = patient_keys(data.validation["patient_nbr"].to_numpy(dtype=np.int64))
    threshold = decision_threshold(missed_cost)
    validated = validate(fitted.probabilities(data.validation_rows), labels, patients, threshold)
    golden_risks = _risks(validated.calibration, fitted, data.golden_rows)
    spec_sha256 = data.spec.sha256()
    manifest = Manifest(
        family=family,
        model_name=model_name(family),
        scorer=fitted.scorer,
        model_sha256=hashlib.sha256(fitted.model_file).hexdigest(),
        feature_spec=data.spec,
        feature_spec_sha256=spec_sha256,
        calibration=validated.calibration,
        threshold=Threshold(
            value=threshold,
            statement=f"a missed readmission costs {missed_cost:g} times a needless follow-up",
        ),
        validation=validated.scores,
        lineage=Lineage(
            dataset_version=event.dataset_version,
            batch=event.batch,
            batch_sha256=batch_sha256,
            content_sha256=event.content_sha256,
            schema_sha256=event.schema_sha256,
            code_version=code_version,
            libraries=library_versions(),
        ),
        synthetic=event.synthetic,
        golden=tuple(
            GoldenRow(values=values, risk=risk) for values, risk in zip(data.golden, golden_risks, strict=True)
        ),
    )
    bundle = pack(manifest, fitted.model_file)
    parity = _parity(_read_back(bundle), data, validated.risks)
    encounters = data.validation["encounter_id"].to_numpy(dtype=np.int64)
    evidence = evidence_bytes(encounters, patients, labels, validated.risks)
    return Candidate(bundle, evidence, validated.scores, spec_sha256, fitted.params, parity, fit_seconds)


def cleaned_values(frame: pd.DataFrame) -> list[dict[str, Value]]:
    """The rows of a frame as serving sees them: feature columns by key, missing as None."""
    columns = {c.key: frame[c.key].astype("object").where(frame[c.key].notna(), None) for c in FEATURE_COLUMNS}
    return [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]


def _golden_frame(train: pd.DataFrame) -> pd.DataFrame:
    """Encounters that nobody had: every column drawn by itself, so that no patient's row leaves the database."""
    random = np.random.default_rng(SEED)
    drawn = {c.key: train[c.key].iloc[random.integers(len(train), size=_GOLDEN_ROWS)].array for c in FEATURE_COLUMNS}
    return pd.DataFrame(drawn)


def _risks(calibration: Calibration, fitted: Fitted, rows: Floats) -> list[float]:
    return [calibration.risk(margin) for margin in log_odds(fitted.probabilities(rows)).tolist()]


def _read_back(bundle: Bundle) -> Model:
    """Write, read, load and check the bundle the way serving does."""
    shelf: dict[str, bytes] = {}
    model = load_model(read_bundle(shelf.__getitem__, write_bundle(shelf.__setitem__, "s3://shelf", bundle)))
    model.check_golden()
    return model


def _parity(model: Model, data: Encoded, expected: Floats) -> float:
    """Largest distance between the library's risks and the loaded bundle's, many rows at once and one by one."""
    singly = cleaned_values(data.validation.head(_ROWS_SCORED_SINGLY))
    one_by_one = np.array([model.score_values(values) for values in singly])
    distances = (model.score_matrix(data.validation_rows) - expected, one_by_one - expected[: len(singly)])
    worst = max(float(np.abs(distance).max()) for distance in distances)
    if not worst <= PARITY_TOLERANCE:
        raise ParityBroken(f"the exported model is {worst:.2e} away from the fitted one, at most 1e-6 is allowed")
    return worst
