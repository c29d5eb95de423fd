"""What the terminal says, and when the loop counts as finished."""

from __future__ import annotations

from pathlib import Path

import pytest
from rich.console import Console

from readmit_contracts.events import ModelVersion
from readmit_local.client import Dataset, Decision, Ingestion, IngestionError, Job, Pod
from readmit_local.log_tail import tail
from readmit_local.loop import Loop, news, why_no_champion
from readmit_local.progress import render

DATASET = Dataset(version=1, source="uci", synthetic=False, batches_total=1)
MODEL = ModelVersion(name="diabetes_readmission_lightgbm", version="1", family="lightgbm")
DONE = Job(batch=1, family="lightgbm", status="done", fit_seconds=2.0, auroc=0.66, model_version="1")
FAILED = Job(batch=1, family="decision_tree", status="failed", error="out of memory")
PROMOTED = Decision(candidate=MODEL, dataset_version=1, batch=1, outcome="promoted", reason="first_champion", epoch=1)


def test_finished_means_every_fit_has_ended_and_every_model_is_judged() -> None:
    assert Loop(None, DATASET, (DONE,), (PROMOTED,)).trained
    assert Loop(None, DATASET, (DONE, FAILED), (PROMOTED,)).trained
    assert not Loop(None, DATASET, (DONE,), ()).trained
    assert not Loop(None, DATASET, (DONE, FAILED.model_copy(update={"status": "running"})), (PROMOTED,)).trained
    assert not Loop(None, DATASET.model_copy(update={"batches_total": 2}), (DONE,), (PROMOTED,)).trained
    assert not Loop().trained


def test_a_fit_that_was_made_again_on_request_leaves_the_loop_finished() -> None:
    again = DONE.model_copy(update={"model_version": "2"})
    rejected = PROMOTED.model_copy(update={"candidate": MODEL.model_copy(update={"version": "2"}), "epoch": None})
    assert Loop(None, DATASET, (DONE, again), (PROMOTED, rejected)).trained
    assert not Loop(None, DATASET, (DONE, again), (PROMOTED,)).trained


def test_each_change_is_told_once() -> None:
    pod = Pod(pod_id="inference", outcome="serving", epoch=1, model=MODEL, load_ms=12)
    now = Loop(None, DATASET, (DONE, FAILED), (PROMOTED,), (pod,))
    assert list(news(Loop(None, DATASET), now)) == [
        "fit 1 of 2: lightgbm on batches 1..1, AUROC 0.660 in 2.0 s",
        "fit 2 of 2: decision_tree on batches 1..1 FAILED: out of memory",
        "candidate lightgbm v1: promoted as epoch 1 (first_champion)",
        "pod inference: serves epoch 1, loaded in 12 ms",
    ]
    assert list(news(now, now)) == []


def test_a_loop_that_ends_without_a_champion_says_why() -> None:
    refused = PROMOTED.model_copy(update={"outcome": "rejected", "reason": "insufficient_evidence", "epoch": None})
    assert "insufficient_evidence" in why_no_champion(Loop(None, DATASET, (DONE,), (refused,)))
    assert "out of memory" in why_no_champion(Loop(None, DATASET, (FAILED,)))


def test_the_course_of_an_ingestion_is_told() -> None:
    running = Ingestion(request_id="r", source="sample:9", status="running", stage="reading", batches_written=2)
    done = running.model_copy(
        update={"status": "done", "dataset_version": 3, "rows_read": 9000, "batches_written": 3, "synthetic": True}
    )
    assert list(news(Loop(), Loop(running))) == ["ingestion: reading", "batch 1 written", "batch 2 written"]
    assert list(news(Loop(running), Loop(done))) == [
        "batch 3 written",
        "dataset 3 is complete: 9,000 rows, 0 quarantined, 0 excluded - SYNTHETIC, not real patients",
    ]


@pytest.mark.parametrize("message", ["data.csv: lacks the column race", "lacks the column race"])
def test_a_failed_source_is_named_once(message: str) -> None:
    error = IngestionError(code="source_bad_header", message=message)
    failed = Ingestion(request_id="r", source="data.csv", status="failed", error=error)
    assert failed.why_failed.count("data.csv") == 1


def test_the_live_bars_show_what_runs() -> None:
    console = Console(width=120, record=True, force_terminal=False)
    running = Job(batch=2, family="lightgbm", status="running")
    console.print(render(Loop(None, DATASET, (DONE, running), (PROMOTED,))))
    shown = console.export_text()
    assert "fits done" in shown
    assert "fitting lightgbm on 1..2" in shown


def test_the_tail_of_a_log_follows_what_is_written(tmp_path: Path) -> None:
    log = tmp_path / "x.log"
    log.write_text("one\ntwo\nthree\n")
    assert list(tail(log, 2, follow=False)) == ["two\n", "three\n"]
    lines = tail(log, 1, follow=True, pause_s=0.01)
    assert next(lines) == "three\n"
    with log.open("a") as more:
        more.write("four\n")
    assert next(lines) == "four\n"
