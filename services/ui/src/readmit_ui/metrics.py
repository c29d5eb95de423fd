"""All metrics of the UI."""

from __future__ import annotations

from prometheus_client import Counter

PREDICTIONS = Counter(
    "ui_predictions",
    "Presses of the button by outcome (answered, refused, unauthorized, rate_limited, no_model, overloaded, "
    "unreachable, failed). unauthorized: give the page another key; rate_limited: its key a higher limit; "
    "unreachable or failed: look at the inference service.",
    ["outcome"],
)
REQUESTS = Counter(
    "ui_requests",
    "Requests to the services' REST faces by service and outcome (ok, away). away: that service is down.",
    ["service", "outcome"],
)

# A rate needs a zero to start from.
for outcome in (
    "answered", "refused", "unauthorized", "rate_limited", "no_model", "overloaded", "unreachable", "failed",
):  # fmt: skip
    PREDICTIONS.labels(outcome)
