"""The model families. A new one is a file here and a line below (and in `domain.FAMILIES`)."""

from collections.abc import Mapping

from readmit_trainer.domain import FamilyName
from readmit_trainer.families.decision_tree import DecisionTree
from readmit_trainer.families.fitted import Family, Fitted, TrainingRows
from readmit_trainer.families.lightgbm import LightGbm
from readmit_trainer.families.logistic_regression import LogisticRegression

BY_NAME: Mapping[FamilyName, type[Family]] = {
    "lightgbm": LightGbm,
    "decision_tree": DecisionTree,
    "logistic_regression": LogisticRegression,
}

__all__ = ["BY_NAME", "Family", "Fitted", "TrainingRows"]
