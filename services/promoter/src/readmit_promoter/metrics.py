"""Every metric of the promoter."""

from __future__ import annotations

import math
from collections.abc import Sequence

from prometheus_client import Counter, Gauge, Histogram

from readmit_contracts.events import ModelLoaded
from readmit_promoter.convergence import pod_state
from readmit_promoter.ledger import Convergence, Crowned, Entry, Judgement, RolloutStage
from readmit_promoter.verdict import ACCEPTING, Outcome, Reason

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
    "Live pods by their last word. behind: serves an older champion; refused: could not load the present one, see its"
    " log.",
    ["state"],
)
REGISTRY_LAGS = Gauge(
    "registry_lags",
    "1 while MLflow's alias and stages may differ from the ledger. Lasting: MLflow is away or refuses a change.",
)

REGISTRY_REPAIRS = Counter(
    "registry_repairs_total", "Changes in MLflow that nobody had decided and that were taken back. Ask who made them."
)
CANDIDATES_WAITING = Gauge(
    "candidates_waiting", "Candidates not judged yet. Growing: frozen, a trial is going on, or S3 is away."
)
PROMOTIONS_FROZEN = Gauge("promotions_frozen", "1 while no candidate may become champion, as somebody asked.")
TRIAL_INFO = Gauge(
    "trial_info", "1 for the candidate that is on trial beside the champion.", ["name", "version", "stage"]
)
CONVERGENCES = Counter(
    "convergences_total", "Promotions and rollbacks that reached every live pod, or did not in time.", ["outcome"]
)
CONVERGENCE_SECONDS = Histogram(
    "convergence_seconds",
    "Time from a promotion until the last live pod served it.",
    buckets=(0.1, 0.25, 0.5, 1, 2, 5, 10, 30, 60),
)
REACTIONS = Counter(
    "reactions_total",
    "What was done about drift of the patients and degradation of the champion, as the policy says.",
    ["cause", "action"],
)
DENIALS = Counter("denials_total", "What known people asked for and was not done, by problem.", ["problem"])

# A rate needs a zero to start from.
for reason in Reason:
    DECISIONS.labels(Outcome.ACCEPTED if reason in ACCEPTING else Outcome.REJECTED, reason)


for outcome in ("converged", "failed"):
    CONVERGENCES.labels(outcome)
for cause in ("drift", "degradation"):
    for action in ("retrain", "rollback", "alert"):
        REACTIONS.labels(cause, action)


def note_convergence(fact: Convergence) -> None:
    """Count a promotion that was settled."""
    CONVERGENCES.labels("converged" if fact.converged else "failed").inc()
    if fact.converged and fact.last_s is not None:
        CONVERGENCE_SECONDS.observe(fact.last_s)


def show(
    champion: Entry | None,
    judgement: Entry | None,
    live: Sequence[ModelLoaded],
    *,
    waiting: int,
    frozen: bool,
    trial: Entry | None,
) -> None:
    """Bring the gauges up to date. `champion`: the entry that crowned it; `judgement`: the one that accepted it."""
    CHAMPION_INFO.clear()
    scores: dict[str, float | None] = {}
    epoch = 0
    if champion is not None and isinstance(champion.fact, Crowned):
        fact = champion.fact
        epoch = fact.epoch
        CHAMPION_INFO.labels(fact.model.name, fact.model.version, fact.model.family, str(fact.synthetic).lower()).set(1)
        CHAMPION_PROMOTED.set(champion.at.timestamp())
        if judgement is not None and isinstance(judgement.fact, Judgement):
            scores = judgement.fact.candidate.validation.model_dump()
    CHAMPION_EPOCH.set(epoch)
    for name, gauge in CHAMPION_FIGURES.items():
        figure = scores.get(name)
        gauge.set(math.nan if figure is None else figure)
    for state in ("serving", "behind", "refused"):
        PODS.labels(state).set(sum(pod_state(pod, epoch) == state for pod in live))
    CANDIDATES_WAITING.set(waiting)
    PROMOTIONS_FROZEN.set(frozen)
    TRIAL_INFO.clear()
    if trial is not None and isinstance(trial.fact, RolloutStage):
        model = trial.fact.challenger
        TRIAL_INFO.labels(model.name, model.version, trial.fact.stage).set(1)
