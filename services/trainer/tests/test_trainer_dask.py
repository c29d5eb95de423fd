"""LightGBM on a real Dask cluster: a scheduler and two workers, as processes."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack

import numpy as np
import pytest
from pydantic import ValidationError

from readmit_bundle.scorers import load_scorer
from readmit_chassis.testing import free_port
from readmit_trainer.errors import PartAway
from readmit_trainer.families import TrainingRows, open_family
from readmit_trainer.families.fitted import log_loss
from readmit_trainer.settings import Settings

PARAMS = {"num_leaves": 7, "min_child_samples": 20, "feature_fraction": 0.5, "lambda_l2": 1.0}


@pytest.fixture(scope="module")
def rows() -> TrainingRows:
    random = np.random.default_rng(1)
    values = random.normal(size=(20_000, 6))
    labels = random.random(20_000) < 1 / (1 + np.exp(2 - values[:, 0] - values[:, 1] * values[:, 2]))
    return TrainingRows(values, labels, np.arange(20_000) % 4, 4, 1)


class Cluster:
    """Processes of `distributed`, and how to end one."""

    def __init__(self, stack: ExitStack) -> None:
        self._stack = stack
        port = free_port()
        self.scheduler = f"tcp://127.0.0.1:{port}"
        self._start("dask_scheduler", "--port", str(port))
        self.workers = [self._start("dask_worker", self.scheduler, "--nthreads", "1", "--no-nanny") for _ in range(2)]

    def _start(self, module: str, *options: str) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-m", f"distributed.cli.{module}", *options, "--host", "127.0.0.1", "--no-dashboard"]
        process = self._stack.enter_context(subprocess.Popen(command, stderr=subprocess.DEVNULL))
        self._stack.callback(process.kill)
        return process


@pytest.fixture
def cluster() -> Iterator[Cluster]:
    with ExitStack() as stack:
        started = Cluster(stack)
        from distributed import Client  # noqa: PLC0415  slow to import, and for these tests alone

        with Client(started.scheduler, timeout=60) as client:
            client.wait_for_workers(2, timeout=60)
        yield started


@pytest.mark.stack
def test_a_fit_on_two_workers_is_as_good_as_one_here_and_tells_nothing_of_the_machines(
    cluster: Cluster, rows: TrainingRows
) -> None:
    here, there = open_family("lightgbm", rows), open_family("lightgbm", rows, cluster.scheduler)
    scores = [family.score_fold(PARAMS, 0) for family in (here, there)]
    assert scores[1].loss == pytest.approx(scores[0].loss, abs=0.005)
    chance = log_loss(rows.labels, np.full(len(rows.labels), rows.labels.mean()))
    assert scores[1].loss < chance - 0.03
    fitted = there.fit(there.settle(PARAMS, [scores[1].params]))
    assert int(fitted.params["num_trees"]) == scores[1].params["num_trees"]
    assert b"127.0.0.1" not in fitted.model_file
    assert b"[feature_fraction: 0.5]" in fitted.model_file
    margins = load_scorer("lightgbm_text", fitted.model_file).many(rows.rows)
    np.testing.assert_allclose(1 / (1 + np.exp(-margins)), fitted.probabilities(rows.rows), atol=1e-12)
    local = here.fit(here.settle(PARAMS, [scores[0].params])).probabilities(rows.rows)
    assert np.corrcoef(fitted.probabilities(rows.rows), local)[0, 1] > 0.97


@pytest.mark.stack
def test_a_worker_that_dies_in_mid_fit_is_a_part_that_is_away_and_the_others_go_on(
    cluster: Cluster, rows: TrainingRows
) -> None:
    family = open_family("lightgbm", rows, cluster.scheduler)
    threading.Timer(2.0, cluster.workers[0].kill).start()
    with pytest.raises(PartAway) as away:
        family.fit({**PARAMS, "num_trees": 200_000})
    assert away.value.code == "dask_away"
    cluster.workers[0].wait()
    fitted = open_family("lightgbm", rows, cluster.scheduler).fit({**PARAMS, "num_trees": 20})
    assert fitted.params["num_trees"] == 20


@pytest.mark.stack
def test_a_scheduler_without_workers_says_what_to_do(cluster: Cluster, rows: TrainingRows) -> None:
    for worker in cluster.workers:
        worker.kill()
        worker.wait()
    time.sleep(1)  # the scheduler notices that their connections are closed
    family = open_family("lightgbm", rows, cluster.scheduler)
    with pytest.raises(PartAway, match="start some"):
        family.score_fold(PARAMS, 0)


def test_a_cluster_that_is_not_there_is_waited_for(rows: TrainingRows, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("readmit_trainer.families.lightgbm_dask._CONNECT_S", 1)
    with pytest.raises(PartAway, match=r"127\.0\.0\.1:1"):
        open_family("lightgbm", rows, "tcp://127.0.0.1:1")


def test_the_other_families_stay_here(rows: TrainingRows) -> None:
    assert type(open_family("decision_tree", rows, "tcp://127.0.0.1:1")).__name__ == "DecisionTree"


def test_warm_start_and_a_cluster_exclude_each_other(settings: Settings) -> None:
    told = settings.model_dump() | {"warm_start": True, "dask_scheduler": "tcp://dask:8786"}
    with pytest.raises(ValidationError, match="TRAINER_WARM_START and TRAINER_DASK_SCHEDULER"):
        Settings.model_validate(told)
