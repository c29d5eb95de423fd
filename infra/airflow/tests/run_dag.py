"""`python run_dag.py FOLDER DAG_ID PARAMETERS RESULT`: one run of a DAG by `dag.test()`, and its result as JSON.

Needs a migrated database, the connection `readmit_kafka`, and the DAG folder configured.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from airflow.dag_processing.dagbag import DagBag
from airflow.models.xcom import XComModel
from airflow.utils.session import create_session
from sqlalchemy import select


def main() -> None:
    """State of the run and of each task, and what each task returned."""
    folder, dag_id, parameters, result = sys.argv[1:]
    dag = DagBag(folder, safe_mode=False).dags[dag_id]
    run = dag.test(run_conf=json.loads(parameters))
    with create_session() as session:
        found = session.execute(
            select(XComModel.task_id, XComModel.value).where(
                XComModel.dag_id == dag_id, XComModel.run_id == run.run_id, XComModel.key == "return_value"
            )
        )
        returned = {row.task_id: row.value for row in found}
    states = {task.task_id: str(task.state) for task in run.get_task_instances()}
    Path(result).write_text(json.dumps({"state": str(run.state), "tasks": states, "returned": returned}))


if __name__ == "__main__":
    main()
