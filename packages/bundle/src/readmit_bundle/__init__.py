"""The model bundle: what a trained model is, as data. Trainers pack it, serving verifies and loads it."""

from readmit_bundle.archive import Bundle, pack, read_bundle, write_bundle
from readmit_bundle.calibration import Beta, Calibration, Identity, Isotonic, Platt
from readmit_bundle.errors import BundleRefused, NotExplained
from readmit_bundle.manifest import (
    FORMAT_VERSION,
    GoldenRow,
    Lineage,
    Manifest,
    ScorerKind,
    Threshold,
)
from readmit_bundle.model import Model, load_model
from readmit_bundle.scorers import preload

__all__ = [
    "FORMAT_VERSION",
    "Beta",
    "Bundle",
    "BundleRefused",
    "Calibration",
    "GoldenRow",
    "Identity",
    "Isotonic",
    "Lineage",
    "Manifest",
    "Model",
    "NotExplained",
    "Platt",
    "ScorerKind",
    "Threshold",
    "load_model",
    "pack",
    "preload",
    "read_bundle",
    "write_bundle",
]
