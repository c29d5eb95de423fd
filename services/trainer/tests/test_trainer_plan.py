"""What a request for training takes, decided without I/O."""

from __future__ import annotations

from collections.abc import Callable
from uuid import uuid4

import pytest

from readmit_contracts.events import BatchReady
from readmit_trainer.domain import KnownJob, Plan, describe_failures, plan

Event = Callable[..., BatchReady]
FAMILIES = ("lightgbm", "decision_tree")


def job(batch: int, family: str, status: str, *, forced: bool = False) -> KnownJob:
    return KnownJob(uuid4(), batch, family, status, forced)


def test_what_has_no_model_yet_is_new(make_event: Event) -> None:
    first, second = make_event(1), make_event(2)
    known = [job(1, "lightgbm", "done"), job(1, "decision_tree", "done", forced=True), job(2, "lightgbm", "done")]
    assert plan([first, second], FAMILIES, known, force=False) == Plan((), (), ((second, "decision_tree"),))


def test_when_every_batch_and_family_has_a_model_nothing_is_to_be_done(make_event: Event) -> None:
    known = [job(1, family, "done") for family in FAMILIES]
    known.append(job(1, "lightgbm", "failed", forced=True))
    known.append(job(1, "lightgbm", "running", forced=True))
    assert plan([make_event(1)], FAMILIES, known, force=False) == Plan((), (), ())


def test_a_failed_job_is_tried_again_and_not_doubled(make_event: Event) -> None:
    failed = job(1, "lightgbm", "failed")
    found = plan([make_event(1)], ("lightgbm",), [failed], force=False)
    assert found == Plan((), (failed.job_id,), ())


def test_after_a_forced_job_that_failed_the_batchs_own_job_is_new(make_event: Event) -> None:
    event = make_event(1)
    found = plan([event], ("lightgbm",), [job(1, "lightgbm", "failed", forced=True)], force=False)
    assert found == Plan((), (), ((event, "lightgbm"),))


@pytest.mark.parametrize("force", [False, True])
@pytest.mark.parametrize("status", ["queued", "running"])
def test_what_is_on_its_way_is_waited_for(make_event: Event, status: str, force: bool) -> None:
    known = [job(1, "lightgbm", status), job(1, "lightgbm", "failed", forced=True)]
    assert plan([make_event(1)], ("lightgbm",), known, force=force) == Plan((known[0].job_id,), (), ())


def test_forced_it_is_the_last_batch_again_whatever_there_is(make_event: Event) -> None:
    events = [make_event(1), make_event(2)]
    known = [job(2, "lightgbm", "done"), job(2, "decision_tree", "failed")]
    assert plan(events, FAMILIES, known, force=True) == Plan((), (), tuple((events[1], family) for family in FAMILIES))


def test_failures_are_one_line_that_names_each() -> None:
    said = describe_failures([("lightgbm", 5, "killed"), ("decision_tree", 5, "out of memory")], 3)
    assert said == "2 of 3 fits failed: lightgbm on batches 1..5: killed; decision_tree on batches 1..5: out of memory"
