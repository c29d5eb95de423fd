"""One job from beginning to end: read, encode, search, fit, export, store, register."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import psycopg
import structlog
from mlflow import MlflowClient
from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]  # ships no types

from readmit_bundle import write_bundle
from readmit_chassis.s3 import ObjectStore, S3Store
from readmit_contracts.events import ArtifactRef, ModelRegistered, ModelVersion
from readmit_features.spec import FeatureSpec
from readmit_trainer.candidate import Candidate, Choices, Encoded, encode, make_candidate
from readmit_trainer.dataset import LABEL, Reader
from readmit_trainer.domain import WARM_STARTING, FitDone, FitTask, Progress, Start, model_name
from readmit_trainer.errors import PartAway
from readmit_trainer.evidence import write_evidence
from readmit_trainer.preprocessor import PREPROCESSOR_KEY, preprocessor_bytes
from readmit_trainer.report import signature
from readmit_trainer.search import Budget
from readmit_trainer.settings import Settings
from readmit_trainer.tracking import OpenJob, Registered, end_orphans, register, wait_until_up
from readmit_trainer.trials import NoShelf, PostgresShelf, TrialShelf
from readmit_trainer.warm_start import Before, StartRefused, newest_before, open_before

log = structlog.get_logger()

_MLFLOW_WAIT_S = 120.0

Tell = Callable[[Progress], None]
#: Batch and bundle of the model that a task can go on from.
NewestBefore = Callable[[FitTask], tuple[int, ArtifactRef] | None]
#: The trials of a job's search by a feature spec.
Trials = Callable[[FitTask, FeatureSpec], TrialShelf]

Register = Callable[[FitTask, Candidate, ArtifactRef, ArtifactRef], Registered]


class Pipeline:
    """Runs jobs one after the other and keeps the last batch's encoded rows, which its three families share."""

    def __init__(
        self,
        settings: Settings,
        reader: Reader,
        store: ObjectStore,
        register: Register,
        trials: Trials = lambda _task, _spec: NoShelf(),
        newest_before: NewestBefore = lambda _: None,
    ) -> None:
        self._settings = settings
        self._reader = reader
        self._store = store
        self._register = register
        self._trials = trials
        self._newest_before = newest_before
        self._choices = choices(settings)
        self._encoded: tuple[str, Encoded] | None = None

    def run(self, task: FitTask, tell: Tell = lambda _: None) -> FitDone:
        """Make and register the candidate. Raises PartAway while a part is away; run it again then."""
        settings, event = self._settings, task.batch
        with threadpool_limits(settings.threads):
            start, before = self._start(task)
            data = self._data(task, before, tell)
            shelf = self._trials(task, data.spec)
            candidate = make_candidate(
                task.family, data, event, self._choices,
                code_version=task.code_version, known=shelf.known(), keep=shelf.keep, tell=tell,
            )  # fmt: skip
        tell(Progress("registering"))
        bundle = write_bundle(self._store.put, f"s3://{settings.bucket}/bundles", candidate.bundle)
        # Beside the bundle and no part of it: there MLflow's page of a model version looks for its signature.
        self._store.put(f"{bundle.uri}/MLmodel", signature(candidate.manifest).encode())
        evidence = write_evidence(self._store.put, settings.bucket, candidate.evidence)
        registered = self._register(task, candidate, bundle, evidence)
        model = ModelVersion(name=model_name(task.family), version=registered.version, family=task.family)
        fact = ModelRegistered(
            model=model,
            run_id=registered.run_id,
            dataset_version=event.dataset_version,
            batch=event.batch,
            bundle=bundle,
            evidence=evidence,
            validation=candidate.scores,
            feature_spec_sha256=candidate.spec_sha256,
            code_version=task.code_version,
            synthetic=event.synthetic,
            data_at=data.source.committed_at,
        )
        return FitDone(fact, candidate.fit_seconds, start)

    def _start(self, task: FitTask) -> tuple[Start, Before | None]:
        """The model to go on from, if that is wanted and there is one that can be trusted."""
        if not self._settings.warm_start or task.family not in WARM_STARTING:
            return "cold", None
        with database_there():
            found = self._newest_before(task)
        if found is None:
            return "cold", None
        try:
            before = open_before(self._store, task.family, *found, with_race=self._settings.include_race)
        except StartRefused as refused:
            log.warning("warm_start_refused", job_id=str(task.job_id), reason=str(refused), instead="all rows, anew")
            return "refused", None
        return "warm", before

    def _data(self, task: FitTask, before: Before | None, tell: Tell) -> Encoded:
        started_from = before.bundle_sha256 if before else ""
        key = f"{task.batch.content_sha256}/{task.batch.batch_sha256}/{task.batch.batch}/{started_from}"
        if self._encoded is None or self._encoded[0] != key:
            self._encoded = None  # free the old rows before the new ones come
            tell(Progress("reading"))
            with database_there():
                train = self._reader.train(task.batch, after=before.batch if before else 0)
                validation = self._reader.validation(task.batch)
            tell(Progress("encoding"))
            self._encoded = (key, encode(train, validation, self._choices, before))
            if task.batch.batch == task.batch.batches_total and before is None:
                labels = train.frame[LABEL].to_numpy(dtype=bool)
                content = preprocessor_bytes(train.frame, labels)
                self._store.put(f"s3://{self._settings.bucket}/{PREPROCESSOR_KEY}", content)
        return self._encoded[1]


