"""The three scorers: encoded rows in, margins (log-odds) out. Each has a form for one row and one for many.

Thread-safe: a scorer never changes once it is built.
"""

from __future__ import annotations

import ctypes
import math
import threading
import weakref
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Annotated, Protocol, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, FiniteFloat, model_validator

from readmit_bundle.errors import BundleRefused, NotExplained
from readmit_bundle.lightgbm_library import FLOAT64, RAW_SCORE, Booster, check, library
from readmit_bundle.manifest import ScorerKind
from readmit_bundle.shapley import Paths, paths_of

Floats = NDArray[np.float64]


class Scorer(Protocol):
    """`width` is the number of features; one margin per row.

    `shapley` gives the Shapley values of one row, shape (width,), and the margin of a row of which nothing is known;
    together they are the row's margin. It may take some milliseconds. Raises `NotExplained` where the model file lacks
    what it takes.
    """

    @property
    def width(self) -> int: ...

    def one(self, row: Floats) -> float: ...

    def many(self, rows: Floats) -> Floats: ...

    def shapley(self, row: Floats) -> tuple[Floats, float]: ...


class LinearFile(BaseModel):
    """A linear model, any scaling of the features folded into its coefficients. `means` are those of training."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    intercept: FiniteFloat
    coefficients: list[FiniteFloat]
    means: list[FiniteFloat] | None = None

    @model_validator(mode="after")
    def _has_a_mean_for_each(self) -> Self:
        if self.means is not None and len(self.means) != len(self.coefficients):
            raise ValueError("as many means as coefficients are needed")
        return self


class TreeFile(BaseModel):
    """One binary tree as parallel arrays, node 0 its root: go left when float32(x[feature]) <= threshold.

    A leaf has `left` = `right` = -1, and its margin in `value`. Children stand behind their parent, so a walk ends.
    `rows` are those of training that came to each node.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    width: Annotated[int, Field(ge=1)]
    feature: Annotated[list[int], Field(min_length=1)]
    threshold: list[FiniteFloat]
    left: list[int]
    right: list[int]
    value: list[FiniteFloat]
    rows: list[Annotated[int, Field(ge=1)]] | None = None

    @model_validator(mode="after")
    def _is_a_tree(self) -> Self:
        nodes = len(self.feature)
        if {len(self.threshold), len(self.left), len(self.right), len(self.value)} != {nodes}:
            raise ValueError("the arrays differ in length")
        if self.rows is not None and len(self.rows) != nodes:
            raise ValueError("rows has another length than the other arrays")
        for node, (left, right, feature) in enumerate(zip(self.left, self.right, self.feature, strict=True)):
            is_leaf = left == right == -1
            if not is_leaf and not (node < left < nodes and node < right < nodes and 0 <= feature < self.width):
                raise ValueError(f"node {node} points outside the tree")
            if not is_leaf and self.rows is not None and self.rows[node] != self.rows[left] + self.rows[right]:
                raise ValueError(f"node {node} has other rows than its children")
        return self


@dataclass(frozen=True, slots=True)
class Linear:
    """Dot product."""

    width: int
    intercept: float
    coefficients: Floats
    means: Floats | None

    def one(self, row: Floats) -> float:
        return float(row @ self.coefficients) + self.intercept

    def many(self, rows: Floats) -> Floats:
        return rows @ self.coefficients + self.intercept

    def shapley(self, row: Floats) -> tuple[Floats, float]:
        """Features taken as independent (Strumbelj and Kononenko 2014): coefficient times distance from the mean."""
        if self.means is None:
            raise NotExplained("the means of training")
        return self.coefficients * (row - self.means), float(self.means @ self.coefficients) + self.intercept


@dataclass(frozen=True, slots=True)
class Tree:
    """A walk from the root, over lists for one row, level by level over arrays for many."""

    width: int
    nodes: TreeFile
    paths: Paths | None

    def one(self, row: Floats) -> float:
        values = row.astype(np.float32).tolist()
        tree, node = self.nodes, 0
        while (left := tree.left[node]) >= 0:
            node = left if values[tree.feature[node]] <= tree.threshold[node] else tree.right[node]
        return tree.value[node]

    def many(self, rows: Floats) -> Floats:
        values = rows.astype(np.float32).astype(np.float64)
        left, right = np.array(self.nodes.left), np.array(self.nodes.right)
        feature, threshold = np.array(self.nodes.feature), np.array(self.nodes.threshold)
        node = np.zeros(len(rows), dtype=np.int64)
        inner = np.flatnonzero(left[node] >= 0)
        while len(inner):
            at = node[inner]
            goes_left = values[inner, feature[at]] <= threshold[at]
            node[inner] = np.where(goes_left, left[at], right[at])
            inner = inner[left[node[inner]] >= 0]
        return np.array(self.nodes.value)[node]

    def shapley(self, row: Floats) -> tuple[Floats, float]:
        """Weighted by the rows of training that took each branch, as TreeSHAP does (`shapley.Paths`)."""
        if self.paths is None:
            raise NotExplained("the rows of training at each node")
        return self.paths.values(row.astype(np.float32).astype(np.float64)), self.paths.base


