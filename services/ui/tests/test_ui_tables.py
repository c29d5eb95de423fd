"""The loop's tables, each from one service's REST."""

from __future__ import annotations

from typing import Any

import pytest

from readmit_ui.spanish import SPANISH
from readmit_ui.tables import TABLES, Table
from readmit_ui.texts import ENGLISH

NAMED = {"name": "diabetes_readmission_decision_tree", "version": "2", "family": "decision_tree"}
AT = "2026-11-23T10:00:00Z"
DOCUMENTS: dict[str, Any] = {
    "datasets": [
        {"version": v, "synthetic": v == 2, "batches_total": 1,
         "batches": [{"batch_id": 1, "rows": 15000, "positives": 1674, "created_at": AT}]}
        for v in (1, 2)
    ],
    "jobs": [
        {"dataset_version": 1, "batch": b, "family": "lightgbm", "status": "failed", "attempts": 3, "fit_seconds": 2.0,
         "auroc": None, "model_version": None, "error": "it broke"}
        for b in (1, 2)
    ],
    "decisions": [
        {"candidate": NAMED, "dataset_version": 1, "batch": 1, "outcome": "rejected", "reason": "not_better",
         "auroc": 0.61234, "difference": -0.01, "difference_low": -0.02, "difference_high": 0.0, "epoch": None,
         "decided_at": AT}
    ],
    "pods": [
        {"pod_id": "pod-1", "outcome": "serving", "epoch": 4, "model": NAMED, "sha256": "cd" * 32, "load_ms": 41.6,
         "reason": None, "at": AT}
    ],
}  # fmt: skip
every = pytest.mark.parametrize("table", TABLES, ids=lambda table: table.name)


def rendered(name: str, texts: Any = ENGLISH) -> str:
    (table,) = (table for table in TABLES if table.name == name)
    return table.render({name: DOCUMENTS[name]}, texts)


def test_decisions_show_the_difference_with_its_interval() -> None:
    html = rendered("decisions", SPANISH)
    for cell in ("Árbol de decisión v2", "rechazado", "0.6123", "-0.0100 (-0.0200, 0.0000)", "2026-11-23 10:00:00"):
        assert f"<td>{cell}</td>" in html


def test_jobs_show_the_newest_first_and_why_one_failed() -> None:
    html = rendered("jobs")
    assert "it broke" in html
    assert html.index("<td>2</td><td>LightGBM") < html.index("<td>1</td><td>LightGBM")


def test_datasets_list_their_batches_and_whether_they_are_synthetic() -> None:
    html = rendered("datasets")
    assert "<td>2</td><td>1/1</td><td>15000</td><td>1674</td><td>yes</td>" in html
    assert "<td>1</td><td>1/1</td><td>15000</td><td>1674</td><td>no</td>" in html


def test_pods_show_who_serves_what() -> None:
    assert "<td>pod-1</td><td>serving</td><td>4</td><td>Decision tree v2</td><td>cdcdcdcd</td>" in rendered("pods")


@every
def test_a_service_that_is_away_or_answers_nonsense_is_said_to_be_away(table: Table) -> None:
    for document in (None, [], "no", {}, {table.name: "no"}):
        assert ENGLISH.away in table.render(document, ENGLISH)


@every
def test_an_empty_list_is_not_an_outage(table: Table) -> None:
    html = table.render({table.name: []}, ENGLISH)
    assert ENGLISH.nothing_yet in html
    assert ENGLISH.away not in html


@every
def test_fields_of_another_version_of_the_service_are_empty_cells(table: Table) -> None:
    entry = {"batches": [{}]} if table.name == "datasets" else {}
    assert "<td></td>" in table.render({table.name: [entry]}, ENGLISH)
