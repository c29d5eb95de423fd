"""Every metric of the promoter."""

from __future__ import annotations

import math

from prometheus_client import Counter, Gauge, Histogram

from readmit_promoter.ledger import Decision
from readmit_promoter.verdict import ACCEPTING, Reason

DECISIONS = Counter(
    "decisions_total",
    "Candidates judged, by outcome and reason. bad_*: look at the trainer; insufficient_evidence: at the split.",
    ["outcome", "reason"],
)
DECISION_SECONDS = Histogram(
    "decision_seconds",
    "Time to fetch the evidence of a candidate and to judge it. Growing: more rows, or a slow object store.",
    buckets=(0.1, 0.25, 0.5, 1, 2, 5, 10, 30),
)
LAST_DECISION = Gauge(
    "last_decision_timestamp_seconds", "When a candidate was last judged. Long ago: retraining has stopped."
)
CHAMPION_EPOCH = Gauge("champion_epoch", "Epoch of the last promotion in the ledger; 0 before the first.")
CHAMPION_PROMOTED = Gauge(
    "champion_promoted_timestamp_seconds", "When the champion was promoted. Long ago: nothing has beaten it since."
)
CHAMPION_INFO = Gauge("champion_info", "1 for the champion of the ledger.", ["name", "version", "family", "synthetic"])
#: The champion's figures on validation patients, as the trainer measured them, by metric.
CHAMPION_FIGURES = {
    name: Gauge(f"champion_{name}", f"{meaning}, on validation patients. NaN: not known.")
    for name, meaning in {
        "auroc": "Champion's AUROC",
        "auroc_low": "Lower end of the 95 % interval of the champion's AUROC",
        "auroc_high": "Upper end of the 95 % interval of the champion's AUROC",
        "average_precision": "Champion's average precision",
        "brier": "Champion's Brier score",
        "calibration_error": "Champion's expected calibration error",
        "precision": "Share of the champion's alerts that were readmitted",
        "recall": "Share of readmissions that the champion alerts to",
        "alert_rate": "Share of encounters that the champion alerts to",
    }.items()
}
PODS = Gauge(
    "pods",
    "Pods by their last word. behind: serves an older champion; refused: could not load the present one, see its log.",
    ["state"],
)
REGISTRY_LAGS = Gauge(
    "registry_lags",
    "1 while MLflow's alias and stages may differ from the ledger. Lasting: MLflow is away or refuses a change.",
)

# A rate needs a zero to start from.
for reason in Reason:
    DECISIONS.labels("promoted" if reason in ACCEPTING else "rejected", reason)


def show_champion(champion: Decision | None) -> None:
    """Bring the champion's gauges up to date."""
    CHAMPION_INFO.clear()
    scores: dict[str, float | None] = {}
    if champion is not None:
        model, event = champion.event.model, champion.event
        CHAMPION_INFO.labels(model.name, model.version, model.family, str(event.synthetic).lower()).set(1)
        CHAMPION_PROMOTED.set(champion.decided_at.timestamp())
        scores = event.validation.model_dump()
    CHAMPION_EPOCH.set((champion and champion.epoch) or 0)
    for name, gauge in CHAMPION_FIGURES.items():
        figure = scores.get(name)
        gauge.set(math.nan if figure is None else figure)
