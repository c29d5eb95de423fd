"""The audit by race, sex and age."""

from __future__ import annotations

import json

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import roc_auc_score

from readmit_trainer.subgroups import Subgroup, as_dicts, as_markdown, subgroups
from readmit_trainer.validation import hashed

RANDOM = np.random.default_rng(2)
ROWS = 6_000
GROUP = RANDOM.choice(["Caucasian", "AfricanAmerican", "Asian"], ROWS, p=[0.7, 0.297, 0.003])
LABELS = RANDOM.random(ROWS) < 0.15
NOISE = np.where(GROUP == "AfricanAmerican", 3.0, 1.0)  # their risks say hardly anything
RISKS = 1 / (1 + np.exp(2.0 - LABELS * 1.5 - RANDOM.normal(0, NOISE)))
PATIENTS = hashed((n // 2 for n in range(ROWS)), b"test")
FRAME = pd.DataFrame(
    {"race": pd.Series(GROUP).mask(pd.Series(range(ROWS)) % 50 == 0), "gender": "Female", "age": "[60-70)"}
)


@pytest.fixture(scope="module")
def found() -> dict[tuple[str, str], Subgroup]:
    return {(one.attribute, one.group): one for one in subgroups(FRAME, RISKS, LABELS, PATIENTS, 0.125)}


def test_a_group_that_is_served_worse_is_named(found: dict[tuple[str, str], Subgroup]) -> None:
    worse, rest = found["race", "AfricanAmerican"], found["race", "Caucasian"]
    assert worse.verdict == "worse than overall"
    assert rest.verdict == "better than overall"
    inside = (FRAME["race"] == "AfricanAmerican").to_numpy()
    assert worse.auroc == pytest.approx(roc_auc_score(LABELS[inside], RISKS[inside]))
    assert worse.auroc_gap == pytest.approx(worse.auroc - roc_auc_score(LABELS, RISKS))
    assert worse.auroc_low is not None
    assert worse.auroc_high is not None
    assert worse.auroc_low < worse.auroc < worse.auroc_high
    assert (worse.rows, worse.positives) == (inside.sum(), LABELS[inside].sum())
    assert worse.recall == pytest.approx((RISKS[inside & LABELS] >= 0.125).mean())


def test_few_patients_are_no_evidence(found: dict[tuple[str, str], Subgroup]) -> None:
    assert found["race", "Asian"].verdict == "insufficient evidence"
    positives = found["race", "Asian"].positives
    assert positives is not None
    assert positives < 30


def test_a_group_of_everybody_is_no_different_from_everybody(found: dict[tuple[str, str], Subgroup]) -> None:
    everybody = found["gender", "Female"]
    assert everybody.verdict == "no difference shown"
    assert everybody.auroc_gap == 0
    assert everybody.observed == pytest.approx(LABELS.mean())


def test_a_group_of_one_class_has_no_auroc() -> None:
    frame = pd.DataFrame({"gender": np.where(LABELS, "Male", "Female")})
    for one in subgroups(frame, RISKS, LABELS, PATIENTS, 0.125):
        assert (one.auroc, one.auroc_low, one.excess_low, one.verdict) == (None, None, None, "insufficient evidence")


def test_risks_that_are_too_high_for_one_group_show_in_its_calibration_and_recall() -> None:
    male = np.arange(ROWS) % 4 < 2
    frame = pd.DataFrame({"gender": np.where(male, "Male", "Female")})
    noise = np.random.default_rng(3).normal(0, 0.001, ROWS)
    risks = np.where(male, 1.5, 1.0) * LABELS.mean() + noise
    found = {one.group: one for one in subgroups(frame, risks, LABELS, PATIENTS, 0.2)}
    too_high, right = found["Male"], found["Female"]
    assert too_high.observed is not None
    assert too_high.expected is not None
    assert too_high.excess_low is not None
    assert too_high.excess_high is not None
    assert too_high.excess_low < too_high.observed - too_high.expected < too_high.excess_high < 0
    assert right.excess_low is not None
    assert right.excess_high is not None
    assert right.excess_low < 0 < right.excess_high
    assert (too_high.recall, too_high.recall_low, right.recall) == (1.0, 1.0, 0.0)


@pytest.mark.parametrize(("patients", "told"), [(10, False), (11, True)])
def test_of_a_handful_of_patients_only_the_number_is_told(patients: int, told: bool) -> None:
    frame = pd.DataFrame({"race": np.where(np.arange(ROWS) < 2 * patients, "Asian", "Caucasian")})
    [one] = (one for one in subgroups(frame, RISKS, LABELS, PATIENTS, 0.125) if one.group == "Asian")
    assert (one.rows, one.patients) == (2 * patients, patients)
    figures = (one.positives, one.observed, one.expected, one.alert_rate)
    assert all((figure is not None) == told for figure in figures)
    assert ("| race Asian | 20 | - | - | - / - | - | - | - |" in as_markdown([one])) != told


def test_who_was_not_recorded_is_a_group_too_and_every_row_is_in_one(found: dict[tuple[str, str], Subgroup]) -> None:
    assert found["race", "(not recorded)"].rows == ROWS // 50
    assert sum(one.rows for (attribute, _), one in found.items() if attribute == "race") == ROWS


def test_the_tables_say_all_of_it(found: dict[tuple[str, str], Subgroup]) -> None:
    groups = list(found.values())
    text = as_markdown(groups)
    assert len([line for line in text.splitlines() if line.startswith("|")]) == len(groups) + 2
    assert "worse than overall" in text
    assert len(json.loads(json.dumps(as_dicts(groups)))) == len(groups)
