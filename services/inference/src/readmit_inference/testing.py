"""For tests and benchmarks: tiny real models, their promotions, and the whole service in one process.

Needs the extra `testing`.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import lru_cache
from typing import Literal
from uuid import UUID, uuid4

import httpx
import lightgbm
import numpy as np
from fastapi import FastAPI

from readmit_bundle import Bundle, GoldenRow, Lineage, Manifest, Platt, Threshold, load_model, pack, write_bundle
from readmit_chassis.process import Process
from readmit_chassis.s3 import ObjectStore
from readmit_contracts.encounter import COLUMNS, DOSES, FEATURE_COLUMNS, SPECIALTIES, Kind, example_encounter
from readmit_contracts.events import ArtifactRef, ModelPromoted, ModelVersion, RolloutChanged, ValidationScores
from readmit_features.cleaning import clean_encounter
from readmit_features.spec import CategoricalFeature, FeatureSpec, NumericFeature
from readmit_inference.app import make_app
from readmit_inference.challenger import Challenger
from readmit_inference.champion import Champion
from readmit_inference.settings import Settings

ROOT = "s3://models/bundles"
ROLLOUT_ID = UUID("3c6e0b8a-9c15-4b2f-8a5e-1d2c3b4a5f66")
_NO_DIGEST = "0" * 64


def tiny_spec() -> FeatureSpec:
    """All counts, the age, how often the patient was here, one closed, one open and one diagnosis column."""
    counts = [NumericFeature(column=c.key, reading="number", fill=0.0) for c in COLUMNS if c.kind is Kind.COUNT]
    return FeatureSpec(
        numeric=(
            *counts,
            NumericFeature(column="age", reading="band_middle", fill=65.0),
            NumericFeature(column="previous_encounters", reading="number", fill=0.0),
        ),
        tallies=(),
        categorical=(
            CategoricalFeature(column="insulin", reading="value", values=DOSES),
            CategoricalFeature(column="medical_specialty", reading="value", values=SPECIALTIES[:5]),
            CategoricalFeature(column="diag_1", reading="icd9_group", values=("circulatory", "diabetes")),
        ),
    )


@lru_cache(maxsize=64)
def tiny_bundle(
    seed: int,
    *,
    family: str = "logistic_regression",
    trees: int = 5,
    synthetic: bool = False,
    golden_shift: float = 0.0,
    is_old: bool = False,
) -> Bundle:
    """A bundle whose risks depend on `seed`; `golden_shift` spoils its golden row. Families: linear or lightgbm.

    `is_old`: from before bundles held a model card and what explanations take.
    """
    spec = tiny_spec()
    model_file = _lightgbm_file(spec, seed, trees) if family == "lightgbm" else _linear_file(spec, seed, is_old=is_old)
    unproven = Manifest(
        family=family,
        model_name=f"diabetes_readmission_{family}",
        scorer="lightgbm_text" if family == "lightgbm" else "linear",
        model_sha256=hashlib.sha256(model_file).hexdigest(),
        feature_spec=spec,
        feature_spec_sha256=spec.sha256(),
        calibration=Platt(a=1.0, b=0.1),
        threshold=Threshold(value=0.125, statement="missing a readmission costs 7 times a needless follow-up"),
        validation=ValidationScores(
            rows=10, positives=1, auroc=0.6, auroc_low=0.5, auroc_high=0.7, average_precision=0.2, brier=0.1,
            calibration_error=0.01,
        ),
        lineage=Lineage(
            dataset_version=1, batch=1, batch_sha256=(_NO_DIGEST,), content_sha256=_NO_DIGEST,
            schema_sha256=_NO_DIGEST, code_version="test", libraries={},
        ),
        card=None if is_old else f"# A model for tests\n\nSeed {seed}.",
        synthetic=synthetic,
        golden=(),
    )  # fmt: skip
    values = clean_encounter(example_encounter()).values
    risk = load_model(pack(unproven, model_file)).score_values(values)
    golden = GoldenRow(values={c.key: values[c.key] for c in FEATURE_COLUMNS}, risk=risk + golden_shift)
    return pack(unproven.model_copy(update={"golden": (golden,)}), model_file)


def _linear_file(spec: FeatureSpec, seed: int, *, is_old: bool) -> bytes:
    coefficients = np.random.default_rng(seed).normal(0, 0.05, len(spec.names)).tolist()
    means = None if is_old else [1.0] * len(spec.names)
    return json.dumps({"intercept": -2.0, "coefficients": coefficients, "means": means}).encode()


def _lightgbm_file(spec: FeatureSpec, seed: int, trees: int) -> bytes:
    rng = np.random.default_rng(seed)
    rows = rng.integers(0, 9, (400, len(spec.names))).astype(np.float64)
    labels = (rows[:, 0] + rng.normal(0, 2, len(rows)) > 6).astype(int)
    parameters = {"objective": "binary", "num_leaves": 8, "verbose": -1, "num_threads": 1, "seed": seed}
    booster = lightgbm.train(parameters, lightgbm.Dataset(rows, labels), num_boost_round=trees)
    return str(booster.model_to_string()).encode()


def promoted(bundle: Bundle, ref: ArtifactRef, epoch: int, *, synthetic: bool | None = None) -> ModelPromoted:
    """The event that promotes a bundle; `synthetic` can be made to contradict it."""
    manifest = load_model(bundle).manifest
    return ModelPromoted(
        epoch=epoch,
        action="promotion",
        model=ModelVersion(name=manifest.model_name, version=str(epoch), family=manifest.family),
        bundle=ref,
        synthetic=manifest.synthetic if synthetic is None else synthetic,
        previous=None,
        decision_id=uuid4(),
        decided_by="test",
        reason="test",
        decided_at=datetime.now(UTC),
    )


def promote(store: ObjectStore, bundle: Bundle, epoch: int, *, synthetic: bool | None = None) -> ModelPromoted:
    """Write the bundle to the store and promote it."""
    return promoted(bundle, write_bundle(store.put, ROOT, bundle), epoch, synthetic=synthetic)


def rollout(
    store: ObjectStore,
    bundle: Bundle,
    revision: int,
    stage: Literal["shadow", "canary", "ended"] = "shadow",
    *,
    share: float = 0.0,
    champion_epoch: int = 1,
    rollout_id: UUID = ROLLOUT_ID,
) -> RolloutChanged:
    """Write the bundle to the store and make it challenger; its version is 100 and the epoch of the champion."""
    manifest = load_model(bundle).manifest
    return RolloutChanged(
        revision=revision,
        rollout_id=rollout_id,
        stage=stage,
        challenger=ModelVersion(name=manifest.model_name, version=str(100 + champion_epoch), family=manifest.family),
        bundle=write_bundle(store.put, ROOT, bundle),
        synthetic=manifest.synthetic,
        share=share,
        champion_epoch=champion_epoch,
        reason="test",
        changed_by="test",
        changed_at=datetime.now(UTC),
    )


@dataclass(frozen=True)
class Service:
    """The running service and a client of it."""

    app: FastAPI
    champion: Champion
    challenger: Challenger
    client: httpx.AsyncClient

    async def predict(self, encounter: object) -> httpx.Response:
        return await self.client.post("/predict", json=encounter)

    async def settle(self, promotion: ModelPromoted) -> None:
        """Promote, and wait until the service has loaded or refused it."""
        self.champion.want(promotion)
        await until(lambda: self.champion.settled == promotion.epoch)

    async def try_out(self, changed: RolloutChanged) -> None:
        """Change the rollout, and wait until the service has said something of the challenger."""
        self.challenger.want(changed)
        await until(lambda: (said := self.challenger.said) is not None and said.rollout_revision == changed.revision)


class _InTurn(httpx.ASGITransport):
    """Gives the event loop its turn before each request, as a socket does.

    Without it, requests one after the other never wait for anything, and look to the service like a flood.
    """

    def __init__(self, app: FastAPI) -> None:
        super().__init__(app, raise_app_exceptions=False)

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        await asyncio.sleep(0)
        return await super().handle_async_request(request)


@asynccontextmanager
async def running(settings: Settings, store: ObjectStore) -> AsyncIterator[Service]:
    """Run the whole service in this event loop. Raises what made it fail."""
    process = Process()
    app = make_app(settings, store.get, process)
    async with (
        app.router.lifespan_context(app),
        httpx.AsyncClient(transport=_InTurn(app), base_url="http://inference") as client,
    ):
        yield Service(app, app.state.champion, app.state.challenger, client)
    if process.failure is not None:
        raise process.failure


async def until(condition: Callable[[], bool], timeout_s: float = 20.0) -> None:
    """Wait for a condition; TimeoutError when it never holds."""
    async with asyncio.timeout(timeout_s):
        while not condition():  # noqa: ASYNC110  what is waited for may be anything
            await asyncio.sleep(0.005)
