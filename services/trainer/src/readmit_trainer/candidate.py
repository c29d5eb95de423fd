"""From rows to a candidate: encode, search, fit, validate, export, and prove that the export is the model."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Mapping, Sequence
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
from readmit_contracts.history import HISTORY_KEYS
from readmit_features.cleaning import Value
from readmit_features.frame import FOLDS, encode_frame, encode_training, fit_spec
from readmit_features.history import hide_history, without_history
from readmit_features.spec import AUDITED, FeatureSpec
from readmit_features.target import fold_of
from readmit_trainer.calibration import apply
from readmit_trainer.dataset import LABEL, Training
from readmit_trainer.domain import FamilyName, Progress, decision_threshold, model_name
from readmit_trainer.errors import ParityBroken
from readmit_trainer.evidence import evidence_bytes, patient_keys
from readmit_trainer.families import Fitted, TrainingRows, open_family
from readmit_trainer.families.fitted import SEED, Floats, Labels, Params
from readmit_trainer.lineage import library_versions
from readmit_trainer.report import Report, describe, model_card
from readmit_trainer.search import Budget, Trial, best, search
from readmit_trainer.subgroups import groups_of
from readmit_trainer.validation import Keys, Validated, log_odds, score, validate
from readmit_trainer.warm_start import Before

PARITY_TOLERANCE = 1e-6
_GOLDEN_ROWS = 16
_ROWS_SCORED_SINGLY = 300


@dataclass(frozen=True, slots=True)
class Choices:
    """What the operator decides about every model."""

    min_value_rows: int = 200
    hidden_history: float = 0.3
    include_race: bool = False
    threads: int = 1
    missed_cost: float = 7.0
    sample_fraction: float = 1.0
    dask_scheduler: str | None = None
    budget: Budget = Budget(trials=6, seconds=600.0)  # noqa: RUF009  frozen


@dataclass(frozen=True, slots=True)
class Encoded:
    """The splits of one batch as the families see them; the three of a batch share it.

    `unknown_rows` are the validation rows with nobody's history known. `started_from`: bundle of the earlier model.
    """

    spec: FeatureSpec
    training: TrainingRows
    source: Training
    started_from: str | None
    validation: pd.DataFrame
    validation_rows: Floats
    unknown_rows: Floats
    golden: list[dict[str, Value]]
    golden_rows: Floats


@dataclass(frozen=True, slots=True)
class Candidate:
    """An exported model, its evidence, and what is told about it.

    `labels`, `risks`, `patients` and `held_out` (rows that calibration did not see) are those of the validation rows in
    `frame`, shape (n,). `importances`: share of each feature. `row_seconds`: median time of one `score_values`.
    """

    bundle: Bundle
    manifest: Manifest
    evidence: bytes
    scores: ValidationScores
    spec_sha256: str
    params: Params
    parity: float
    fit_seconds: float
    row_seconds: float
    trials: tuple[Trial, ...]
    calibration_losses: Mapping[str, float]
    importances: Mapping[str, float]
    frame: pd.DataFrame
    labels: Labels
    risks: Floats
    patients: Keys
    held_out: Labels
    training_rows: int
    report: Report
    card: str


def encode(source: Training, validation: pd.DataFrame, choices: Choices, before: Before | None = None) -> Encoded:
    """Fit the feature spec on the training rows alone, and encode both splits with it.

    With a model to go on from, its spec stays. It knows no label of these rows, so nothing has to be out of fold.
    """
    train = hide_history(source.frame, choices.hidden_history)
    labels = train[LABEL].to_numpy(dtype=np.bool_)
    patients = train["patient_nbr"].to_numpy(dtype=np.int64)
    if before is None:
        spec = fit_spec(train, labels, choices.min_value_rows, with_race=choices.include_race)
        rows, fold = encode_training(spec, train, labels, patients)
    else:
        spec = before.spec
        rows, fold = encode_frame(spec, train), fold_of(patients.tolist(), FOLDS)
    golden = _golden_frame(train)
    return Encoded(
        spec=spec,
        training=TrainingRows(rows, labels, fold, FOLDS, choices.threads, before.model_file if before else None),
        source=source,
        started_from=before.bundle_sha256 if before else None,
        validation=validation,
        validation_rows=encode_frame(spec, validation),
        unknown_rows=encode_frame(spec, without_history(validation)),
        golden=cleaned_values(golden),
        golden_rows=encode_frame(spec, golden),
    )


def make_candidate(
    family: FamilyName,
    data: Encoded,
    event: BatchReady,
    choices: Choices,
    *,
    code_version: str,
    known: Sequence[Trial] = (),
    keep: Callable[[Trial], None] = lambda _: None,
    tell: Callable[[Progress], None] = lambda _: None,
) -> Candidate:
    """Search, fit and export one family. The same inputs give the same bytes, if the search ended by its trials.

    `known` are trials of a search that was cut off, `keep` is given each new one, `tell` is told how far things are.
    Raises BadTrainingData, ParityBroken.
    """
    started = time.perf_counter()
    model_family = open_family(family, data.training, choices.dask_scheduler)
    tell(Progress("searching", len(known), choices.budget.trials))
    trials = search(
        model_family, FOLDS, choices.budget, known=known, keep=keep,
        tell=lambda done, total: tell(Progress("searching", done, total)),
    )  # fmt: skip
    tell(Progress("fitting"))
    fitted = model_family.fit(best(trials).settled)
    fit_seconds = time.perf_counter() - started
    tell(Progress("validating"))
    labels = data.validation[LABEL].to_numpy(dtype=np.bool_)
    patients = patient_keys(data.validation["patient_nbr"].to_numpy(dtype=np.int64))
    threshold = decision_threshold(choices.missed_cost)
    validated = validate(fitted.probabilities(data.validation_rows), labels, patients, threshold)
    unknown = apply(validated.calibration, log_odds(fitted.probabilities(data.unknown_rows)))
    manifest = Manifest(
        family=family,
        model_name=model_name(family),
        scorer=fitted.scorer,
        model_sha256=hashlib.sha256(fitted.model_file).hexdigest(),
        feature_spec=data.spec,
        feature_spec_sha256=data.spec.sha256(),
        calibration=validated.calibration,
        threshold=Threshold(
            value=threshold,
            statement=f"a missed readmission costs {choices.missed_cost:g} times a needless follow-up",
        ),
        validation=validated.scores,
        without_history=score(unknown, labels, patients, validated.held_out, threshold),
        lineage=_lineage(event, data, code_version, choices.sample_fraction),
        synthetic=event.synthetic,
        golden=tuple(
            GoldenRow(values=values, risk=risk)
            for values, risk in zip(data.golden, _risks(validated.calibration, fitted, data.golden_rows), strict=True)
        ),
    )
    report = describe(data.validation, validated.risks, labels, patients, validated.held_out, threshold)
    training_rows = len(data.training.labels)
    card = model_card(manifest, report, training_rows)
    manifest = manifest.model_copy(update={"card": card})
    bundle = pack(manifest, fitted.model_file)
    parity, row_seconds = _parity(_read_back(bundle), data, validated)
    encounters = data.validation["encounter_id"].to_numpy(dtype=np.int64)
    return Candidate(
        bundle=bundle,
        manifest=manifest,
        evidence=evidence_bytes(
            encounters, patients, labels, validated.risks, validated.held_out, groups_of(data.validation)
        ),
        scores=validated.scores,
        spec_sha256=manifest.feature_spec_sha256,
        params=fitted.params,
        parity=parity,
        fit_seconds=fit_seconds,
        row_seconds=row_seconds,
        trials=trials,
        calibration_losses=validated.losses,
        importances=_shares(data.spec, fitted),
        frame=data.validation,
        labels=labels,
        risks=validated.risks,
        patients=patients,
        held_out=validated.held_out,
        training_rows=training_rows,
        report=report,
        card=card,
    )


def cleaned_values(frame: pd.DataFrame) -> list[dict[str, Value]]:
    """The rows of a frame as serving sees them: feature, history and audit columns by key, missing as None."""
    keys = [key for key in (*(c.key for c in FEATURE_COLUMNS), *HISTORY_KEYS, AUDITED) if key in frame]
    columns = {key: frame[key].astype("object").where(frame[key].notna(), None) for key in keys}
    return [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]


def _golden_frame(train: pd.DataFrame) -> pd.DataFrame:
    """Encounters that nobody had: every column drawn by itself, so that no patient's row leaves the database."""
    random = np.random.default_rng(SEED)
    keys = (*(c.key for c in FEATURE_COLUMNS), *HISTORY_KEYS)
    return pd.DataFrame({key: train[key].iloc[random.integers(len(train), size=_GOLDEN_ROWS)].array for key in keys})


