"""What MLflow is told: a run per batch, a nested run per family and below it per trial, a registered model version.

Everything is looked up by its tags before it is made, so an attempt that died half-way is completed, not doubled.
"""

from __future__ import annotations

import hashlib
import json
import random
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from mlflow import MlflowClient
from mlflow.entities import Dataset, DatasetInput, InputTag, Metric, Param, Run, RunTag
from mlflow.exceptions import MlflowException

from readmit_bundle.archive import MANIFEST_FILE
from readmit_contracts.events import ArtifactRef
from readmit_trainer.candidate import Candidate
from readmit_trainer.domain import FitTask, model_name
from readmit_trainer.errors import PartAway
from readmit_trainer.plots import LearningPoint, pictures
from readmit_trainer.report import lineage, originals, signature
from readmit_trainer.resampling import Interval
from readmit_trainer.subgroups import as_dicts, as_markdown

EXPERIMENT = "diabetes_readmission_experiment"
JOB_TAG = "readmit.job_id"
_PARENT_TAG = "mlflow.parentRunId"
_BATCH_TAG = "readmit.batch_run"
_TRIAL_TAG = "readmit.trial_of"
_CURVE_TAG = "readmit.learning_curve"
_ALREADY_EXISTS = "RESOURCE_ALREADY_EXISTS"
_NOTE_TAG = "mlflow.note.content"
_ABOUT = (
    "Risk of readmission within 30 days, of patients with diabetes. A run per batch of training data, below it one per"
    " model family, and below that one per trial of its search. A run's model card says what the model is good for."
)
_SOURCE = {"mlflow.source.name": "readmit-trainer", "mlflow.source.type": "JOB", "mlflow.user": "readmit_trainer"}
# What the registry's column holds in PostgreSQL, which refuses more.
_LONGEST_DESCRIPTION = 5000
_AWAY = frozenset({"INTERNAL_ERROR", "TEMPORARILY_UNAVAILABLE", "REQUEST_LIMIT_EXCEEDED", "DEADLINE_EXCEEDED"})


@dataclass(frozen=True, slots=True)
class Registered:
    """Where the candidate stands in MLflow."""

    run_id: str
    version: str


def wait_until_up(url: str, wait_s: float) -> None:
    """Return once the MLflow server answers; PartAway after `wait_s`. It is slow to start, and fits do not wait."""
    deadline = time.monotonic() + wait_s
    while True:
        try:
            urllib.request.urlopen(f"{url.rstrip('/')}/health", timeout=5).close()  # noqa: S310  our own setting
        except (urllib.error.URLError, OSError) as error:
            if time.monotonic() > deadline:
                raise PartAway(f"MLflow does not answer at {url}: {error}", "mlflow_away") from error
            time.sleep(random.uniform(0.5, 1.5))  # noqa: S311  spreading, not secrecy
        else:
            return


def register(
    client: MlflowClient, task: FitTask, candidate: Candidate, bundle: ArtifactRef, evidence: ArtifactRef
) -> Registered:
    """Log the nested run and register the model version, once per job. Raises PartAway while MLflow is away."""
    try:
        experiment = _experiment(client)
        started_ms = _now_ms() - int(candidate.fit_seconds * 1000)
        parent = _parent_run(client, experiment, task, started_ms)
        tags = _tags(task, candidate, bundle, evidence)
        run_id = _run(client, experiment, JOB_TAG, str(task.job_id), task.family, {_PARENT_TAG: parent}, started_ms)
        # MLflow takes as long for the trials' runs as we take to draw intervals and pictures.
        with ThreadPoolExecutor(1, "trial-runs") as aside:
            trials = aside.submit(_trial_runs, client, experiment, task, run_id, candidate)
            client.log_inputs(run_id, datasets=[_dataset(task, candidate)])
            curve = _learning_curve(client, experiment, task, candidate)
            with tempfile.TemporaryDirectory(prefix="readmit-run-") as folder:
                for name, content in _files(candidate, bundle, evidence, curve).items():
                    path = Path(folder, name)
                    path.parent.mkdir(exist_ok=True)
                    path.write_bytes(content)
                client.log_artifacts(run_id, folder)
            trials.result()
        shown = [RunTag(*tag) for tag in (tags | {_NOTE_TAG: _description(candidate.card)}).items()]
        client.log_batch(run_id, _metrics(candidate), _params(candidate), shown)
        version = _model_version(client, task, run_id, bundle, tags, _description(candidate.card))
        for ended in (run_id, parent):  # the parent ends again with each family, so it never runs with nobody in it
            client.set_terminated(ended, "FINISHED")
    except MlflowException as error:
        if error.error_code in _AWAY:
            raise PartAway(f"MLflow: {error}", "mlflow_away") from error
        raise
    return Registered(run_id, version)


