"""Waiting for what becomes of a request: its outcome, and the verdicts on the models that it gave rise to.

All read from noted positions, so they can be run again; all end at the run's time limit with a reason.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any, TypeVar
from uuid import UUID

from airflow.sdk import get_current_context
from airflow.sdk.exceptions import AirflowFailException

from readmit_airflow.exchange import Positions, arriving, present
from readmit_contracts.events import (
    IngestionFinished,
    ModelPromoted,
    ModelRegistered,
    ModelRejected,
    ModelVersion,
    TrainingFinished,
)
from readmit_contracts.topics import MODEL_PROMOTED, MODEL_REGISTERED, MODEL_REJECTED, Topic

log = logging.getLogger(__name__)

#: What each task may take, as in the original; the parameter `timeout_s` can only shorten it.
TASK_TIMEOUT_S = 3600

A = TypeVar("A", IngestionFinished, TrainingFinished)


def time_limit() -> tuple[float, int]:
    """When the present task has to end (of `time.monotonic`), and how many seconds that is from its start.

    Counted from the start that Airflow has noted, a little before its own limit, which would end it without a reason.
    """
    context = get_current_context()
    seconds: int = context["params"]["timeout_s"]
    started: datetime = context["ti"].start_date
    return time.monotonic() + seconds - (datetime.now(UTC) - started).total_seconds(), seconds


def await_answer(topic: Topic, event_type: type[A], start: Positions, request_id: UUID, *, from_whom: str) -> A:
    """The event that ends this request. Raises `AirflowFailException` at the time limit, `KafkaException`."""
    deadline, seconds = time_limit()
    log.info("waiting up to %s s for %s of request %s", seconds, topic.name, request_id)
    for event in arriving([topic], start, deadline=deadline):
        if isinstance(event, event_type) and event.request_id == request_id:
            return event
    raise AirflowFailException(
        f"no {topic.name} for request {request_id} within {seconds} s. The request stands: once the {from_whom} has"
        " come to it, clear this task to read the answer"
    )


def newly_registered(finished: TrainingFinished, start: Positions) -> list[ModelVersion]:
    """Those of the dataset's models that were registered since `start`: the others were judged before."""
    since = {_key(event.model) for event in present(MODEL_REGISTERED, start) if isinstance(event, ModelRegistered)}
    return [fit.model for fit in finished.models if fit.model is not None and _key(fit.model) in since]


def await_verdicts(models: Sequence[ModelVersion], start: Positions) -> list[dict[str, Any]]:
    """What the promoter said of each of these models, as rows for a table, in the order in which it said so.

    Raises `AirflowFailException` at the time limit, with the models that are still without a verdict; `KafkaException`.
    """
    deadline, seconds = time_limit()
    waiting = {_key(model) for model in models}
    rows: list[dict[str, Any]] = []
    if waiting:
        log.info("waiting up to %s s for the verdicts on %s", seconds, _names(waiting))
        for event in arriving([MODEL_PROMOTED, MODEL_REJECTED], start, deadline=deadline):
            if isinstance(event, ModelPromoted | ModelRejected) and _key(event.model) in waiting:
                waiting.discard(_key(event.model))
                rows.append(_row(event))
            if not waiting:
                break
    if waiting:
        raise AirflowFailException(
            f"no verdict on {_names(waiting)} within {seconds} s. Is the promoter up? Candidates that it could not read"
            f" are in {MODEL_REGISTERED.dead_letter}"
        )
    return rows


def _row(event: ModelPromoted | ModelRejected) -> dict[str, Any]:
    model = {"model": event.model.name, "version": event.model.version}
    if isinstance(event, ModelPromoted):
        return {**model, "verdict": "promoted", "epoch": event.epoch, "reason": event.reason}
    return {**model, "verdict": "rejected", "epoch": None, "reason": f"{event.reason}: {event.detail}"}


def _key(model: ModelVersion) -> tuple[str, str]:
    return model.name, model.version


def _names(models: set[tuple[str, str]]) -> str:
    return ", ".join(f"{name} {version}" for name, version in sorted(models))