def _lineage(event: BatchReady, data: Encoded, code_version: str, sample_fraction: float) -> Lineage:
    return Lineage(
        dataset_version=event.dataset_version,
        first_batch=data.source.first_batch,
        batch=event.batch,
        started_from=data.started_from,
        batch_sha256=data.source.digests,
        sample_fraction=sample_fraction,
        content_sha256=event.content_sha256,
        schema_sha256=event.schema_sha256,
        code_version=code_version,
        libraries=library_versions(),
    )


def _shares(spec: FeatureSpec, fitted: Fitted) -> dict[str, float]:
    """Importances that sum to 1, the largest first; features that matter nothing are left out."""
    total = float(fitted.importances.sum()) or 1.0
    shares = zip(spec.names, (fitted.importances / total).tolist(), strict=True)
    return dict(sorted(((name, share) for name, share in shares if share > 0), key=lambda pair: -pair[1]))


def _risks(calibration: Calibration, fitted: Fitted, rows: Floats) -> list[float]:
    return [calibration.risk(margin) for margin in log_odds(fitted.probabilities(rows)).tolist()]


def _read_back(bundle: Bundle) -> Model:
    """Write, read, load and check the bundle the way serving does."""
    shelf: dict[str, bytes] = {}
    model = load_model(read_bundle(shelf.__getitem__, write_bundle(shelf.__setitem__, "s3://shelf", bundle)))
    model.check_golden()
    return model


def _parity(model: Model, data: Encoded, validated: Validated) -> tuple[float, float]:
    """Largest distance between the library's risks and the loaded bundle's, many rows at once and one by one.

    And how long one of the latter takes: the median, in seconds. Raises ParityBroken.
    """
    singly = cleaned_values(data.validation.head(_ROWS_SCORED_SINGLY))
    one_by_one, seconds = [], []
    for values in singly:
        started = time.perf_counter()
        one_by_one.append(model.score_values(values))
        seconds.append(time.perf_counter() - started)
    expected = validated.risks
    distances = (model.score_matrix(data.validation_rows) - expected, np.array(one_by_one) - expected[: len(singly)])
    worst = max(float(np.abs(distance).max()) for distance in distances)
    if not worst <= PARITY_TOLERANCE:
        raise ParityBroken(f"the exported model is {worst:.2e} away from the fitted one, at most 1e-6 is allowed")
    return worst, float(np.median(seconds))
