"""One job from the database to the store, with the registry played by a function."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from uuid import uuid4

import pytest

from readmit_bundle import load_model, read_bundle
from readmit_chassis.failures import Transient
from readmit_chassis.s3 import MemoryStore
from readmit_contracts.events import ArtifactRef, BatchReady
from readmit_trainer.candidate import Candidate
from readmit_trainer.dataset import Reader
from readmit_trainer.domain import FitTask
from readmit_trainer.pipeline import Pipeline
from readmit_trainer.settings import Settings
from readmit_trainer.tracking import Registered

Event = Callable[..., BatchReady]


def registers(task: FitTask, candidate: Candidate, bundle: ArtifactRef, evidence: ArtifactRef) -> Registered:
    return Registered("run", "1")


@pytest.mark.stack
def test_a_job_ends_with_a_verified_bundle_and_the_event_that_points_at_it(
    server: str, settings: Settings, make_event: Event
) -> None:
    store = MemoryStore()
    pipeline = Pipeline(settings, Reader(server), store, registers)
    done = pipeline.run(FitTask(uuid4(), make_event(2), "decision_tree", "v1"))
    event = done.registered
    model = load_model(read_bundle(store.get, event.bundle))
    model.check_golden()
    assert (model.manifest.lineage.batch, len(model.manifest.lineage.batch_sha256)) == (2, 2)
    assert event.validation == model.manifest.validation
    assert event.feature_spec_sha256 == model.encoder.spec.sha256()
    assert event.synthetic is model.manifest.synthetic is True
    assert store.exists(event.evidence.uri)
    assert event.data_at == datetime(2026, 11, 1, tzinfo=UTC)
    again = pipeline.run(FitTask(uuid4(), make_event(2), "decision_tree", "v1"))
    assert again.registered == event


@pytest.mark.stack
def test_a_store_that_is_away_is_a_transient_failure(server: str, settings: Settings, make_event: Event) -> None:
    store = MemoryStore()
    store.available = False
    pipeline = Pipeline(settings, Reader(server), store, registers)
    with pytest.raises(Transient):
        pipeline.run(FitTask(uuid4(), make_event(), "decision_tree", "v1"))


def test_a_database_that_is_away_is_a_transient_failure(settings: Settings, make_event: Event) -> None:
    pipeline = Pipeline(settings, Reader("host=127.0.0.1 port=1"), MemoryStore(), registers)
    with pytest.raises(Transient, match="database not reachable"):
        pipeline.run(FitTask(uuid4(), make_event(), "decision_tree", "v1"))
