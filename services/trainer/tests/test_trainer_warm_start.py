"""Going on from the model of an earlier batch: the same trees and some more, from the new rows alone."""

from __future__ import annotations

import json
from collections.abc import Callable
from uuid import uuid4

import lightgbm
import numpy as np
import pytest
from psycopg_pool import AsyncConnectionPool
from trainer_stand_ins import done

from readmit_bundle import Bundle, load_model, pack, read_bundle, write_bundle
from readmit_bundle.archive import MANIFEST_FILE, MODEL_FILE
from readmit_chassis.envelope import new_envelope
from readmit_chassis.failures import Transient
from readmit_chassis.s3 import MemoryStore
from readmit_contracts.events import ArtifactRef, BatchReady
from readmit_trainer.candidate import Candidate
from readmit_trainer.dataset import Reader
from readmit_trainer.domain import WARM_STARTING, FamilyName, FitDone, FitTask
from readmit_trainer.families import BY_NAME, TrainingRows
from readmit_trainer.families.fitted import row_losses
from readmit_trainer.pipeline import Pipeline
from readmit_trainer.settings import Settings
from readmit_trainer.store import JobStore
from readmit_trainer.tracking import Registered
from readmit_trainer.warm_start import StartRefused, newest_before, open_before

Event = Callable[..., BatchReady]
Fit = Callable[..., FitDone]

PARAMS = {"num_leaves": 7, "min_child_samples": 20, "feature_fraction": 0.5, "lambda_l2": 1.0, "num_trees": 12}


def rows_of(random: np.random.Generator, start: bytes | None = None) -> TrainingRows:
    rows = random.normal(size=(2_000, 6))
    labels = random.random(2_000) < 1 / (1 + np.exp(2 - rows[:, 0] - rows[:, 1] * rows[:, 2]))
    return TrainingRows(rows, labels, np.arange(2_000) % 4, 4, 1, start)


def test_the_old_trees_stay_and_the_new_ones_correct_them() -> None:
    random = np.random.default_rng(1)
    first = BY_NAME["lightgbm"](rows_of(random)).fit(PARAMS)
    later = rows_of(random, first.model_file)
    second = BY_NAME["lightgbm"](later).fit(PARAMS)
    before, after = (lightgbm.Booster(model_str=fitted.model_file.decode()) for fitted in (first, second))
    assert (before.num_trees(), after.num_trees()) == (12, 24)
    np.testing.assert_array_equal(after.predict(later.rows, num_iteration=12), before.predict(later.rows))
    losses = [row_losses(later.labels, fitted.probabilities(later.rows)).mean() for fitted in (first, second)]
    assert losses[1] < losses[0]


def test_the_search_begins_where_the_earlier_model_ended() -> None:
    random = np.random.default_rng(2)
    first = BY_NAME["lightgbm"](rows_of(random)).fit({**PARAMS, "num_trees": 150})
    later = rows_of(random, first.model_file)
    at_once = {**PARAMS, "lambda_l2": 1e9}  # new trees that change nothing
    score = BY_NAME["lightgbm"](later).score_fold(at_once, 0)
    held = later.fold == 0
    assert score.loss == pytest.approx(row_losses(later.labels, first.probabilities(later.rows))[held].mean(), abs=1e-6)


def registers(task: FitTask, candidate: Candidate, bundle: ArtifactRef, evidence: ArtifactRef) -> Registered:
    return Registered("run", "1")


@pytest.fixture
def store() -> MemoryStore:
    return MemoryStore()


@pytest.fixture
def earlier() -> dict[str, tuple[int, ArtifactRef]]:
    """The newest fit of each family, as the database would tell."""
    return {}


@pytest.fixture
def fit(
    server: str, settings: Settings, make_event: Event, store: MemoryStore, earlier: dict[str, tuple[int, ArtifactRef]]
) -> Fit:
    warm = settings.model_copy(update={"warm_start": True, "search_trials": 2})
    pipeline = Pipeline(
        warm, Reader(server), store, registers, newest_before=lambda task: earlier.get(task.family)
    )  # fmt: skip

    def run(batch: int, family: FamilyName = "lightgbm") -> FitDone:
        fitted = pipeline.run(FitTask(uuid4(), make_event(batch), family, "v1"))
        earlier[family] = (batch, fitted.registered.bundle)
        return fitted

    return run


