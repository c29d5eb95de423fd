"""One job from beginning to end: read, encode, search, fit, export, store, register."""

from __future__ import annotations

from collections.abc import Callable
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
from readmit_trainer.domain import FitDone, FitTask, Progress, model_name
from readmit_trainer.errors import PartAway
from readmit_trainer.evidence import write_evidence
from readmit_trainer.preprocessor import PREPROCESSOR_KEY, preprocessor_bytes
from readmit_trainer.report import signature
from readmit_trainer.search import Budget
from readmit_trainer.settings import Settings
from readmit_trainer.tracking import OpenJob, Registered, end_orphans, register, wait_until_up
from readmit_trainer.trials import NoShelf, PostgresShelf, TrialShelf

log = structlog.get_logger()

_MLFLOW_WAIT_S = 120.0

Tell = Callable[[Progress], None]
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
    ) -> None:
        self._settings = settings
        self._reader = reader
        self._store = store
        self._register = register
        self._trials = trials
        self._choices = choices(settings)
        self._encoded: tuple[str, Encoded] | None = None

    def run(self, task: FitTask, tell: Tell = lambda _: None) -> FitDone:
        """Make and register the candidate. Raises PartAway while a part is away; run it again then."""
        settings, event = self._settings, task.batch
        with threadpool_limits(settings.threads):
            data = self._data(task, tell)
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
        )
        return FitDone(fact, candidate.fit_seconds)

    def _data(self, task: FitTask, tell: Tell) -> Encoded:
        key = f"{task.batch.content_sha256}/{task.batch.batch_sha256}/{task.batch.batch}"
        if self._encoded is None or self._encoded[0] != key:
            self._encoded = None  # free the old rows before the new ones come
            tell(Progress("reading"))
            try:
                train = self._reader.train(task.batch)
                validation = self._reader.validation(task.batch)
            except psycopg.OperationalError as error:
                raise PartAway(f"database not reachable: {error}", "database_away") from error
            tell(Progress("encoding"))
            self._encoded = (key, encode(train, validation, self._choices))
            if task.batch.batch == task.batch.batches_total:
                labels = train.frame[LABEL].to_numpy(dtype=bool)
                content = preprocessor_bytes(train.frame, labels)
                self._store.put(f"s3://{self._settings.bucket}/{PREPROCESSOR_KEY}", content)
        return self._encoded[1]


def choices(settings: Settings) -> Choices:
    """What the settings say about every model."""
    return Choices(
        min_value_rows=settings.min_value_rows,
        hidden_history=settings.hidden_history,
        include_race=settings.include_race,
        threads=settings.threads,
        missed_cost=settings.missed_readmission_cost,
        sample_fraction=settings.sample_fraction,
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
        try:
            with psycopg.connect(conninfo) as connection:
                if not swept:
                    ended = end_orphans(client, _open_jobs(connection))
                    swept = True
                    log.info("orphan_runs_ended", runs=ended)
                connection.execute("SELECT pg_advisory_xact_lock(hashtext(%s))", (str(task.job_id),))
                return register(client, task, candidate, bundle, evidence)
        except psycopg.OperationalError as error:
            raise PartAway(f"database not reachable: {error}", "database_away") from error

    reader = Reader(conninfo, settings.sample_fraction, settings.window_batches)

    def trials(task: FitTask, spec: FeatureSpec) -> TrialShelf:
        return PostgresShelf(conninfo, task.job_id, spec.sha256())

    return Pipeline(settings, reader, store or S3Store(settings.s3), register_once, trials)


def _open_jobs(connection: psycopg.Connection[Any]) -> list[OpenJob]:
    rows = connection.execute(
        "SELECT job_id::text, dataset_version::text, batch::text, code_version FROM training.jobs"
        " WHERE status IN ('queued', 'running')"
    ).fetchall()
    return [OpenJob(*row) for row in rows]
