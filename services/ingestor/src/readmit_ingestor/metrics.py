"""What the ingestor counts."""

from __future__ import annotations

from prometheus_client import Counter, Gauge, Histogram

INGESTIONS = Counter(
    "ingestions_total", "Ingestions that ended, by how. failed: GET /ingestions names the fault.", ["outcome"]
)
ROWS = Counter("ingestion_rows_total", "Rows by fate. quarantined rising: look into raw_data.quarantine.", ["fate"])
SECONDS = Histogram(
    "ingestion_seconds", "Duration of an ingestion that committed.", buckets=(1, 2, 5, 10, 20, 60, 300, 1800)
)
RUNNING = Gauge("ingestion_running", "1 while an ingestion runs.")
