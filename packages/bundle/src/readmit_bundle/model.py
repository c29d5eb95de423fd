"""A loaded model: encoder, scorer and calibration of one verified bundle."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from pydantic import ValidationError

from readmit_bundle.archive import FILES, MANIFEST_FILE, MODEL_FILE, Bundle, digest
from readmit_bundle.errors import BundleRefused
from readmit_bundle.manifest import Manifest
from readmit_bundle.scorers import Floats, Scorer, load_scorer
from readmit_features.cleaning import Value
from readmit_features.row import RowEncoder


@dataclass(frozen=True, slots=True)
class Model:
    """Scores cleaned encounters. Thread-safe."""

    manifest: Manifest
    sha256: str
    encoder: RowEncoder
    scorer: Scorer

    @property
    def threshold(self) -> float:
        """From which risk on an encounter counts as readmitted."""
        return self.manifest.threshold.value

    def score_values(self, values: Mapping[str, Value]) -> float:
        """Calibrated risk of one cleaned encounter (values by `Column.key`), in tens of microseconds.

        The values of its history, if it is known, are among them.
        """
        return self.manifest.calibration.risk(self.scorer.one(self.encoder.encode(values)))

    def score_matrix(self, rows: Floats) -> Floats:
        """Calibrated risks of encoded rows, shape (n, encoder.width)."""
        risk = self.manifest.calibration.risk
        return np.array([risk(margin) for margin in self.scorer.many(rows).tolist()])

    def check_golden(self, tolerance: float = 1e-6) -> None:
        """BundleRefused, naming the row, unless every golden row gets the risk that the trainer recorded."""
        for number, row in enumerate(self.manifest.golden):
            risk = self.score_values(row.values)
            if not abs(risk - row.risk) <= tolerance:
                raise BundleRefused(f"golden row {number}: risk {risk:.9f}, expected {row.risk:.9f}")


def load_model(bundle: Bundle) -> Model:
    """The model of a verified bundle; BundleRefused when it is of another format or contradicts itself."""
    if set(bundle.files) != set(FILES):
        raise BundleRefused(f"files {sorted(bundle.files)}, expected {sorted(FILES)}")
    try:
        manifest = Manifest.model_validate_json(bundle.files[MANIFEST_FILE])
    except ValidationError as error:
        first = error.errors()[0]
        raise BundleRefused(f"bundle.json: {'.'.join(map(str, first['loc']))}: {first['msg']}") from error
    if digest(bundle.files[MODEL_FILE]) != manifest.model_sha256:
        raise BundleRefused("the model file is not the one that bundle.json was written for")
    if manifest.feature_spec.sha256() != manifest.feature_spec_sha256:
        raise BundleRefused("the feature spec does not match its digest")
    encoder = RowEncoder(manifest.feature_spec)
    scorer = load_scorer(manifest.scorer, bundle.files[MODEL_FILE])
    if scorer.width != encoder.width:
        raise BundleRefused(f"the model takes {scorer.width} features, the spec gives {encoder.width}")
    return Model(manifest, bundle.sha256, encoder, scorer)
