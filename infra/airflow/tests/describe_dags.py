"""`python describe_dags.py FOLDER RESULT`: what Airflow makes of the DAG files, as JSON. Needs no database."""

from __future__ import annotations

import json
import sys
from pathlib import Path

from airflow.dag_processing.dagbag import DagBag


def main() -> None:
    """Import errors, and each DAG's schedule, parameters and tasks."""
    folder, result = sys.argv[1:]
    bag = DagBag(folder, safe_mode=False)
    dags = {
        dag.dag_id: {
            "schedule_s": getattr(dag.schedule, "total_seconds", lambda: None)(),
            "schedule": str(dag.schedule),
            "catchup": dag.catchup,
            "max_active_runs": dag.max_active_runs,
            "params": dag.params.dump(),
            "doc": dag.doc_md,
            "tasks": {
                task.task_id: {
                    "timeout_s": task.execution_timeout and task.execution_timeout.total_seconds(),
                    "upstream": sorted(task.upstream_task_ids),
                    "doc": task.doc_md,
                }
                for task in dag.tasks
            },
        }
        for dag in bag.dags.values()
    }
    Path(result).write_text(json.dumps({"import_errors": bag.import_errors, "dags": dags}, default=str))


if __name__ == "__main__":
    main()