@dataclass(frozen=True, slots=True)
class OpenJob:
    """A job that will still be worked on, so its runs may run."""

    job_id: str
    dataset_version: str
    batch: str
    code_version: str


def end_orphans(client: MlflowClient, open_jobs: Sequence[OpenJob]) -> int:
    """End the runs that died with an attempt whose job was then given up. Returns how many. Raises PartAway."""
    jobs = {job.job_id for job in open_jobs}
    batches = {(job.dataset_version, job.batch, job.code_version) for job in open_jobs}
    ended = 0
    try:
        experiment = client.get_experiment_by_name(EXPERIMENT)
        if experiment is None:
            return 0
        for run in list(_runs(client, str(experiment.experiment_id), "attributes.status = 'RUNNING'")):
            tags = run.data.tags
            job = tags.get(JOB_TAG) or tags.get(_TRIAL_TAG)
            batch = tuple(tags.get(name, "") for name in ("dataset_version", "batch", "code_version"))
            if (job is not None and job not in jobs) or (_BATCH_TAG in tags and batch not in batches):
                client.set_terminated(run.info.run_id, "KILLED")
                ended += 1
    except MlflowException as error:
        if error.error_code in _AWAY:
            raise PartAway(f"MLflow: {error}", "mlflow_away") from error
        raise
    return ended


def _experiment(client: MlflowClient) -> str:
    found = client.get_experiment_by_name(EXPERIMENT)
    if found is not None:
        return str(found.experiment_id)
    try:
        return str(client.create_experiment(EXPERIMENT, tags={_NOTE_TAG: _ABOUT}))
    except MlflowException as error:
        if error.error_code != _ALREADY_EXISTS:
            raise
        return _experiment(client)


def _parent_run(client: MlflowClient, experiment: str, task: FitTask, started_ms: int) -> str:
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
    return _run(client, experiment, _BATCH_TAG, key, name, tags, started_ms)


def _run(
    client: MlflowClient,
    experiment: str,
    tag: str,
    value: str,
    name: str,
    tags: Mapping[str, str],
    started_ms: int,
) -> str:
    """The run with this tag, made if there is none."""
    found = client.search_runs([experiment], f"tags.`{tag}` = '{value}'", max_results=1)
    run = found[0] if found else client.create_run(
        experiment, start_time=started_ms, tags={tag: value, **tags, **_SOURCE}, run_name=name
    )  # fmt: skip
    return str(run.info.run_id)


def _runs(client: MlflowClient, experiment: str, condition: str) -> Iterator[Run]:
    """All runs that meet a condition, whatever their number."""
    token: str | None = None
    while True:
        page = client.search_runs([experiment], condition, max_results=1000, page_token=token)
        yield from page
        token = page.token
        if not token:
            return


