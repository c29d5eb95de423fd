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


def open_family(name: FamilyName, rows: TrainingRows, dask_scheduler: str | None = None) -> Family:
    """The family on these rows; LightGBM's fits run on the Dask cluster, if one is named. Raises PartAway."""
    if name == "lightgbm" and dask_scheduler is not None:
        from readmit_trainer.families.lightgbm_dask import LightGbmOnDask  # noqa: PLC0415  an extra

        return LightGbmOnDask(rows, dask_scheduler)
    return BY_NAME[name](rows)


__all__ = ["BY_NAME", "Family", "Fitted", "TrainingRows", "open_family"]
