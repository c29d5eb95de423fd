"""The loop at a glance: what the services' REST faces say, as rows of text. Pure.

Other services may be of another version, so a field that is not there is an empty cell, never an error.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from readmit_contracts.events import MODEL_STREAM
from readmit_ui.rendering import figure, state, table, when
from readmit_ui.texts import Texts

_SHOWN = 30
DECISIONS_PATH = f"/decisions?limit={_SHOWN}"

Row = dict[str, str]


@dataclass(frozen=True, slots=True)
class Table:
    """Where a table comes from and how one entry becomes rows, keyed by the names of columns in `Texts`."""

    name: str
    service: str
    path: str
    columns: tuple[str, ...]
    rows: Callable[[Mapping[str, Any], Texts], list[Row]]
    newest_last: bool = False

    def render(self, document: Any, texts: Texts) -> str:
        """The table as HTML, newest entries first; None means that the service is away."""
        head = [texts.columns[column] for column in self.columns]
        entries = document.get(self.name) if isinstance(document, dict) else None
        if not isinstance(entries, list):
            return table(texts.tables[self.name], head, None, texts)
        rows = [row for entry in entries for row in self.rows(entry, texts)]
        shown = (rows[::-1] if self.newest_last else rows)[:_SHOWN]
        cells = [[row.get(column, "") for column in self.columns] for row in shown]
        return table(texts.tables[self.name], head, cells, texts)


def _batches(dataset: Mapping[str, Any], texts: Texts) -> list[Row]:
    return [
        {
            "dataset": _text(dataset.get("version")),
            "batch": f"{_text(batch.get('batch_id'))}/{_text(dataset.get('batches_total'))}",
            "rows": _text(batch.get("rows")),
            "positives": _text(batch.get("positives")),
            "synthetic": texts.yes if dataset.get("synthetic") else texts.no,
            "created": when(batch.get("created_at")),
        }
        for batch in dataset.get("batches") or []
    ]


def _job(job: Mapping[str, Any], texts: Texts) -> list[Row]:
    return [
        {
            "dataset": _text(job.get("dataset_version")),
            "batch": _text(job.get("batch")),
            "family": state(job.get("family"), texts.families),
            "status": state(job.get("status"), texts.states),
            "attempts": _text(job.get("attempts")),
            "seconds": figure(job.get("fit_seconds"), 1),
            "auroc": figure(job.get("auroc"), 4),
            "version": _text(job.get("model_version")),
            "reason": _text(job.get("error")),
        }
    ]


def _decision(decision: Mapping[str, Any], texts: Texts) -> list[Row]:
    low, high = decision.get("difference_low"), decision.get("difference_high")
    difference = figure(decision.get("difference"), 4)
    if difference and low is not None and high is not None:
        difference += f" ({figure(low, 4)}, {figure(high, 4)})"
    return [
        {
            "model": named(decision.get("candidate"), texts),
            "dataset": _text(decision.get("dataset_version")),
            "batch": _text(decision.get("batch")),
            "outcome": state(decision.get("outcome"), texts.states),
            "auroc": figure(decision.get("auroc"), 4),
            "difference": difference,
            "epoch": _text(decision.get("epoch")),
            "reason": _text(decision.get("detail") or decision.get("reason")),
            "decided": when(decision.get("decided_at")),
        }
    ]


def _pod(pod: Mapping[str, Any], texts: Texts) -> list[Row]:
    return [
        {
            "pod": _text(pod.get("pod_id")),
            "outcome": state(pod.get("outcome"), texts.states),
            "epoch": _text(pod.get("epoch")),
            "model": named(pod.get("model"), texts),
            "digest": _text(pod.get("sha256"))[:8],
            "load_ms": figure(pod.get("load_ms"), 0),
            "reason": _text(pod.get("reason")),
            "at": when(pod.get("at")),
        }
    ]


TABLES: tuple[Table, ...] = (
    Table("pods", "promoter", "/pods", ("pod", "outcome", "epoch", "model", "digest", "load_ms", "reason", "at"), _pod),
    Table(
        "decisions",
        "promoter",
        DECISIONS_PATH,
        ("model", "dataset", "batch", "outcome", "auroc", "difference", "epoch", "reason", "decided"),
        _decision,
    ),
    Table(
        "jobs",
        "trainer",
        "/jobs",
        ("dataset", "batch", "family", "status", "attempts", "seconds", "auroc", "version", "reason"),
        _job,
        newest_last=True,
    ),
    Table(
        "datasets",
        "ingestor",
        "/datasets",
        ("dataset", "batch", "rows", "positives", "synthetic", "created"),
        _batches,
        newest_last=True,
    ),
)


def named(model: Any, texts: Texts) -> str:
    """A model version in few words; empty where it is none."""
    if not isinstance(model, dict):
        return ""
    family = model.get("family") or str(model.get("name", "")).removeprefix(f"{MODEL_STREAM}_")
    return f"{state(family, texts.families)} v{_text(model.get('version'))}"


def _text(value: object) -> str:
    return "" if value is None else str(value)