class LightGbm:
    """LightGBM's own text format, scored by LightGBM with one thread.

    One row goes through the call of LightGBM's C API that is made for it (`LGBM_BoosterPredictForMatSingleRowFast`):
    the Python method spends several times what the trees take on preparing for any kind of data.
    """

    def __init__(self, booster: Booster) -> None:
        self.booster = booster
        self.width = booster.num_feature()
        self._row = np.zeros(self.width)
        self._margin, length = ctypes.c_double(), ctypes.c_int64()
        self._config = ctypes.c_void_p()
        check(
            library().LGBM_BoosterPredictForMatSingleRowFastInit(
                booster.handle, ctypes.c_int(RAW_SCORE), ctypes.c_int(0), ctypes.c_int(-1), ctypes.c_int(FLOAT64),
                ctypes.c_int32(self.width), ctypes.c_char_p(b"num_threads=1"), ctypes.byref(self._config),
            )
        )  # fmt: skip
        self._predict = library().LGBM_BoosterPredictForMatSingleRowFast
        self._arguments = (
            self._config, ctypes.c_void_p(self._row.ctypes.data), ctypes.byref(length), ctypes.byref(self._margin),
        )  # fmt: skip
        self._lock = threading.Lock()  # row and margin are the same memory for all calls
        weakref.finalize(self, library().LGBM_FastConfigFree, self._config)

    def one(self, row: Floats) -> float:
        with self._lock:
            self._row[:] = row
            failed = self._predict(*self._arguments)
            margin = self._margin.value
        if failed:
            check(failed)
        return margin

    def many(self, rows: Floats) -> Floats:
        return self.booster.predict(rows, raw_score=True, num_threads=1)

    def shapley(self, row: Floats) -> tuple[Floats, float]:
        """LightGBM's own TreeSHAP (Lundberg, Erion and Lee 2018)."""
        told = self.booster.predict(row.reshape(1, -1), pred_contrib=True, num_threads=1)
        return told[0, :-1], float(told[0, -1])


def load_linear(data: bytes) -> Scorer:
    """From the JSON of a `LinearFile`."""
    file = LinearFile.model_validate_json(data)
    means = None if file.means is None else np.array(file.means, dtype=np.float64)
    return Linear(len(file.coefficients), file.intercept, np.array(file.coefficients, dtype=np.float64), means)


def load_tree(data: bytes) -> Scorer:
    """From the JSON of a `TreeFile`."""
    file = TreeFile.model_validate_json(data)
    paths = None
    if file.rows is not None:
        paths = paths_of(file.feature, file.threshold, file.left, file.right, file.value, file.rows, file.width)
    return Tree(file.width, file, paths)


def load_lightgbm(data: bytes) -> Scorer:
    """From LightGBM's text format."""
    text = data.decode()
    for line in text.splitlines():
        name, _, numbers = line.partition("=")
        if name in {"leaf_value", "threshold"} and not all(math.isfinite(float(n)) for n in numbers.split()):
            raise BundleRefused(f"the model file holds a {name} that is not finite")
    return LightGbm(Booster(text))


_LOADERS: Mapping[ScorerKind, Callable[[bytes], Scorer]] = {
    "lightgbm_text": load_lightgbm,
    "tree_arrays": load_tree,
    "linear": load_linear,
}


def preload() -> None:
    """Load what the scorers need, so that the first model is not the one that waits for it. Blocks for milliseconds."""
    library()


def load_scorer(kind: ScorerKind, data: bytes) -> Scorer:
    """The scorer in a model file; BundleRefused when the file is not one of its kind."""
    try:
        return _LOADERS[kind](data)
    except ValueError as error:
        raise BundleRefused(f"the model file is not {kind}: {error}") from error
