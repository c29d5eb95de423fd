"""From rows to an exported, proven candidate; one test for all families."""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import get_args

import numpy as np
import pandas as pd
import pytest

from readmit_bundle import load_model
from readmit_contracts.events import BatchReady
from readmit_features.cleaning import clean_encounter
from readmit_trainer import candidate as candidates
from readmit_trainer.candidate import Candidate, Encoded, cleaned_values, encode, make_candidate
from readmit_trainer.domain import FAMILIES, FamilyName
from readmit_trainer.errors import ParityBroken
from readmit_trainer.families import FITS, Fitted


@pytest.fixture(scope="module")
def data(encounters: pd.DataFrame) -> Encoded:
    train, validation = (encounters[encounters["split"] == split] for split in ("train", "validation"))
    return encode(train.reset_index(drop=True), validation.reset_index(drop=True), min_value_rows=100)


Make = Callable[[FamilyName], Candidate]


@pytest.fixture
def make(data: Encoded, make_event: Callable[..., BatchReady]) -> Make:
    def made(family: FamilyName) -> Candidate:
        return make_candidate(
            family, data, make_event(), ("b" * 64,), code_version="test", threads=1, missed_cost=7.0
        )  # fmt: skip

    return made


@pytest.mark.parametrize("family", FAMILIES)
def test_a_candidate_beats_chance_and_its_bundle_gives_the_fitted_models_risks(
    family: FamilyName, make: Make, data: Encoded
) -> None:
    candidate = make(family)
    assert candidate.scores.auroc_low > 0.5
    assert candidate.parity <= 1e-9
    model = load_model(candidate.bundle)
    with np.load(io.BytesIO(candidate.evidence), allow_pickle=False) as arrays:
        assert sorted(arrays["risk"]) == pytest.approx(sorted(model.score_matrix(data.validation_rows)), abs=1e-9)
    assert model.threshold == 0.125
    assert model.manifest.synthetic is True
    assert len(model.manifest.golden) == 16


@pytest.mark.parametrize("family", FAMILIES)
def test_the_same_rows_give_the_same_bytes(family: FamilyName, make: Make) -> None:
    first, second = make(family), make(family)
    assert (first.bundle.sha256, first.evidence) == (second.bundle.sha256, second.evidence)


def test_what_serving_cleans_from_a_posted_encounter_is_what_the_trainer_scored(make: Make, data: Encoded) -> None:
    model = load_model(make("lightgbm").bundle)
    singly = [values for values in cleaned_values(data.validation.head(200)) if values["diag_1"] is not None]
    for values in singly:
        posted = {key: value for key, value in values.items() if value is not None}
        cleaned = clean_encounter(posted)
        assert cleaned.errors == []
        assert model.score_values(cleaned.values) == model.score_values(values)


def test_golden_rows_are_nobodys(data: Encoded, encounters: pd.DataFrame) -> None:
    columns = list(data.golden[0])
    real = {tuple(values.values()) for values in cleaned_values(encounters)}
    assert not real & {tuple(values[column] for column in columns) for values in data.golden}
    assert not {"encounter_id", "patient_nbr", "race", "readmitted"} & set(columns)


def test_an_export_that_says_something_else_than_the_model_is_refused(
    make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    def dishonest(rows: np.ndarray, labels: np.ndarray, threads: int) -> Fitted:
        honest = FITS["logistic_regression"](rows, labels, threads)
        first = rows[0].tobytes()

        def probabilities(new: np.ndarray) -> np.ndarray:
            return honest.probabilities(new) * (1.0 if new[0].tobytes() != first and len(new) < 100 else 0.999)

        return Fitted(honest.scorer, honest.model_file, honest.params, probabilities)

    monkeypatch.setattr(candidates, "FITS", {"decision_tree": dishonest})
    with pytest.raises(ParityBroken, match="away from the fitted one"):
        make("decision_tree")


def test_every_family_can_be_fitted() -> None:
    assert set(FITS) == set(FAMILIES) == set(get_args(FamilyName))
