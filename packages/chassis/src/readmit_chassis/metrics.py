"""Metrics that every process with a consumer or an outbox exports."""

from __future__ import annotations

from prometheus_client import Counter, Gauge, Histogram

EVENTS_CONSUMED = Counter(
    "events_consumed_total",
    "Events handled, by outcome. dead_letter rising: read the dead-letter topic for the reason.",
    ["topic", "outcome"],
)
EVENT_SECONDS = Histogram(
    "event_handling_seconds",
    "Time from taking an event to its effect being committed, retries included.",
    ["topic"],
    buckets=(0.005, 0.01, 0.05, 0.1, 0.5, 1, 5, 10, 30, 60),
)
OUTBOX_OLDEST_SECONDS = Gauge(
    "outbox_oldest_unsent_seconds",
    "Age of the oldest event that is committed but not yet in Kafka, without parked ones and what waits behind them."
    " Growing: the relay or Kafka is down.",
    ["schema"],
)
OUTBOX_UNSENT = Gauge(
    "outbox_unsent_events",
    "Events that are committed but not yet in Kafka. Growing: the relay or Kafka is down.",
    ["schema"],
)
OUTBOX_PARKED = Gauge(
    "outbox_parked_events",
    "Events that Kafka refused again and again; later ones of the same key wait behind them. Column `error` of the"
    " schema's outbox says why. Mend that, then let them go: UPDATE SCHEMA.outbox SET held_until = NULL, attempts = 0"
    " WHERE held_until = 'infinity'.",
    ["schema"],
)
OUTBOX_SENT = Counter("outbox_events_sent_total", "Events that the relay has published.", ["schema", "topic"])
CONSUMER_LAG = Gauge(
    "consumer_lag_messages",
    "Messages that a consumer group has yet to handle. Growing: it is too slow, or stuck on one; see its log.",
    ["group", "topic", "partition"],
)
READINESS = Gauge(
    "readiness",
    "1 while a condition of /readyz holds. 0 for long: the process waits for that dependency.",
    ["condition"],
)
ACCESS_READS = Counter(
    "access_reads",
    "Readings of a file or issuer that says who may ask, by source (keys, issuer) and outcome (used, refused).",
    ["source", "outcome"],
)
ACCESS_STALE = Gauge(
    "access_stale",
    "1 while the newest keys of a source (keys, issuer) can't be used and those before are in force: see the log.",
    ["source"],
)
