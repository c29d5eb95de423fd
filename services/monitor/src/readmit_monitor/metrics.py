"""Every metric of the monitor."""

from __future__ import annotations

import math

from prometheus_client import Counter, Gauge

from readmit_monitor.domain import Evaluation
from readmit_monitor.performance import AUROC, IN_THE_LARGE, FigureName, LiveFigure, Performance
from readmit_monitor.stability import FLOOR

OBSERVED = Counter(
    "predictions_observed", "Predictions taken into the window. Not rising: no traffic, or Kafka is away."
)
DETECTED = Counter("drift_detected", "drift.detected events, one whenever something more has drifted.")
PSI = Gauge(
    "drift_psi",
    "Population stability index of a feature: recent predictions against the training rows. Above drift_threshold_psi: "
    "other patients are served than the model learned from; retrain, or look at where the values come from.",
    ["feature"],
)
RISK_PSI = Gauge(
    "drift_risk_psi",
    "Population stability index of the risk against the first full window of this epoch. NaN: not enough predictions.",
)
THRESHOLD = Gauge("drift_threshold_psi", "What an index must exceed: 0.2, or more where windows are small.")
WINDOW_ROWS = Gauge("drift_window_rows", "Predictions in the window. Below MONITOR_MIN_ROWS: nothing is judged.")
ALERT_RATE = Gauge("live_alert_rate", "Share of the window's predictions at or above their threshold. NaN: none yet.")
RISK_MEAN = Gauge("live_risk_mean", "Mean risk of the window's predictions. NaN: none yet.")

OUTCOMES = Counter(
    "outcomes_observed",
    "Outcomes taken, corrections included. Not rising: nobody records them, or outcome.recorded is not heard.",
)
DEGRADED = Counter(
    "performance_degraded", "performance.degraded events, one whenever another figure of the champion is degraded."
)
OUTCOME_ROWS = Gauge(
    "live_outcome_rows",
    "Predictions of the champion with an outcome on which nobody acted. Below MONITOR_MIN_OUTCOMES: nothing is judged.",
)
INTERVENED_ROWS = Gauge(
    "live_intervened_rows", "Predictions with an outcome that are left out, since somebody acted on them."
)
LIVE_AUROC = Gauge("live_auroc", "AUROC of the champion in service, by known outcomes. NaN: too few outcomes.")
LIVE_AUROC_LOW = Gauge("live_auroc_low", "Lower end of its interval, which chance leaves once in thousands of looks.")
LIVE_AUROC_HIGH = Gauge(
    "live_auroc_high",
    "Upper end of its interval. Below live_auroc_limit: the champion ranks patients worse than it was promoted for.",
)
LIVE_AUROC_LIMIT = Gauge(
    "live_auroc_limit", "What it was promoted for, less what may be lost. NaN: the promotion did not say."
)
LIVE_IN_THE_LARGE = Gauge(
    "live_calibration_in_the_large",
    "Share of readmissions less the mean risk, in service. Above 0: risks are too low. NaN: too few outcomes.",
)
LIVE_IN_THE_LARGE_LOW = Gauge("live_calibration_in_the_large_low", "Lower end of its interval.")
LIVE_IN_THE_LARGE_HIGH = Gauge("live_calibration_in_the_large_high", "Upper end of its interval.")
LIVE_DEGRADED = Gauge(
    "live_degraded", "1 while a figure of the champion in service is worse than its limit beyond chance.", ["figure"]
)

_LIVE: dict[FigureName, tuple[Gauge, Gauge, Gauge]] = {
    AUROC: (LIVE_AUROC, LIVE_AUROC_LOW, LIVE_AUROC_HIGH),
    IN_THE_LARGE: (LIVE_IN_THE_LARGE, LIVE_IN_THE_LARGE_LOW, LIVE_IN_THE_LARGE_HIGH),
}

# Until the first evaluation.
THRESHOLD.set(FLOOR)
for unknown in (
    RISK_PSI,
    ALERT_RATE,
    RISK_MEAN,
    LIVE_AUROC_LIMIT,
    *(gauge for three in _LIVE.values() for gauge in three),
):
    unknown.set(math.nan)
for name in _LIVE:
    LIVE_DEGRADED.labels(name).set(0)


def show(evaluation: Evaluation) -> None:
    """Bring the gauges up to date."""
    PSI.clear()
    for figure in evaluation.figures:
        PSI.labels(figure.feature).set(figure.psi)
    RISK_PSI.set(math.nan if evaluation.risk is None else evaluation.risk.psi)
    THRESHOLD.set(evaluation.threshold)
    WINDOW_ROWS.set(evaluation.window_rows)
    ALERT_RATE.set(math.nan if evaluation.alert_rate is None else evaluation.alert_rate)
    RISK_MEAN.set(math.nan if evaluation.risk_mean is None else evaluation.risk_mean)


def show_performance(performance: Performance) -> None:
    """Bring the gauges of what outcomes tell up to date."""
    OUTCOME_ROWS.set(performance.window_rows)
    INTERVENED_ROWS.set(performance.intervened)
    found: dict[FigureName, LiveFigure] = {figure.name: figure for figure in performance.figures}
    for name, gauges in _LIVE.items():
        figure = found.get(name)
        values = (math.nan,) * 3 if figure is None else (figure.value, figure.low, figure.high)
        for gauge, value in zip(gauges, values, strict=True):
            gauge.set(value)
        LIVE_DEGRADED.labels(name).set(figure is not None and figure.degraded)
    limit = found[AUROC].limit if AUROC in found else None
    LIVE_AUROC_LIMIT.set(math.nan if limit is None else limit)