def _model_version(
    client: MlflowClient, task: FitTask, run_id: str, bundle: ArtifactRef, tags: Mapping[str, str], card: str
) -> str:
    name = model_name(task.family)
    try:
        client.create_registered_model(name, description=_ABOUT)
    except MlflowException as error:
        if error.error_code != _ALREADY_EXISTS:
            raise
    found = client.search_model_versions(f"name = '{name}' and tags.`{JOB_TAG}` = '{task.job_id}'")
    made = found[0] if found else client.create_model_version(
        name, bundle.uri, run_id, tags={JOB_TAG: str(task.job_id), **tags}, description=card, await_creation_for=0
    )  # fmt: skip
    return str(made.version)


def _description(card: str) -> str:
    """The card, or as many of its lines as MLflow keeps."""
    if len(card) <= _LONGEST_DESCRIPTION:
        return card
    rest = "\n\nThe rest is in the run's `model_card.md`."
    return card[: _LONGEST_DESCRIPTION - len(rest)].rpartition("\n")[0] + rest


def _now_ms() -> int:
    return int(time.time() * 1000)


def _tags(task: FitTask, candidate: Candidate, bundle: ArtifactRef, evidence: ArtifactRef) -> dict[str, str]:
    return {
        "family": task.family,
        "dataset_version": str(task.batch.dataset_version),
        "batch": str(task.batch.batch),
        "synthetic": str(task.batch.synthetic).lower(),
        "code_version": task.code_version,
        _CURVE_TAG: _curve(task),
        "feature_spec_sha256": candidate.spec_sha256,
        "bundle_uri": bundle.uri,
        "bundle_sha256": bundle.sha256,
        "evidence_uri": evidence.uri,
        "evidence_sha256": evidence.sha256,
    }


def _trial_runs(client: MlflowClient, experiment: str, task: FitTask, run_id: str, candidate: Candidate) -> None:
    """One ended run per trial of the search, below the family's run."""
    found = _runs(client, experiment, f"tags.`{_TRIAL_TAG}` = '{task.job_id}'")
    there = {run.data.tags["readmit.trial"]: run for run in found}
    for trial in candidate.trials:
        known = there.get(str(trial.number))
        if known is not None and known.info.status == "FINISHED":
            continue
        now_ms = _now_ms()
        tags = {
            _TRIAL_TAG: str(task.job_id), "readmit.trial": str(trial.number), "state": trial.state, _PARENT_TAG: run_id,
            **_SOURCE,
        }  # fmt: skip
        run = known or client.create_run(
            experiment,
            start_time=now_ms - int(trial.seconds * 1000),
            tags=tags,
            run_name=f"trial-{trial.number}-{trial.state}",
        )
        losses = [Metric("fold_log_loss", loss, now_ms, fold) for fold, loss in enumerate(trial.losses)]
        figures = {"seconds": trial.seconds} | ({} if trial.value is None else {"log_loss": trial.value})
        client.log_batch(
            run.info.run_id,
            [*losses, *(Metric(name, figure, now_ms, 0) for name, figure in figures.items())],
            [Param(name, str(value)) for name, value in trial.params.items()],
        )
        client.set_terminated(run.info.run_id, "FINISHED", end_time=now_ms)


def _learning_curve(client: MlflowClient, experiment: str, task: FitTask, candidate: Candidate) -> list[LearningPoint]:
    """What this family reached on the batches before, and on this one."""
    now = LearningPoint(task.batch.batch, candidate.training_rows, candidate.report.scores["auroc"])
    points = {now.batch: now}
    for run in _runs(client, experiment, f"tags.`{_CURVE_TAG}` = '{_curve(task)}'"):
        batch, figures = int(run.data.tags["batch"]), run.data.metrics
        names = ("validation_auroc", "validation_auroc_low", "validation_auroc_high", "training_rows")
        if batch < now.batch and all(name in figures for name in names):
            value, low, high, rows = (figures[name] for name in names)
            points[batch] = LearningPoint(batch, int(rows), Interval(value, low, high))
    return [points[batch] for batch in sorted(points)]


def _curve(task: FitTask) -> str:
    return f"{task.batch.content_sha256}-{task.family}-{task.code_version}"


