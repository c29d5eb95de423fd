"""Every metric of the monitor."""

from __future__ import annotations

import math

from prometheus_client import Counter, Gauge

from readmit_monitor.domain import Evaluation
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

# Until the first evaluation.
THRESHOLD.set(FLOOR)
for unknown in (RISK_PSI, ALERT_RATE, RISK_MEAN):
    unknown.set(math.nan)


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
