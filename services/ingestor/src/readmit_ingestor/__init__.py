"""From a source of encounters to batches that are clean, split by patient, and announced."""