def _dataset(task: FitTask, candidate: Candidate) -> DatasetInput:
    """The training rows, as MLflow shows data: named, with a digest, and where they lie."""
    event, made = task.batch, candidate.manifest.lineage
    name = f"dataset {event.dataset_version}, batches {made.first_batch} to {made.batch}"
    source = {"table": "clean_data.diabetes_train", "batch_sha256": list(made.batch_sha256)}
    profile = {"num_rows": candidate.training_rows, "content_sha256": event.content_sha256}
    # MLflow keeps one dataset per name and digest, so the digest covers all that the rows depend on.
    rows = f"{made.batch_sha256} {made.first_batch} {made.sample_fraction} {candidate.training_rows}"
    digest = hashlib.sha256(rows.encode()).hexdigest()[:36]
    columns = {"mlflow_colspec": json.loads(json.loads(signature(candidate.manifest))["signature"]["inputs"])}
    dataset = Dataset(name, digest, "postgresql", json.dumps(source), json.dumps(columns), json.dumps(profile))
    return DatasetInput(dataset, [InputTag("mlflow.data.context", "training")])


def _files(
    candidate: Candidate,
    bundle: ArtifactRef,
    evidence: ArtifactRef,
    curve: list[LearningPoint],
) -> dict[str, bytes]:
    """The run's artifacts by path."""
    drawn = pictures(
        candidate.risks, candidate.labels, candidate.patients, candidate.held_out,
        candidate.manifest.threshold.value, candidate.report.scores, candidate.importances, curve,
    )  # fmt: skip
    return {
        MANIFEST_FILE: candidate.bundle.files[MANIFEST_FILE],
        "MLmodel": signature(candidate.manifest).encode(),
        "lineage.json": _json(lineage(candidate, bundle, evidence)),
        "model_card.md": candidate.card.encode(),
        "subgroups.json": _json(as_dicts(candidate.report.audit)),
        "subgroups.md": as_markdown(candidate.report.audit).encode(),
        "importances.json": _json(dict(candidate.importances)),
        **{f"plots/{name}": content for name, content in drawn.items()},
    }


def _json(content: object) -> bytes:
    return json.dumps(content, indent=1).encode()


def _metrics(candidate: Candidate) -> list[Metric]:
    scores = candidate.scores.model_dump(exclude_none=True)
    figures: dict[str, float] = {f"validation_{name}": figure for name, figure in scores.items()}
    for name, score in candidate.report.scores.items():
        figures |= {f"validation_{name}_low": score.low, f"validation_{name}_high": score.high}
    alone = candidate.manifest.without_history
    if alone is not None:
        figures |= {"without_history_auroc": alone.auroc, "without_history_average_precision": alone.average_precision}
    figures |= {f"calibration_{method}_log_loss": loss for method, loss in candidate.calibration_losses.items()}
    figures |= originals(candidate) | {
        "fit_seconds": candidate.fit_seconds,
        "export_parity": candidate.parity,
        "single_row_microseconds": candidate.row_seconds * 1e6,
        "bundle_bytes": candidate.bundle.size_bytes,
        "training_rows": candidate.training_rows,
    }
    now_ms = _now_ms()
    return [Metric(name, float(figure), now_ms, 0) for name, figure in figures.items()]


def _params(candidate: Candidate) -> list[Param]:
    told = {
        **candidate.params,
        "calibration": candidate.manifest.calibration.method,
        "threshold": candidate.manifest.threshold.value,
        "first_batch": candidate.manifest.lineage.first_batch,
        "started_from": candidate.manifest.lineage.started_from or "",
        "sample_fraction": candidate.manifest.lineage.sample_fraction,
        "trials": len(candidate.trials),
        **{f"library_{name}": version for name, version in candidate.manifest.lineage.libraries.items()},
    }
    return [Param(name, str(value)) for name, value in told.items()]
