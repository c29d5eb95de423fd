"""What MLflow is told: a run per batch, a nested run per family, a registered model version.

Everything is looked up by its tags before it is made, so an attempt that died half-way is completed, not doubled.
"""

from __future__ import annotations

import random
import time
import urllib.error
import urllib.request
from collections.abc import Mapping
from dataclasses import dataclass

from mlflow import MlflowClient
from mlflow.entities import Metric, Param, RunTag
from mlflow.exceptions import MlflowException

from readmit_bundle.archive import MANIFEST_FILE
from readmit_chassis.failures import Transient
from readmit_contracts.events import ArtifactRef
from readmit_trainer.candidate import Candidate
from readmit_trainer.domain import FitTask, model_name

EXPERIMENT = "diabetes_readmission_experiment"
JOB_TAG = "readmit.job_id"
_PARENT_TAG = "mlflow.parentRunId"
_BATCH_TAG = "readmit.batch_run"
_ALREADY_EXISTS = "RESOURCE_ALREADY_EXISTS"
_AWAY = frozenset({"INTERNAL_ERROR", "TEMPORARILY_UNAVAILABLE", "REQUEST_LIMIT_EXCEEDED", "DEADLINE_EXCEEDED"})


@dataclass(frozen=True, slots=True)
class Registered:
    """Where the candidate stands in MLflow."""

    run_id: str
    version: str


def wait_until_up(url: str, wait_s: float) -> None:
    """Return once the MLflow server answers; Transient after `wait_s`. It is slow to start, and fits do not wait."""
    deadline = time.monotonic() + wait_s
    while True:
        try:
            urllib.request.urlopen(f"{url.rstrip('/')}/health", timeout=5).close()  # noqa: S310  our own setting
        except (urllib.error.URLError, OSError) as error:
            if time.monotonic() > deadline:
                raise Transient(f"MLflow does not answer at {url}: {error}") from error
            time.sleep(random.uniform(0.5, 1.5))  # noqa: S311  spreading, not secrecy
        else:
            return


def register(
    client: MlflowClient, task: FitTask, candidate: Candidate, bundle: ArtifactRef, evidence: ArtifactRef
) -> Registered:
    """Log the nested run and register the model version, once per job. Raises Transient while MLflow is away."""
    try:
        experiment = _experiment(client)
        parent = _parent_run(client, experiment, task)
        tags = _tags(task, candidate, bundle, evidence)
        run_id = _run(client, experiment, JOB_TAG, str(task.job_id), task.family, {_PARENT_TAG: parent})
        client.log_batch(run_id, _metrics(candidate), _params(candidate), [RunTag(*tag) for tag in tags.items()])
        client.log_text(run_id, candidate.bundle.files[MANIFEST_FILE].decode(), MANIFEST_FILE)
        version = _model_version(client, task, run_id, bundle, tags)
        for ended in (run_id, parent):  # the parent ends again with each family, so it never runs with nobody in it
            client.set_terminated(ended, "FINISHED")
    except MlflowException as error:
        if error.error_code in _AWAY:
            raise Transient(f"MLflow: {error}") from error
        raise
    return Registered(run_id, version)


def _experiment(client: MlflowClient) -> str:
    found = client.get_experiment_by_name(EXPERIMENT)
    if found is not None:
        return str(found.experiment_id)
    try:
        return str(client.create_experiment(EXPERIMENT))
    except MlflowException as error:
        if error.error_code != _ALREADY_EXISTS:
            raise
        return _experiment(client)


def _parent_run(client: MlflowClient, experiment: str, task: FitTask) -> str:
    event = task.batch
    name = f"dataset-{event.dataset_version}-batch-{event.batch}"
    key = f"{event.content_sha256}-{event.batch}-{task.code_version}"
    tags = {
        "dataset_version": str(event.dataset_version),
        "content_sha256": event.content_sha256,
        "batch": str(event.batch),
        "synthetic": str(event.synthetic).lower(),
        "code_version": task.code_version,
    }
    if task.request_id is not None:  # what was trained again on request stands beside what the batch gave rise to
        name, key = f"{name}-again", f"{key}-{task.request_id}"
        tags["request_id"] = str(task.request_id)
    return _run(client, experiment, _BATCH_TAG, key, name, tags)


def _run(client: MlflowClient, experiment: str, tag: str, value: str, name: str, tags: Mapping[str, str]) -> str:
    """The run with this tag, made if there is none."""
    found = client.search_runs([experiment], f"tags.`{tag}` = '{value}'", max_results=1)
    run = found[0] if found else client.create_run(experiment, tags={tag: value, **tags}, run_name=name)
    return str(run.info.run_id)


def _model_version(
    client: MlflowClient, task: FitTask, run_id: str, bundle: ArtifactRef, tags: Mapping[str, str]
) -> str:
    name = model_name(task.family)
    try:
        client.create_registered_model(name)
    except MlflowException as error:
        if error.error_code != _ALREADY_EXISTS:
            raise
    found = client.search_model_versions(f"name = '{name}' and tags.`{JOB_TAG}` = '{task.job_id}'")
    made = found[0] if found else client.create_model_version(
        name, bundle.uri, run_id, tags={JOB_TAG: str(task.job_id), **tags}, await_creation_for=0
    )  # fmt: skip
    return str(made.version)


def _tags(task: FitTask, candidate: Candidate, bundle: ArtifactRef, evidence: ArtifactRef) -> dict[str, str]:
    return {
        "family": task.family,
        "dataset_version": str(task.batch.dataset_version),
        "batch": str(task.batch.batch),
        "synthetic": str(task.batch.synthetic).lower(),
        "code_version": task.code_version,
        "feature_spec_sha256": candidate.spec_sha256,
        "bundle_uri": bundle.uri,
        "bundle_sha256": bundle.sha256,
        "evidence_uri": evidence.uri,
        "evidence_sha256": evidence.sha256,
    }


def _metrics(candidate: Candidate) -> list[Metric]:
    scores = candidate.scores.model_dump(exclude_none=True)
    figures = {f"validation_{name}": figure for name, figure in scores.items()}
    figures |= {"fit_seconds": candidate.fit_seconds, "export_parity": candidate.parity}
    now_ms = int(time.time() * 1000)
    return [Metric(name, float(figure), now_ms, 0) for name, figure in figures.items()]


def _params(candidate: Candidate) -> list[Param]:
    return [Param(name, str(value)) for name, value in candidate.params.items()]
