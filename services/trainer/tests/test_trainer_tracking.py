"""What MLflow is told, by a real MLflow server."""

from __future__ import annotations

import dataclasses
import json
import os
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from uuid import uuid4

import pandas as pd
import pytest
from mlflow import MlflowClient
from mlflow.entities import Run

from readmit_chassis.failures import Transient
from readmit_chassis.testing import free_port
from readmit_contracts.events import ArtifactRef, BatchReady
from readmit_features.history import with_history
from readmit_trainer import tracking
from readmit_trainer.candidate import Candidate, Choices, encode, make_candidate
from readmit_trainer.dataset import Training
from readmit_trainer.domain import FAMILIES, FamilyName, FitTask
from readmit_trainer.search import Budget
from readmit_trainer.tracking import EXPERIMENT, OpenJob, Registered, end_orphans, register, wait_until_up

BUNDLE = ArtifactRef(uri="s3://mlflow-artifacts/bundles/b", sha256="b" * 64, size_bytes=2)
EVIDENCE = ArtifactRef(uri="s3://mlflow-artifacts/evidence/e/validation.npz", sha256="e" * 64, size_bytes=2)


@pytest.fixture(scope="session")
def client(mlflow_url: str) -> MlflowClient:
    wait_until_up(mlflow_url, 120)
    return MlflowClient(tracking_uri=mlflow_url, registry_uri=mlflow_url)


@pytest.fixture
def candidate(encounters: pd.DataFrame, make_event: Callable[..., BatchReady]) -> Candidate:
    """A small one that was really fitted."""
    train, validation = (
        with_history(encounters[encounters["split"] == split].reset_index(drop=True))
        for split in ("train", "validation")
    )
    choices = Choices(budget=Budget(trials=3, seconds=60.0))
    data = encode(Training(train, 1, ("b" * 64,)), validation, choices)
    return make_candidate("decision_tree", data, make_event(), choices, code_version="v1")


@pytest.fixture
def make_task(make_event: Callable[..., BatchReady]) -> Callable[[FamilyName], FitTask]:
    event = make_event(content_sha256=f"{uuid4().hex}{uuid4().hex}")
    return lambda family: FitTask(uuid4(), event, family, "v1")


def runs(client: MlflowClient, tag: str, value: str) -> list[Run]:
    experiment = client.get_experiment_by_name(EXPERIMENT)
    assert experiment is not None
    return list(client.search_runs([experiment.experiment_id], f"tags.`{tag}` = '{value}'"))


def versions(client: MlflowClient, task: FitTask) -> list[str]:
    found = client.search_model_versions(f"tags.`{tracking.JOB_TAG}` = '{task.job_id}'")
    return [str(version.version) for version in found]


@pytest.mark.stack
def test_the_families_of_a_batch_are_nested_runs_of_one_parent_and_none_stays_running(
    client: MlflowClient, candidate: Candidate, make_task: Callable[[FamilyName], FitTask]
) -> None:
    registered = {family: register(client, make_task(family), candidate, BUNDLE, EVIDENCE) for family in FAMILIES}
    nested = [client.get_run(one.run_id) for one in registered.values()]
    [parent] = {run.data.tags["mlflow.parentRunId"] for run in nested}
    assert {run.info.status for run in (*nested, client.get_run(parent))} == {"FINISHED"}
    assert {run.data.tags["family"] for run in nested} == set(FAMILIES)
    assert nested[0].data.metrics["validation_auroc"] == candidate.scores.auroc
    assert nested[0].data.metrics["export_parity"] == candidate.parity
    told = nested[0].data.params
    assert {name: told[name] for name in candidate.params} == {n: str(v) for n, v in candidate.params.items()}
    version = client.get_model_version("diabetes_readmission_lightgbm", registered["lightgbm"].version)
    assert (version.source, version.run_id) == (BUNDLE.uri, registered["lightgbm"].run_id)
    assert version.tags["bundle_sha256"] == BUNDLE.sha256
    assert version.tags["synthetic"] == "true"
    assert "# diabetes_readmission_decision_tree" in version.description
    files = {file.path for file in client.list_artifacts(registered["lightgbm"].run_id)}
    assert {"bundle.json", "MLmodel", "lineage.json", "model_card.md", "subgroups.json", "plots"} <= files
    pictures = client.list_artifacts(registered["lightgbm"].run_id, "plots")
    assert len(pictures) == 7
    assert all(picture.file_size > 5_000 for picture in pictures)


