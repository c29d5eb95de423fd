"""Warm start: a family goes on from its model of an earlier batch and reads the batches since then alone."""

from __future__ import annotations

from dataclasses import dataclass

import psycopg

from readmit_bundle import BundleRefused, load_model, read_bundle
from readmit_bundle.archive import MODEL_FILE
from readmit_chassis.s3 import ObjectMissing, ObjectStore
from readmit_contracts.events import ArtifactRef
from readmit_features.spec import AUDITED, FeatureSpec
from readmit_trainer.domain import FitTask


@dataclass(frozen=True, slots=True)
class Before:
    """The model that a fit goes on from: the batch it stood on, its bundle's digest, its features and its file."""

    batch: int
    bundle_sha256: str
    spec: FeatureSpec
    model_file: bytes


class StartRefused(Exception):  # noqa: N818
    """The earlier model cannot be gone on from; the fit starts anew, on all rows."""


def newest_before(conninfo: str, task: FitTask) -> tuple[int, ArtifactRef] | None:
    """Batch and bundle of the newest fit that the task can go on from: same data, family and code, an earlier batch.

    Raises psycopg.OperationalError while the database is away.
    """
    with psycopg.connect(conninfo) as connection:
        row = connection.execute(
            "SELECT batch, bundle FROM training.jobs"
            " WHERE (dataset_version, family, code_version) = (%s, %s, %s) AND batch < %s"
            " AND status = 'done' AND bundle IS NOT NULL ORDER BY batch DESC, finished_at DESC LIMIT 1",
            (task.batch.dataset_version, task.family, task.code_version, task.batch.batch),
        ).fetchone()
    return None if row is None else (int(row[0]), ArtifactRef.model_validate(row[1]))


def open_before(store: ObjectStore, family: str, batch: int, ref: ArtifactRef, *, with_race: bool) -> Before:
    """Read the bundle as serving does: nothing is parsed before its digest holds.

    Raises StartRefused, StoreUnavailable.
    """
    try:
        bundle = read_bundle(store.get, ref)
        manifest = load_model(bundle).manifest
    except (BundleRefused, ObjectMissing) as error:
        raise StartRefused(f"the bundle of batch {batch} is not usable: {error}") from error
    if manifest.family != family:
        raise StartRefused(f"the bundle of batch {batch} is of family {manifest.family}, not {family}")
    if (AUDITED in manifest.feature_spec.columns) != with_race:
        raise StartRefused(f"the model of batch {batch} was trained with another TRAINER_INCLUDE_RACE")
    return Before(batch, ref.sha256, manifest.feature_spec, bundle.files[MODEL_FILE])
