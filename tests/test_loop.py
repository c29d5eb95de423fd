"""The loop end to end, on real parts: from a source to the answer of a promoted model, and what must survive.

The tests run in this order on one platform per kind of broker; each leaves it running.
"""

from __future__ import annotations

import os
import signal
import threading
import time
from typing import Any

import httpx
import pytest

from readmit_contracts.encounter import example_encounter
from readmit_contracts.prediction import Prediction

from .conftest import Platform

pytestmark = [pytest.mark.stack, pytest.mark.timeout(420)]


class Clients:
    """Threads that ask for predictions without a pause and keep every answer."""

    def __init__(self, urls: list[str], threads: int = 4) -> None:
        self.answers: list[dict[str, Any]] = []
        self.failures: list[str] = []
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=self._ask, args=(urls[i % len(urls)],)) for i in range(threads)]

    def __enter__(self) -> Clients:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()

    def _ask(self, url: str) -> None:
        with httpx.Client(base_url=url, timeout=10) as client:
            while not self._stop.is_set():
                try:
                    answer = client.post("/predict", json=example_encounter())
                except httpx.HTTPError as error:
                    self.failures.append(repr(error))
                    continue
                if answer.status_code == 200:
                    self.answers.append(answer.json())
                else:
                    self.failures.append(answer.text)
                self._stop.wait(0.02)


def pods(platform: Platform) -> list[str]:
    urls: list[str] = platform.stack["urls"]["inference"]
    return urls


def champion(platform: Platform) -> dict[str, Any]:
    found: dict[str, Any] = platform.get("promoter", "/champion")["champion"]
    return found


def every_pod_serves_the_champion(platform: Platform) -> bool:
    want = champion(platform)["epoch"]
    return all(httpx.get(f"{url}/health").json()["model"]["epoch"] == want for url in pods(platform))


def test_every_pod_answers_with_the_promoted_bytes(platform: Platform) -> None:
    promoted = champion(platform)
    platform.wait(lambda: every_pod_serves_the_champion(platform), "convergence")
    for url in pods(platform):
        answer = httpx.post(f"{url}/predict", json=example_encounter())
        prediction = Prediction.model_validate(answer.json())
        assert prediction.model.sha256 == promoted["bundle"]["sha256"]
        assert prediction.model.epoch == promoted["epoch"]
        assert prediction.model.synthetic
        assert prediction.readmitted_within_30_days == (prediction.risk >= prediction.threshold)
    said = {pod["pod_id"]: pod for pod in platform.get("promoter", "/pods")["pods"]}
    assert len(said) == len(pods(platform))
    assert {pod["sha256"] for pod in said.values()} == {promoted["bundle"]["sha256"]}


def test_every_batch_is_trained_once_by_every_family(platform: Platform) -> None:
    jobs = platform.jobs(1)
    assert len({(job["batch"], job["family"]) for job in jobs}) == len(jobs) == 6
    assert all(job["auroc"] > 0.55 for job in jobs)


def test_no_patient_stands_in_two_splits_and_the_batches_are_whole(platform: Platform) -> None:
    splits = " UNION ALL ".join(
        f"SELECT DISTINCT patient_nbr, '{split}' AS split FROM clean_data.diabetes_{split}"  # noqa: S608  our literals
        for split in ("train", "validation", "test")
    )
    query = f"SELECT count(*) FROM (SELECT patient_nbr FROM ({splits}) s GROUP BY 1 HAVING count(*) > 1) x"  # noqa: S608
    assert platform.sql("readmit_ingestor", query) == [(0,)]
    batches = platform.sql("readmit_ingestor", "SELECT rows FROM clean_data.batch_info ORDER BY batch_id")
    assert [rows for (rows,) in batches][:1] == [15_000]
    train = platform.sql("readmit_ingestor", "SELECT count(*) FROM clean_data.diabetes_train")
    assert sum(rows for (rows,) in batches) == train[0][0]