@pytest.mark.stack
def test_a_forced_retraining_stands_beside_the_earlier_run_and_version(
    client: MlflowClient, candidate: Candidate, make_task: Callable[[FamilyName], FitTask]
) -> None:
    """The same batch, code and bytes, trained again twice: each has a parent run and a model version of its own."""
    first = make_task("lightgbm")
    tasks = [first, *(dataclasses.replace(first, job_id=uuid4(), request_id=uuid4()) for _ in range(2))]
    registered = [register(client, task, candidate, BUNDLE, EVIDENCE) for task in tasks]
    assert [register(client, task, candidate, BUNDLE, EVIDENCE) for task in tasks] == registered
    assert len({one.version for one in registered}) == 3
    parents = [client.get_run(one.run_id).data.tags["mlflow.parentRunId"] for one in registered]
    assert len(set(parents)) == 3
    assert [client.get_run(parent).data.tags.get("request_id") for parent in parents] == [
        None if task.request_id is None else str(task.request_id) for task in tasks
    ]
    assert client.get_run(parents[1]).info.run_name == "dataset-1-batch-1-again"


@pytest.mark.stack
@pytest.mark.parametrize("dies_in", ["_run", "_metrics", "_model_version"])
def test_an_attempt_that_died_half_way_is_completed_not_doubled(
    client: MlflowClient,
    candidate: Candidate,
    make_task: Callable[[FamilyName], FitTask],
    monkeypatch: pytest.MonkeyPatch,
    dies_in: str,
) -> None:
    task = make_task("lightgbm")
    step = getattr(tracking, dies_in)

    def dies(*arguments: object) -> None:
        step(*arguments)
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(tracking, dies_in, dies)
        with pytest.raises(KeyboardInterrupt):
            register(client, task, candidate, BUNDLE, EVIDENCE)
    first = register(client, task, candidate, BUNDLE, EVIDENCE)
    assert register(client, task, candidate, BUNDLE, EVIDENCE) == first
    assert versions(client, task) == [first.version]
    [run] = runs(client, tracking.JOB_TAG, str(task.job_id))
    assert (run.info.run_id, run.info.status) == (first.run_id, "FINISHED")
    [parent] = runs(client, "content_sha256", task.batch.content_sha256)
    assert parent.info.status == "FINISHED"
    assert isinstance(first, Registered)


