"""DAG `diabetes_data_processing`: asks the ingestor for a source, waits for what becomes of it.

The work itself (download, validation, quarantine, raw and clean tables, split by patient, batches) is the ingestor's.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID, uuid4

from airflow.sdk import Param, dag, get_current_context, task
from airflow.sdk.exceptions import AirflowFailException
from readmit_airflow.answers import TASK_TIMEOUT_S, await_answer, log
from readmit_airflow.exchange import ends, publish
from readmit_airflow.figures import table

from readmit_contracts.events import IngestionFinished, IngestionRequested
from readmit_contracts.topics import INGESTION_FINISHED, INGESTION_REQUESTED

DOC = """
Publishes `ingestion.requested` and waits for its `ingestion.finished`. Fails with the ingestor's reason.

- `source`: `uci` (the archive), a URL, a path that the ingestor can read, or `sample:ROWS` (synthetic).
- `timeout_s`: how long to wait for the end.

The figures are in the log of `wait_for_outcome` and in its XCom. `unchanged`: these bytes are a dataset already.
After a failure start a new run: a request is answered once, so clearing tasks only reads its answer again.
"""


@dag(
    dag_id="diabetes_data_processing",
    schedule=timedelta(days=1, hours=1),
    start_date=datetime(2026, 1, 1, tzinfo=UTC),
    catchup=False,
    max_active_runs=1,
    default_args={
        "retries": 2,
        "retry_delay": timedelta(seconds=10),
        "execution_timeout": timedelta(seconds=TASK_TIMEOUT_S),
    },
    params={
        "source": Param("uci", type="string", minLength=1, maxLength=2000, description="uci, URL, path, sample:ROWS"),
        "timeout_s": Param(TASK_TIMEOUT_S, type="integer", minimum=1, maximum=TASK_TIMEOUT_S),
    },
    tags=["readmit"],
    doc_md=DOC,
)
def diabetes_data_processing() -> None:
    """Three steps; only the middle one has an effect, and repeating it has none."""

    @task(doc_md="Makes the request's id and notes where the answer's topic ends, before anything is asked.")
    def prepare() -> dict[str, Any]:
        return {"request_id": str(uuid4()), "start": ends([INGESTION_FINISHED])}

    @task(doc_md="Publishes `ingestion.requested`. However often it runs, it is one request.")
    def request(prepared: dict[str, Any]) -> str:
        context = get_current_context()
        event = IngestionRequested(
            request_id=UUID(prepared["request_id"]),
            source=context["params"]["source"],
            requested_by=f"airflow {context['run_id']}",
            requested_at=datetime.now(UTC),
        )
        publish(INGESTION_REQUESTED, str(event.request_id), event)
        return str(event.request_id)

    @task(doc_md="Waits for `ingestion.finished`; its figures are the result.")
    def wait_for_outcome(prepared: dict[str, Any], request_id: str) -> dict[str, Any]:
        finished = await_answer(
            INGESTION_FINISHED, IngestionFinished, prepared["start"], UUID(request_id), from_whom="ingestor"
        )
        if finished.outcome == "failed":
            raise AirflowFailException(f"{finished.error_code}: {finished.error_message}")
        figures: dict[str, Any] = finished.model_dump(mode="json", exclude={"error_code", "error_message"})
        log.info("ingestion %s\n%s", finished.outcome, table([figures]))
        return figures

    prepared: Any = prepare()  # stands for what the task will return
    asked: Any = request(prepared)
    wait_for_outcome(prepared, asked)


diabetes_data_processing()
