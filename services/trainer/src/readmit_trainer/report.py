"""What is told of a candidate beside its bundle: scores with intervals, audit, model card, lineage, signature."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from readmit_bundle import Manifest
from readmit_contracts.events import ArtifactRef
from readmit_contracts.history import HISTORY, HISTORY_KEYS, INPUTS_BY_KEY
from readmit_features.spec import AUDITED
from readmit_trainer.resampling import Interval, intervals
from readmit_trainer.subgroups import Subgroup, as_markdown, subgroups
from readmit_trainer.validation import Keys

if TYPE_CHECKING:
    import pandas as pd

    from readmit_trainer.candidate import Candidate

_ROWS_IN_SQL = (
    "SELECT * FROM clean_data.diabetes_train"
    " WHERE dataset_version = {version} AND batch_id BETWEEN {first} AND {last} ORDER BY encounter_id"
)
_BATCH_DIGEST = (
    "SHA-256 of a batch's cells as PostgreSQL prints them as CSV, in encounter order;"
    " clean_data.batch_info.sha256 holds it, and the trainer recomputes it before it fits"
)
_LIMITS = (
    "US hospitals, 1999 to 2008; encounters that end in death or a hospice are excluded; what was not recorded is not"
    " missing at random"
)

Floats = NDArray[np.float64]
Labels = NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class Report:
    """Scores by name and the subgroups of one candidate."""

    scores: Mapping[str, Interval]
    audit: list[Subgroup]


def describe(
    frame: pd.DataFrame, risks: Floats, labels: Labels, patients: Keys, held_out: Labels, threshold: float
) -> Report:
    """Draw the intervals; a second or two for a full validation split.

    Arguments are of the validation rows, shape (n,); `held_out` are those that calibration did not see: Brier score and
    calibration error are of these.
    """
    ranking = intervals(risks, labels, patients)
    outside = intervals(risks[held_out], labels[held_out], patients[held_out])
    scores = {**ranking, "brier": outside["brier"], "calibration_error": outside["calibration_error"]}
    return Report(scores, subgroups(frame, risks, labels, patients, threshold))


def originals(candidate: Candidate) -> dict[str, float]:
    """The metrics that the original logged, by its names: at the threshold, on the held-out rows; and the AUROC."""
    held = candidate.held_out
    truth, flagged = candidate.labels[held], candidate.risks[held] >= candidate.manifest.threshold.value
    hits = float((flagged & truth).sum())
    return {
        "accuracy": float((flagged == truth).mean()),
        "precision": hits / max(1.0, float(flagged.sum())),
        "recall": hits / float(truth.sum()),
        "f1_score": 2 * hits / max(1.0, float(flagged.sum() + truth.sum())),
        "roc_auc": candidate.scores.auroc,
    }


def lineage(candidate: Candidate, bundle: ArtifactRef, evidence: ArtifactRef) -> dict[str, Any]:
    """From the model back to its rows: every digest, and how to read the very rows again."""
    made = candidate.manifest.lineage
    return {
        **made.model_dump(mode="json"),
        "feature_spec_sha256": candidate.spec_sha256,
        "bundle": bundle.model_dump(mode="json"),
        "evidence": evidence.model_dump(mode="json"),
        "training_rows": candidate.training_rows,
        "rows_in_sql": _ROWS_IN_SQL.format(version=made.dataset_version, first=made.first_batch, last=made.batch),
        "batch_digest": _BATCH_DIGEST,
    }


def signature(manifest: Manifest) -> str:
    """An MLmodel file without a flavour to load: inputs and output by name and type, for MLflow's page."""
    inputs = []
    for key in sorted(manifest.feature_spec.columns, key=list(INPUTS_BY_KEY).index):
        column = INPUTS_BY_KEY[key]
        name = f"{HISTORY}.{column.name}" if key in HISTORY_KEYS else column.name
        kind = "long" if column.is_number else "string"
        inputs.append({"type": kind, "name": name, "required": column.required and key not in HISTORY_KEYS})
    output = [{"type": "double", "name": "risk", "required": True}]
    return json.dumps(
        {
            "flavors": {"readmit_bundle": {"format_version": manifest.format_version, "scorer": manifest.scorer}},
            "signature": {"inputs": json.dumps(inputs), "outputs": json.dumps(output)},
        },
        indent=1,
    )


def model_card(manifest: Manifest, report: Report, training_rows: int) -> str:
    """What people should know before they trust the model, as Markdown. `manifest` needs no card yet."""
    alone = manifest.without_history
    apart = [f"{one.attribute} {one.group}: {one.verdict}" for one in report.audit if "overall" in one.verdict]
    told = {
        "Calibration": f"{manifest.calibration.method}, chosen and fitted on one half of the validation patients; Brier"
        " score and calibration error are of the other half",
        "Threshold": f"{manifest.threshold.value:.3f}, since {manifest.threshold.statement}",
        "History": "the patient's earlier encounters, in the order of their numbers, as known at the discharge"
        + (f"; where nobody's is known, the AUROC is {alone.auroc:.4f}" if alone is not None else ""),
        "Race": "a feature" if AUDITED in manifest.feature_spec.columns else "kept for the audit below, not a feature",
        "Who is served differently": "; ".join(apart) or "no group, as far as the data can tell",
        "Limits": _LIMITS,
    }
    synthetic = " **Trained on generated data.**" if manifest.synthetic else ""
    blocks = [
        f"# {manifest.model_name}",
        "Risk that a patient with diabetes is readmitted within 30 days of discharge. **Not for clinical use.**"
        + synthetic,
        _trained_on(manifest, training_rows),
        _scores_table(report.scores),
        "\n".join(f"- **{name}**: {words}." for name, words in told.items()),
        as_markdown(report.audit),
    ]
    return "\n\n".join(blocks)


def _trained_on(manifest: Manifest, training_rows: int) -> str:
    made, scores = manifest.lineage, manifest.validation
    before = f", going on from the model in bundle {made.started_from[:12]}" if made.started_from else ""
    return (
        f"Trained on batches {made.first_batch} to {made.batch} of dataset {made.dataset_version}{before}"
        f" ({training_rows:,} encounters), code {made.code_version}, feature spec"
        f" {manifest.feature_spec_sha256[:12]} ({len(manifest.feature_spec.names)} features). On {scores.rows:,}"
        f" validation encounters of other patients, {scores.positives:,} readmitted:"
    )


def _scores_table(scores: Mapping[str, Interval]) -> str:
    rows = [f"| {name.replace('_', ' ')} | {s.value:.4f} | {s.low:.4f} to {s.high:.4f} |" for name, s in scores.items()]
    return "\n".join(["| score | value | 95 % interval |", "| --- | --- | --- |", *rows])