@pytest.mark.stack
def test_lightgbm_goes_on_from_the_batch_before_and_the_others_read_everything(fit: Fit, store: MemoryStore) -> None:
    first, second, tree = fit(1), fit(2), fit(2, "decision_tree")
    assert (first.start, second.start, tree.start) == ("cold", "warm", "cold")
    old, new, other = (load_model(read_bundle(store.get, one.registered.bundle)) for one in (first, second, tree))
    new.check_golden()
    assert (new.manifest.lineage.first_batch, new.manifest.lineage.started_from) == (2, old.sha256)
    assert (other.manifest.lineage.first_batch, other.manifest.lineage.started_from) == (1, None)
    assert len(new.manifest.lineage.batch_sha256) == 2
    assert new.manifest.feature_spec_sha256 == old.manifest.feature_spec_sha256
    assert second.registered.validation.auroc_low > 0.5
    assert fit(2, "decision_tree").registered == tree.registered


@pytest.mark.stack
def test_a_bundle_that_was_altered_is_not_gone_on_from(fit: Fit, store: MemoryStore) -> None:
    uri = f"{fit(1).registered.bundle.uri}/{MODEL_FILE}"
    store.put(uri, store.get(uri).replace(b"tree", b"free", 1))
    assert fit(2).start == "refused"


@pytest.mark.stack
def test_nor_is_one_that_has_gone(fit: Fit, store: MemoryStore, earlier: dict[str, tuple[int, ArtifactRef]]) -> None:
    first = fit(1)
    del store.objects[f"{first.registered.bundle.uri}/{MANIFEST_FILE}"]
    second = fit(2)
    assert second.start == "refused"
    lineage = load_model(read_bundle(store.get, second.registered.bundle)).manifest.lineage
    assert (lineage.first_batch, lineage.started_from) == (1, None)


@pytest.mark.stack
def test_a_feature_spec_of_an_unknown_digest_is_refused_and_so_is_another_family(fit: Fit, store: MemoryStore) -> None:
    ref = fit(1).registered.bundle
    bundle = read_bundle(store.get, ref)
    told = json.loads(bundle.files[MANIFEST_FILE])
    forged = Bundle({**bundle.files, MANIFEST_FILE: json.dumps(told | {"feature_spec_sha256": "0" * 64}).encode()})
    with pytest.raises(StartRefused, match="feature spec does not match its digest"):
        open_before(store, "lightgbm", 1, write_bundle(store.put, "s3://shelf", forged), with_race=False)
    with pytest.raises(StartRefused, match="TRAINER_INCLUDE_RACE"):
        open_before(store, "lightgbm", 1, ref, with_race=True)
    manifest = load_model(bundle).manifest.model_copy(update={"family": "decision_tree"})
    other = write_bundle(store.put, "s3://shelf", pack(manifest, bundle.files[MODEL_FILE]))
    with pytest.raises(StartRefused, match="of family decision_tree, not lightgbm"):
        open_before(store, "lightgbm", 1, other, with_race=False)


@pytest.mark.stack
def test_a_store_that_is_away_is_waited_for(fit: Fit, store: MemoryStore) -> None:
    fit(1)
    store.available = False
    with pytest.raises(Transient):
        fit(2)


@pytest.mark.stack
async def test_a_batch_waits_for_the_one_that_it_goes_on_from(
    server: str, pool: AsyncConnectionPool, make_event: Event
) -> None:
    families: tuple[FamilyName, ...] = ("lightgbm", "decision_tree")
    store = JobStore(pool, in_order=WARM_STARTING)
    for batch in (1, 2):
        cause = new_envelope(BatchReady.EVENT_TYPE, source="test", subject=f"1/{batch}")
        await store.add_jobs(make_event(batch), cause, families, "v1")
    first, *others = [await store.lease() for _ in range(4)]
    assert first is not None
    assert [(one.task.batch.batch, one.task.family) for one in others if one] == [
        (1, "decision_tree"), (2, "decision_tree"),
    ]  # fmt: skip
    second = FitTask(uuid4(), make_event(2), "lightgbm", "v1")
    assert newest_before(server, second) is None
    made = done(first.task)
    assert await store.finish(first, made)
    assert newest_before(server, second) == (1, made.registered.bundle)
    assert newest_before(server, FitTask(uuid4(), make_event(2), "lightgbm", "v2")) is None
    lease = await store.lease()
    assert lease is not None
    assert (lease.task.batch.batch, lease.task.family) == (2, "lightgbm")