def test_an_mlflow_that_is_away_is_a_transient_failure(
    candidate: Candidate, make_task: Callable[[FamilyName], FitTask], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(os.environ, "MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    url = f"http://127.0.0.1:{free_port()}"
    with pytest.raises(Transient, match="does not answer"):
        wait_until_up(url, 0.0)
    with pytest.raises(Transient, match="MLflow"):
        register(MlflowClient(tracking_uri=url, registry_uri=url), make_task("lightgbm"), candidate, BUNDLE, EVIDENCE)


@pytest.mark.stack
def test_every_trial_of_the_search_is_a_run_below_its_family_once(
    client: MlflowClient, candidate: Candidate, make_task: Callable[[FamilyName], FitTask]
) -> None:
    task = make_task("decision_tree")
    run_id = register(client, task, candidate, BUNDLE, EVIDENCE).run_id
    register(client, task, candidate, BUNDLE, EVIDENCE)
    trials = {int(run.data.tags["readmit.trial"]): run for run in runs(client, "readmit.trial_of", str(task.job_id))}
    assert sorted(trials) == [trial.number for trial in candidate.trials]
    for trial in candidate.trials:
        run = trials[trial.number]
        assert (run.info.status, run.data.tags["mlflow.parentRunId"]) == ("FINISHED", run_id)
        assert run.data.tags["state"] == trial.state
        assert run.info.end_time - run.info.start_time == int(trial.seconds * 1000)
        assert run.data.params == {name: str(value) for name, value in trial.params.items()}
        assert run.data.metrics.get("log_loss") == trial.value


@pytest.mark.stack
def test_a_reader_gets_from_a_model_version_to_the_rows_that_trained_it(
    client: MlflowClient, candidate: Candidate, make_task: Callable[[FamilyName], FitTask]
) -> None:
    task = make_task("decision_tree")
    registered = register(client, task, candidate, BUNDLE, EVIDENCE)
    version = client.get_model_version("diabetes_readmission_decision_tree", registered.version)
    run = client.get_run(version.run_id)
    folder = client.download_artifacts(run.info.run_id, "lineage.json")
    told = json.loads(Path(folder).read_text())
    assert told["batch_sha256"] == list(candidate.manifest.lineage.batch_sha256)
    assert "dataset_version = 1 AND batch_id BETWEEN 1 AND 1" in told["rows_in_sql"]
    assert told["bundle"]["sha256"] == version.tags["bundle_sha256"] == BUNDLE.sha256
    [shown] = run.inputs.dataset_inputs
    assert shown.dataset.name == "dataset 1, batches 1 to 1"
    assert json.loads(shown.dataset.profile)["num_rows"] == candidate.training_rows
    columns = {column["name"]: column["type"] for column in json.loads(shown.dataset.schema)["mlflow_colspec"]}
    assert columns["time_in_hospital"] == "long"
    assert len(columns) == len(candidate.manifest.feature_spec.columns)


@pytest.mark.stack
def test_another_sample_of_the_same_batches_is_another_dataset(
    client: MlflowClient, candidate: Candidate, make_task: Callable[[FamilyName], FitTask]
) -> None:
    """MLflow keeps what it first heard of a dataset with this name and digest."""
    fewer = dataclasses.replace(
        candidate,
        training_rows=candidate.training_rows - 1_000,
        manifest=candidate.manifest.model_copy(
            update={"lineage": candidate.manifest.lineage.model_copy(update={"sample_fraction": 0.5})}
        ),
    )
    rows = []
    for one in (candidate, fewer):
        run = client.get_run(register(client, make_task("decision_tree"), one, BUNDLE, EVIDENCE).run_id)
        rows.append(json.loads(run.inputs.dataset_inputs[0].dataset.profile)["num_rows"])
    assert rows == [candidate.training_rows, fewer.training_rows]


@pytest.mark.stack
def test_mlflows_pages_say_what_is_on_them(
    client: MlflowClient, candidate: Candidate, make_task: Callable[[FamilyName], FitTask]
) -> None:
    before_ms = time.time() * 1000
    run = client.get_run(register(client, make_task("decision_tree"), candidate, BUNDLE, EVIDENCE).run_id)
    experiment = client.get_experiment(run.info.experiment_id)
    assert "below it one per model family" in experiment.tags["mlflow.note.content"]
    assert run.data.tags["mlflow.note.content"].startswith("# diabetes_readmission_decision_tree")
    assert run.data.tags["mlflow.source.name"] == "readmit-trainer"
    # A run lasts from the first trial to its registration.
    assert before_ms - run.info.start_time == pytest.approx(candidate.fit_seconds * 1000, abs=2_000)
    model = client.get_registered_model("diabetes_readmission_decision_tree")
    assert "Risk of readmission" in model.description


@pytest.mark.stack
def test_a_card_that_is_longer_than_the_registry_keeps_is_cut_at_a_line(
    client: MlflowClient,
    candidate: Candidate,
    make_task: Callable[[FamilyName], FitTask],
) -> None:
    """PostgreSQL refuses a description of more than 5,000 characters, and each attempt after it."""
    card = "\n".join(f"line {n} of a long card" for n in range(400))
    told_at_length = replace(candidate, card=card)
    registered = register(client, make_task("decision_tree"), told_at_length, BUNDLE, EVIDENCE)
    description = client.get_model_version("diabetes_readmission_decision_tree", registered.version).description
    told, _, rest = description.partition("\n\n")
    assert len(description) <= 5_000
    assert set(told.splitlines()) < set(card.splitlines())
    assert "model_card.md" in rest
    assert Path(client.download_artifacts(registered.run_id, "model_card.md")).read_text() == card


@pytest.mark.stack
def test_a_registration_with_many_trials_is_a_matter_of_seconds(
    client: MlflowClient, candidate: Candidate, make_task: Callable[[FamilyName], FitTask]
) -> None:
    trials = [dataclasses.replace(candidate.trials[0], number=number) for number in range(20)]
    many, task = dataclasses.replace(candidate, trials=tuple(trials)), make_task("decision_tree")
    started = time.thread_time()  # ours alone: what MLflow's server takes is beside the point
    register(client, task, many, BUNDLE, EVIDENCE)
    assert time.thread_time() - started < 5
    assert len(runs(client, "readmit.trial_of", str(task.job_id))) == 20


@pytest.mark.stack
def test_scores_have_intervals_and_the_originals_names_are_there(
    client: MlflowClient, candidate: Candidate, make_task: Callable[[FamilyName], FitTask]
) -> None:
    figures = client.get_run(
        register(client, make_task("decision_tree"), candidate, BUNDLE, EVIDENCE).run_id
    ).data.metrics
    for name in ("auroc", "average_precision", "brier", "calibration_error"):
        assert figures[f"validation_{name}_low"] <= figures[f"validation_{name}_high"]
    assert figures["validation_auroc_low"] < figures["validation_auroc"] < figures["validation_auroc_high"]
    assert {"accuracy", "precision", "recall", "f1_score", "roc_auc", "single_row_microseconds"} <= set(figures)
    assert figures["roc_auc"] == candidate.scores.auroc


@pytest.mark.stack
def test_the_learning_curve_goes_on_from_the_batches_before(
    client: MlflowClient, candidate: Candidate, make_event: Callable[..., BatchReady]
) -> None:
    content = f"{uuid4().hex}{uuid4().hex}"
    tasks = [FitTask(uuid4(), make_event(k, content_sha256=content), "decision_tree", "v1") for k in (1, 2, 3)]
    sizes = []
    for task in tasks:
        run_id = register(client, task, candidate, BUNDLE, EVIDENCE).run_id
        sizes.append(Path(client.download_artifacts(run_id, "plots/learning_curve.png")).read_bytes())
    assert len(set(sizes)) == 3


@pytest.mark.stack
def test_runs_of_jobs_that_were_given_up_are_ended_and_those_of_open_jobs_are_not(
    client: MlflowClient,
    candidate: Candidate,
    make_event: Callable[..., BatchReady],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    tasks = []
    for dataset in (1, 2):
        event = make_event(dataset_version=dataset, content_sha256=f"{uuid4().hex}{uuid4().hex}")
        tasks.append(FitTask(uuid4(), event, "decision_tree", "given-up"))

    def dies(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(tracking, "_model_version", dies)
        for task in tasks:
            with pytest.raises(KeyboardInterrupt):
                register(client, task, candidate, BUNDLE, EVIDENCE)
    parents = {run.data.tags["dataset_version"]: run for run in runs(client, "code_version", "given-up")
               if "readmit.batch_run" in run.data.tags}  # fmt: skip
    still_open = OpenJob(str(tasks[1].job_id), "2", "1", "given-up")
    assert end_orphans(client, [still_open]) >= 2
    for task, status in zip(tasks, ("KILLED", "RUNNING"), strict=True):
        [run] = runs(client, tracking.JOB_TAG, str(task.job_id))
        assert run.info.status == status
        assert client.get_run(parents[str(task.batch.dataset_version)].info.run_id).info.status == status
    register(client, tasks[1], candidate, BUNDLE, EVIDENCE)
    assert end_orphans(client, []) == 0
