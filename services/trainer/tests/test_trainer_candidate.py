"""From rows to an exported, proven candidate; one test for all families."""

from __future__ import annotations

import io
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from typing import Any, get_args

import numpy as np
import pandas as pd
import pytest

from readmit_bundle import load_model
from readmit_contracts.events import BatchReady
from readmit_contracts.history import HISTORY_KEYS
from readmit_features.cleaning import clean_encounter
from readmit_features.history import with_history
from readmit_trainer import candidate as candidates
from readmit_trainer.candidate import Candidate, Choices, Encoded, cleaned_values, encode, make_candidate
from readmit_trainer.dataset import Training
from readmit_trainer.domain import FAMILIES, FamilyName, Progress
from readmit_trainer.errors import ParityBroken
from readmit_trainer.families import BY_NAME, Fitted
from readmit_trainer.families.logistic_regression import LogisticRegression
from readmit_trainer.search import Budget, Trial
from readmit_trainer.subgroups import ATTRIBUTES

CHOICES = Choices(min_value_rows=100, budget=Budget(trials=2, seconds=60.0))


@pytest.fixture(scope="module")
def data(encounters: pd.DataFrame) -> Encoded:
    train, validation = (
        with_history(encounters[encounters["split"] == split].reset_index(drop=True))
        for split in ("train", "validation")
    )
    return encode(Training(train, 1, ("b" * 64,)), validation, CHOICES)


Make = Callable[..., Candidate]


@pytest.fixture
def make(data: Encoded, make_event: Callable[..., BatchReady]) -> Make:
    def made(family: FamilyName, **how: Any) -> Candidate:
        return make_candidate(family, data, make_event(), CHOICES, code_version="test", **how)

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
        assert arrays["held_out"].sum() == candidate.held_out.sum()
        for attribute in ATTRIBUTES:
            told = arrays[f"{attribute}_names"][arrays[attribute]]
            assert Counter(told.tolist()) == Counter(data.validation[attribute].fillna("(not recorded)"))
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
        posted: dict[str, Any] = {k: v for k, v in values.items() if v is not None and k not in HISTORY_KEYS}
        posted["history"] = {key: values[key] for key in HISTORY_KEYS if values[key] is not None}
        cleaned = clean_encounter(posted)
        assert cleaned.errors == []
        assert model.score_values(cleaned.values | cleaned.history) == model.score_values(values)


def test_without_history_the_model_answers_as_it_was_measured_to(make: Make, data: Encoded) -> None:
    candidate = make("logistic_regression")
    model = load_model(candidate.bundle)
    values = cleaned_values(data.validation.head(50))
    alone = [model.score_values({k: v for k, v in row.items() if k not in HISTORY_KEYS}) for row in values]
    assert alone == pytest.approx(model.score_matrix(data.unknown_rows[:50]), abs=1e-9)
    assert alone != pytest.approx(model.score_matrix(data.validation_rows[:50]), abs=1e-3)
    unknown = model.manifest.without_history
    assert unknown is not None
    assert unknown.rows == candidate.scores.rows
    assert unknown.auroc_low > 0.5


def test_progress_and_trials_are_told_and_a_known_trial_is_not_made_again(make: Make) -> None:
    told: list[Progress] = []
    kept: list[Trial] = []
    whole = make("logistic_regression", tell=told.append, keep=kept.append)
    assert [one.stage for one in told] == ["searching", "searching", "searching", "fitting", "validating"]
    assert told[2] == Progress("searching", 2, 2)
    assert whole.trials == tuple(kept)
    again: list[Trial] = []
    resumed = make("logistic_regression", known=kept[:1], keep=again.append)
    assert [trial.number for trial in again] == [1]
    assert resumed.bundle.sha256 == whole.bundle.sha256


def test_importances_are_shares_by_name(make: Make, data: Encoded) -> None:
    for family in FAMILIES:
        importances = make(family).importances
        assert sum(importances.values()) == pytest.approx(1.0)
        assert set(importances) <= set(data.spec.names)
        assert list(importances.values()) == sorted(importances.values(), reverse=True)


def test_golden_rows_are_nobodys(data: Encoded, encounters: pd.DataFrame) -> None:
    columns = list(data.golden[0])
    features = [column for column in columns if column in encounters]
    real = {tuple(values[column] for column in features) for values in cleaned_values(encounters)}
    assert not real & {tuple(values[column] for column in features) for values in data.golden}
    assert not {"encounter_id", "patient_nbr", "race", "readmitted"} & set(columns)


def test_an_export_that_says_something_else_than_the_model_is_refused(
    make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Dishonest(LogisticRegression):
        def fit(self, params: Any) -> Fitted:
            honest = super().fit(params)
            return replace(
                honest, probabilities=lambda rows: honest.probabilities(rows) * (0.999 if len(rows) > 100 else 1.0)
            )

    monkeypatch.setattr(candidates, "open_family", lambda _name, rows, _scheduler: Dishonest(rows))
    with pytest.raises(ParityBroken, match="away from the fitted one"):
        make("decision_tree")


def test_every_family_can_be_fitted() -> None:
    assert set(BY_NAME) == set(FAMILIES) == set(get_args(FamilyName))
