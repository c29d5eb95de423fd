"""What the ingestor counts."""

from __future__ import annotations

from collections.abc import Mapping

from prometheus_client import Counter, Gauge, Histogram

INGESTIONS = Counter(
    "ingestions_total", "Ingestions that ended, by how. failed: GET /ingestions names the fault.", ["outcome"]
)
ROWS = Counter("ingestion_rows_total", "Rows by fate. quarantined rising: look into raw_data.quarantine.", ["fate"])
QUARANTINED_ROWS = Counter(
    "ingestion_quarantined_rows_total",
    "Quarantined rows by the field that was refused. Rising: a source has changed; `readmit quarantine list`.",
    ["field"],
)
CHANGES = Counter(
    "ingestion_changes_total",
    "Cells that cleaning has changed, by rule. A jump: a source writes differently.",
    ["rule"],
)
QUARANTINE = Gauge(
    "quarantine_rows", "Rows in quarantine, by what became of them. open: somebody has to look at them.", ["status"]
)
SECONDS = Histogram(
    "ingestion_seconds", "Duration of an ingestion that committed.", buckets=(1, 2, 5, 10, 20, 60, 300, 1800)
)
RUNNING = Gauge("ingestion_running", "1 while an ingestion runs.")
LAST_INGESTION = Gauge(
    "last_ingestion_timestamp_seconds", "When an ingestion last ended well. Long ago: nobody brings data any more."
)
BATCHES_WRITTEN = Counter("batches_written_total", "Training batches that were committed and announced.")
DATASET_VERSION = Gauge("dataset_version", "Newest version of the data; 0 before the first.")
DATASET_ROWS = Gauge(
    "dataset_rows",
    "Rows of the newest version by split. More quarantined or excluded than before: the source has changed.",
    ["split"],
)
PREDICTIONS_STORED = Counter(
    "predictions_stored_total", "Predictions kept in raw_data. Behind predictions_total: see consumer_lag_messages."
)

OUTCOMES_RECORDED = Counter(
    "outcomes_recorded_total",
    "Outcomes that came back, by what became of them. None for long: nobody says what happened to patients.",
    ["kind"],
)
FEEDBACK_WAITING = Gauge(
    "feedback_rows_waiting", "Labelled predictions of train patients that wait for the next batch of feedback."
)
FEEDBACK_BATCHES = Counter("feedback_batches_total", "Batches of feedback that were committed and announced.")


def show_newest(version: int, rows_by_split: Mapping[str, int]) -> None:
    """Bring the gauges of the data up to date."""
    DATASET_VERSION.set(version)
    for split, rows in rows_by_split.items():
        DATASET_ROWS.labels(split).set(rows)


# A rate needs a zero to start from.
for outcome in ("done", "unchanged", "failed"):
    INGESTIONS.labels(outcome)
for status in ("open", "corrected", "dropped", "replayed"):
    QUARANTINE.labels(status)
for kind in ("recorded", "unchanged", "corrected"):
    OUTCOMES_RECORDED.labels(kind)
for fate in ("read", "quarantined", "excluded"):
    ROWS.labels(fate)