@contextmanager
def database_there() -> Iterator[None]:
    """An unreachable database as PartAway."""
    try:
        yield
    except psycopg.OperationalError as error:
        raise PartAway(f"database not reachable: {error}", "database_away") from error


def choices(settings: Settings) -> Choices:
    """What the settings say about every model."""
    return Choices(
        min_value_rows=settings.min_value_rows,
        hidden_history=settings.hidden_history,
        include_race=settings.include_race,
        threads=settings.threads,
        missed_cost=settings.missed_readmission_cost,
        sample_fraction=settings.sample_fraction,
        dask_scheduler=settings.dask_scheduler,
        budget=Budget(settings.search_trials, settings.search_seconds),
    )


def open_pipeline(settings: Settings, store: ObjectStore | None = None) -> Pipeline:
    """The pipeline on the real parts; none of them needs to be up yet. `store` in place of S3."""
    conninfo = settings.postgres.conninfo()
    client = MlflowClient(tracking_uri=settings.mlflow_url, registry_uri=settings.mlflow_url)
    swept = False  # of runs that processes before this one have left

    def register_once(task: FitTask, candidate: Candidate, bundle: ArtifactRef, evidence: ArtifactRef) -> Registered:
        nonlocal swept
        wait_until_up(settings.mlflow_url, _MLFLOW_WAIT_S)
        # One at a time per job: an attempt whose lease ran out may still be on its way here.
        with database_there(), psycopg.connect(conninfo) as connection:
            if not swept:
                ended = end_orphans(client, _open_jobs(connection))
                swept = True
                log.info("orphan_runs_ended", runs=ended)
            connection.execute("SELECT pg_advisory_xact_lock(hashtext(%s))", (str(task.job_id),))
            return register(client, task, candidate, bundle, evidence)

    reader = Reader(conninfo, settings.sample_fraction, settings.window_batches)

    def trials(task: FitTask, spec: FeatureSpec) -> TrialShelf:
        return PostgresShelf(conninfo, task.job_id, spec.sha256())

    return Pipeline(
        settings, reader, store or S3Store(settings.s3), register_once, trials, partial(newest_before, conninfo)
    )


def _open_jobs(connection: psycopg.Connection[Any]) -> list[OpenJob]:
    rows = connection.execute(
        "SELECT job_id::text, dataset_version::text, batch::text, code_version FROM training.jobs"
        " WHERE status IN ('queued', 'running')"
    ).fetchall()
    return [OpenJob(*row) for row in rows]
