"""A fit that is killed at any moment, again and again: one model version at the end, and no run that still runs."""

from __future__ import annotations

import json
import logging
import os
import random
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from uuid import uuid4

import psycopg
import pytest
from mlflow import MlflowClient
from psycopg.types.json import Jsonb

from readmit_contracts.events import BatchReady
from readmit_trainer.domain import FAMILIES
from readmit_trainer.settings import Settings
from readmit_trainer.tracking import EXPERIMENT, JOB_TAG, wait_until_up

#: Kills in all; `READMIT_KILLS=20 pytest services/trainer/tests/test_trainer_kills.py` for more.
KILLS = int(os.environ.get("READMIT_KILLS", "3"))
ONE_FIT = Path(__file__).with_name("trainer_one_fit.py")


@pytest.mark.stack
@pytest.mark.timeout(900)
def test_a_fit_killed_at_any_moment_ends_as_one_version_and_leaves_no_run_running(
    server: str,
    settings: Settings,
    mlflow_url: str,
    make_event: Callable[..., BatchReady],
    tmp_path: Path,
) -> None:
    wait_until_up(mlflow_url, 120)
    chance = random.Random(KILLS)
    told = settings.model_copy(update={"mlflow_url": mlflow_url, "search_trials": 3, "threads": 1})
    arguments = told.model_dump(mode="json") | {
        "postgres": told.postgres.model_dump(mode="json") | {"password": "unused"},
        "s3": told.s3.model_dump(mode="json") | {"access_key": "unused", "secret_key": "unused"},
    }
    event = make_event(1, content_sha256=f"{uuid4().hex}{uuid4().hex}")
    whole_s = 8.0
    stages: list[str] = []
    for family in FAMILIES:
        job_id = str(uuid4())
        with psycopg.connect(server) as connection:
            connection.execute(
                "INSERT INTO training.jobs (job_id, dataset_version, batch, family, family_rank, code_version, event,"
                " headers) VALUES (%s, 1, 1, %s, 0, 'killed', %s, '{}')",
                (job_id, family, Jsonb(event.model_dump(mode="json"))),
            )
        command = [
            sys.executable,
            str(ONE_FIT),
            json.dumps(arguments),
            str(tmp_path),
            job_id,
            event.model_dump_json(),
            family,
        ]
        for _ in range(KILLS // len(FAMILIES)):
            with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as fit:
                time.sleep(chance.uniform(0.1, 0.85) * whole_s)
                fit.kill()
                stages.append((fit.communicate()[0].split() or ["importing"])[-1])
        began = time.monotonic()
        done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=300)
        whole_s = time.monotonic() - began
        version = done.stdout.split()[-1]
        again = subprocess.run(command, capture_output=True, text=True, check=True, timeout=300)
        assert again.stdout.split()[-1] == version
        client = MlflowClient(tracking_uri=mlflow_url, registry_uri=mlflow_url)
        assert [v.version for v in client.search_model_versions(f"tags.`{JOB_TAG}` = '{job_id}'")] == [version]
        with psycopg.connect(server) as connection:
            row = connection.execute(
                "SELECT count(*) FROM training.search_trials WHERE job_id = %s", (job_id,)
            ).fetchone()
            assert row == (3,)
    experiment = client.get_experiment_by_name(EXPERIMENT)
    assert experiment is not None
    runs = client.search_runs([experiment.experiment_id], "tags.code_version = 'killed'")
    trials = client.search_runs([experiment.experiment_id], "tags.`readmit.trial` != ''", max_results=1000)
    mine = [run for run in trials if run.data.tags["mlflow.parentRunId"] in {one.info.run_id for one in runs}]
    assert len(runs) == 1 + len(FAMILIES)
    assert len(mine) == 3 * len(FAMILIES)
    assert {run.info.status for run in (*runs, *mine)} == {"FINISHED"}
    logging.getLogger(__name__).info("killed in: %s", ", ".join(stages))
    assert len(stages) == KILLS // len(FAMILIES) * len(FAMILIES)
