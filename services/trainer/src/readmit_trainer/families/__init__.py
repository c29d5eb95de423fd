"""The model families. A new one is a file here and a line below (and in `domain.FAMILIES`)."""

from collections.abc import Mapping

from readmit_trainer.domain import FamilyName
from readmit_trainer.families import decision_tree, lightgbm, logistic_regression
from readmit_trainer.families.fitted import Fit, Fitted

FITS: Mapping[FamilyName, Fit] = {
    "lightgbm": lightgbm.fit,
    "decision_tree": decision_tree.fit,
    "logistic_regression": logistic_regression.fit,
}

__all__ = ["FITS", "Fit", "Fitted"]
