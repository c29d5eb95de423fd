"""What every family is: a search space, a score of one fold, and a fit whose result can be exported as data."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Protocol

import numpy as np
from numpy.typing import NDArray

from readmit_bundle import ScorerKind

if TYPE_CHECKING:
    import optuna

Floats = NDArray[np.float64]
Labels = NDArray[np.bool_]
Params = Mapping[str, float | int | str]

SEED = 20_040_402


@dataclass(frozen=True, slots=True)
class TrainingRows:
    """Encoded rows (n, d), labels (n,) and the fold of each row (n,), of whole patients; threads of one fit.

    `start` is the file of an earlier model of the same features to go on from, for a family that can.
    """

    rows: Floats
    labels: Labels
    fold: NDArray[np.int64]
    folds: int
    threads: int
    start: bytes | None = None

    def split(self, held_out: int) -> tuple[Floats, Labels, Floats, Labels]:
        """Rows and labels of the other folds, rows and labels of the held-out one."""
        out = self.fold == held_out
        return self.rows[~out], self.labels[~out], self.rows[out], self.labels[out]


@dataclass(frozen=True, slots=True)
class FoldScore:
    """Mean log loss of a held-out fold in nats, and the parameters as the fit settled them."""

    loss: float
    params: Params


@dataclass(frozen=True, slots=True)
class Fitted:
    """`probabilities` is the library's own answer for encoded rows: what the exported file has to reproduce.

    `importances` are one non-negative number per feature, in a unit of the family's own.
    """

    scorer: ScorerKind
    model_file: bytes
    params: Params
    probabilities: Callable[[Floats], Floats]
    importances: Floats


class Family(Protocol):
    """A family on one set of training rows. Deterministic, with at most `data.threads` threads."""

    #: Where the search begins: good on the whole data set.
    start: ClassVar[Params]

    def __init__(self, data: TrainingRows) -> None: ...

    def suggest(self, trial: optuna.Trial) -> Params:
        """The next point of the search space."""
        ...

    def score_fold(self, params: Params, held_out: int) -> FoldScore:
        """Fit on the other folds, score the held-out one."""
        ...

    def settle(self, params: Params, folds: Sequence[Params]) -> Params:
        """The parameters of the last fit, after what its folds settled."""
        ...

    def fit(self, params: Params) -> Fitted:
        """Fit on all rows."""
        ...


def log_loss(labels: Labels, probabilities: Floats) -> float:
    """Mean negative log likelihood in nats."""
    return float(row_losses(labels, probabilities).mean())


def row_losses(labels: Labels, probabilities: Floats) -> Floats:
    """Negative log likelihood of each row in nats; certainty is capped at 1e-9."""
    inside = np.clip(probabilities, 1e-9, 1 - 1e-9)
    return np.asarray(-np.where(labels, np.log(inside), np.log1p(-inside)))