def test_the_trainers_role_cannot_read_the_test_split(platform: Platform) -> None:
    import psycopg  # noqa: PLC0415

    with pytest.raises(psycopg.errors.InsufficientPrivilege):
        platform.sql("readmit_trainer", "SELECT count(*) FROM clean_data.diabetes_test")


def test_the_registry_follows_the_ledger(platform: Platform) -> None:
    promoted = champion(platform)

    def aliases() -> dict[str, str]:
        models = platform.get("mlflow", "/api/2.0/mlflow/registered-models/search")["registered_models"]
        return {m["name"]: a["version"] for m in models for a in m.get("aliases", []) if a["alias"] == "champion"}

    expected = {promoted["name"]: promoted["version"]}
    platform.wait(lambda: aliases() == expected, "champion alias")


def test_runs_are_nested_and_none_is_left_running(platform: Platform) -> None:
    base = platform.stack["urls"]["mlflow"] + "/api/2.0/mlflow"
    experiment = httpx.get(
        f"{base}/experiments/get-by-name", params={"experiment_name": "diabetes_readmission_experiment"}
    ).json()["experiment"]["experiment_id"]
    runs = httpx.post(f"{base}/runs/search", json={"experiment_ids": [experiment], "max_results": 1000}).json()["runs"]
    parents = [r for r in runs if not any(t["key"] == "mlflow.parentRunId" for t in r["data"]["tags"])]
    assert len(parents) == 2
    assert sum(any(t["key"] == "readmit.trial_of" for t in r["data"]["tags"]) for r in runs) == 6 * 2
    assert len(runs) == 2 + 6 + 6 * 2
    assert {run["info"]["status"] for run in runs} == {"FINISHED"}


def test_the_same_source_again_is_a_visible_no_op(platform: Platform) -> None:
    asked = httpx.post(
        platform.stack["urls"]["ingestor"] + "/ingestions", json={"source": "sample:30000", "requested_by": "test"}
    )
    path = f"/ingestions/{asked.json()['request_id']}"
    ended = platform.wait(
        lambda: (found := platform.get("ingestor", path))["status"] in {"unchanged", "done", "failed"} and found,
        "ingestion",
    )
    assert (ended["status"], ended["dataset_version"]) == ("unchanged", 1)
    assert len(platform.jobs(1)) == 6


def test_a_trainer_killed_in_mid_fit_ends_with_every_batch_trained_once_and_no_request_failed(
    platform: Platform,
) -> None:
    before = champion(platform)["epoch"]
    with Clients(pods(platform)) as clients:
        httpx.post(
            platform.stack["urls"]["ingestor"] + "/ingestions", json={"source": "sample:24000", "requested_by": "test"}
        )
        platform.wait(lambda: any(job["status"] == "running" for job in platform.jobs(2)), "running fit")
        os.kill(platform.stack["pids"]["trainer"], signal.SIGKILL)
        decisions = platform.wait(lambda: platform.all_judged(2), "retrained batches")
        platform.wait(lambda: every_pod_serves_the_champion(platform), "convergence")
    jobs = platform.jobs(2)
    assert len({(job["batch"], job["family"]) for job in jobs}) == len(jobs) == len(decisions)
    versions = [(job["family"], job["model_version"]) for job in jobs]
    assert len(set(versions)) == len(versions)
    all_decisions = platform.get("promoter", "/decisions?limit=500")["decisions"]
    epochs = sorted(d["epoch"] for d in all_decisions if d["epoch"] is not None)
    assert epochs == list(range(1, len(epochs) + 1))
    assert champion(platform)["epoch"] == epochs[-1] >= before
    assert clients.failures == []
    assert len(clients.answers) > 50


def test_the_state_survives_a_restart(platform: Platform) -> None:
    before = champion(platform)
    assert platform.stop() == 0
    platform.start()
    platform.wait(lambda: every_pod_serves_the_champion(platform), "champion after the restart")
    assert champion(platform) == before
    assert len(platform.get("ingestor", "/datasets")["datasets"]) == 2
    deadline = time.monotonic() + 1
    while time.monotonic() < deadline:
        assert httpx.post(f"{pods(platform)[0]}/predict", json=example_encounter()).status_code == 200
