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
    assert found["race", "Asian"].positives < 30


def test_a_group_of_everybody_is_no_different_from_everybody(found: dict[tuple[str, str], Subgroup]) -> None:
    everybody = found["gender", "Female"]
    assert everybody.verdict == "no difference shown"
    assert everybody.auroc_gap == 0
    assert everybody.observed == pytest.approx(LABELS.mean())


def test_a_group_of_one_class_has_no_auroc() -> None:
    frame = pd.DataFrame({"gender": np.where(LABELS, "Male", "Female")})
    for one in subgroups(frame, RISKS, LABELS, PATIENTS, 0.125):
        assert (one.auroc, one.auroc_low, one.verdict) == (None, None, "insufficient evidence")


def test_who_was_not_recorded_is_a_group_too_and_every_row_is_in_one(found: dict[tuple[str, str], Subgroup]) -> None:
    assert found["race", "(not recorded)"].rows == ROWS // 50
    assert sum(one.rows for (attribute, _), one in found.items() if attribute == "race") == ROWS


def test_the_tables_say_all_of_it(found: dict[tuple[str, str], Subgroup]) -> None:
    groups = list(found.values())
    text = as_markdown(groups)
    assert len(text.splitlines()) == len(groups) + 2
    assert "worse than overall" in text
    assert len(json.loads(json.dumps(as_dicts(groups)))) == len(groups)
