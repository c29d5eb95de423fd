"""Every metric of the promoter."""

from __future__ import annotations

from prometheus_client import Counter, Gauge, Histogram

DECISIONS = Counter(
    "decisions_total",
    "Candidates judged, by outcome and reason. bad_evidence: look at the trainer; insufficient_evidence: at the split.",
    ["outcome", "reason"],
)
DECISION_SECONDS = Histogram(
    "decision_seconds",
    "Time to fetch the evidence of a candidate and to judge it. Growing: more rows, or a slow object store.",
    buckets=(0.1, 0.25, 0.5, 1, 2, 5, 10, 30),
)
CHAMPION_EPOCH = Gauge("champion_epoch", "Epoch of the last promotion in the ledger; 0 before the first.")
PODS = Gauge(
    "pods",
    "Pods by their last word. behind: serves an older champion; refused: could not load the present one, see its log.",
    ["state"],
)
REGISTRY_LAGS = Gauge(
    "registry_lags",
    "1 while MLflow's alias and stages may differ from the ledger. Lasting: MLflow is away or refuses a change.",
)
