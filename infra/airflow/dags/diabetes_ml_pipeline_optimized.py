"""DAG `diabetes_ml_pipeline_optimized`: asks the trainer to train, waits for the fits and for the promoter's verdicts.

The work itself (batches, preprocessing, the three families, comparison, registration, promotion) is the trainer's and
the promoter's.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID, uuid4

from airflow.sdk import Param, dag, get_current_context, task
from airflow.sdk.exceptions import AirflowFailException
from readmit_airflow.answers import TASK_TIMEOUT_S, await_answer, await_verdicts, log, newly_registered
from readmit_airflow.exchange import ends, publish
from readmit_airflow.figures import table

from readmit_contracts.events import TrainingFinished, TrainingRequested
from readmit_contracts.topics import (
    MODEL_PROMOTED,
    MODEL_REGISTERED,
    MODEL_REJECTED,
    TRAINING_FINISHED,
    TRAINING_REQUESTED,
)

DOC = """
Publishes `training.requested`, waits for its `training.finished`, then for `model.promoted` or `model.rejected` of each
model that is new. Fails with the trainer's reason; a rejected model is a result, not a failure.

- `force`: train again what has been trained on this data by this code.
- `dataset_version`: without it, the newest.
- `timeout_s`: how long each of the two waits may take.

The figures are in the logs of the two waiting tasks and in their XComs. `unchanged`: all was trained before.
After a failure start a new run: a request is answered once, so clearing tasks only reads its answer again.
"""


@dag(
    dag_id="diabetes_ml_pipeline_optimized",
    schedule="@weekly",
    start_date=datetime(2026, 1, 1, tzinfo=UTC),
    catchup=False,
    max_active_runs=1,
    default_args={
        "retries": 2,
        "retry_delay": timedelta(seconds=10),
        "execution_timeout": timedelta(seconds=TASK_TIMEOUT_S),
    },
    params={
        "force": Param(default=False, type="boolean", description="train again what is trained"),
        "dataset_version": Param(None, type=["null", "integer"], minimum=1, description="without it, the newest"),
        "timeout_s": Param(TASK_TIMEOUT_S, type="integer", minimum=1, maximum=TASK_TIMEOUT_S),
    },
    tags=["readmit"],
    doc_md=DOC,
)
def diabetes_ml_pipeline_optimized() -> None:
    """Four steps; only `request` has an effect, and repeating it has none."""

    @task(doc_md="Makes the request's id and notes where the answers' topics end, before anything is asked.")
    def prepare() -> dict[str, Any]:
        topics = (TRAINING_FINISHED, MODEL_REGISTERED, MODEL_PROMOTED, MODEL_REJECTED)
        return {"request_id": str(uuid4()), "start": ends(topics)}

    @task(doc_md="Publishes `training.requested`. However often it runs, it is one request.")
    def request(prepared: dict[str, Any]) -> str:
        context = get_current_context()
        event = TrainingRequested(
            request_id=UUID(prepared["request_id"]),
            reason=f"DAG {context['dag'].dag_id}",
            requested_by=f"airflow {context['run_id']}",
            requested_at=datetime.now(UTC),
            dataset_version=context["params"]["dataset_version"],
            force=context["params"]["force"],
        )
        publish(TRAINING_REQUESTED, str(event.request_id), event)
        return str(event.request_id)

    @task(doc_md="Waits for `training.finished`; its figures are the result.")
    def wait_for_outcome(prepared: dict[str, Any], request_id: str) -> dict[str, Any]:
        finished = await_answer(
            TRAINING_FINISHED, TrainingFinished, prepared["start"], UUID(request_id), from_whom="trainer"
        )
        rows = [
            {
                "family": fit.family,
                "batch": fit.batch,
                "outcome": fit.outcome,
                "version": fit.model.version if fit.model else None,
                "auroc": fit.auroc,
                "fit_seconds": fit.fit_seconds,
            }
            for fit in finished.models
        ]
        log.info("training %s on dataset %s\n%s", finished.outcome, finished.dataset_version, table(rows))
        if finished.outcome == "failed":
            raise AirflowFailException(f"training failed: {finished.error}")
        return finished.model_dump(mode="json", exclude={"error"})

    @task(doc_md="Waits for the promoter's verdict on each new model; they are the result.")
    def wait_for_verdicts(prepared: dict[str, Any], figures: dict[str, Any]) -> list[dict[str, Any]]:
        models = newly_registered(TrainingFinished.model_validate(figures), prepared["start"])
        verdicts = await_verdicts(models, prepared["start"])
        log.info("%s new models judged\n%s", len(verdicts), table(verdicts))
        return verdicts

    prepared: Any = prepare()  # stands for what the task will return
    asked: Any = request(prepared)
    figures: Any = wait_for_outcome(prepared, asked)
    wait_for_verdicts(prepared, figures)


diabetes_ml_pipeline_optimized()
