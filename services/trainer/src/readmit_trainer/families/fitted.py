"""What every family gives: a fitted library model, and the same model as a bundle's model file."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from readmit_bundle import ScorerKind

Floats = NDArray[np.float64]
Labels = NDArray[np.bool_]

SEED = 20_040_402


@dataclass(frozen=True, slots=True)
class Fitted:
    """`probabilities` is the library's own answer for encoded rows: what the exported file has to reproduce."""

    scorer: ScorerKind
    model_file: bytes
    params: Mapping[str, float | int | str]
    probabilities: Callable[[Floats], Floats]


class Fit(Protocol):
    """Fit one family on encoded rows (n, d) and labels (n,): deterministic, with at most `threads` threads."""

    def __call__(self, rows: Floats, labels: Labels, threads: int) -> Fitted: ...
