"""LightGBM's C API, of its installed wheel, without its Python package.

The package imports scipy, and pandas, scikit-learn and Dask where these are installed: half a second of processor time
and 20 MB or more that answering does not need. Names are those of the package's `Booster`.
"""

from __future__ import annotations

import ctypes
import weakref
from functools import cache
from importlib.util import find_spec
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

# Constants of the C API.
RAW_SCORE, CONTRIBUTIONS, FLOAT64 = 1, 3, 1
_ROW_MAJOR, _ALL_TREES = 1, -1


class LightGbmError(ValueError):
    """What LightGBM says went wrong."""


@cache
def library() -> ctypes.CDLL:
    """The loaded library; some milliseconds the first time. Its calls release the GIL."""
    package = find_spec("lightgbm")
    if package is None or package.origin is None:
        raise ModuleNotFoundError("lightgbm is not installed")
    (path,) = (Path(package.origin).parent / "lib").glob("lib_lightgbm.*")
    loaded = ctypes.CDLL(str(path))
    loaded.LGBM_GetLastError.restype = ctypes.c_char_p
    return loaded


def check(code: int) -> None:
    """Raises `LightGbmError` when a call has failed."""
    if code:
        raise LightGbmError(library().LGBM_GetLastError().decode(errors="replace"))


class Booster:
    """A model in LightGBM's text format, with one margin per row. Predictions are thread-safe."""

    def __init__(self, model_str: str) -> None:
        """Raises `LightGbmError` for what is not such a model."""
        self.handle = ctypes.c_void_p()
        trees = ctypes.c_int()
        check(
            library().LGBM_BoosterLoadModelFromString(
                ctypes.c_char_p(model_str.encode()), ctypes.byref(trees), ctypes.byref(self.handle)
            )
        )
        weakref.finalize(self, library().LGBM_BoosterFree, self.handle)
        classes = ctypes.c_int()
        check(library().LGBM_BoosterGetNumClasses(self.handle, ctypes.byref(classes)))
        if classes.value != 1:  # the buffers for answers hold one number per row
            raise LightGbmError(f"{classes.value} classes, expected 1")

    def num_feature(self) -> int:
        """How many numbers a row has."""
        found = ctypes.c_int()
        check(library().LGBM_BoosterGetNumFeature(self.handle, ctypes.byref(found)))
        return found.value

    def predict(
        self, rows: Floats, *, raw_score: bool = False, pred_contrib: bool = False, num_threads: int = 1
    ) -> Floats:
        """Margins, shape (n,), of rows (n, d); or what each feature adds to them and the rest, shape (n, d + 1)."""
        if not (raw_score or pred_contrib):
            raise NotImplementedError("margins only: the calibration is the bundle's own")
        rows = np.ascontiguousarray(rows, dtype=np.float64)
        width = self.num_feature()
        if rows.ndim != 2 or rows.shape[1] != width:
            raise LightGbmError(f"rows of shape {rows.shape}, expected (n, {width})")
        made = np.empty((len(rows), width + 1) if pred_contrib else len(rows))
        kind, length = CONTRIBUTIONS if pred_contrib else RAW_SCORE, ctypes.c_int64()
        check(
            library().LGBM_BoosterPredictForMat(
                self.handle, ctypes.c_void_p(rows.ctypes.data), ctypes.c_int(FLOAT64), ctypes.c_int32(len(rows)),
                ctypes.c_int32(width), ctypes.c_int(_ROW_MAJOR), ctypes.c_int(kind), ctypes.c_int(0),
                ctypes.c_int(_ALL_TREES), ctypes.c_char_p(b"num_threads=%d" % num_threads), ctypes.byref(length),
                ctypes.c_void_p(made.ctypes.data),
            )
        )  # fmt: skip
        return made
