"""Hot reload: promotions arrive, models load beside the running one, requests never notice."""

from __future__ import annotations

import asyncio
import gc
import random
import threading
import weakref
from collections.abc import Iterator
from pathlib import Path

import pytest
from prometheus_client import REGISTRY

from readmit_bundle import Bundle, load_model
from readmit_chassis.health import Health
from readmit_chassis.s3 import MemoryStore
from readmit_contracts.encounter import example_encounter
from readmit_contracts.events import ModelLoaded
from readmit_contracts.prediction import Prediction, ServingModel
from readmit_features.cleaning import clean_encounter
from readmit_inference.cache import BundleCache
from readmit_inference.champion import LOADED, Champion
from readmit_inference.loader import Loader
from readmit_inference.settings import Settings
from readmit_inference.testing import ROOT, Service, promote, running, tiny_bundle, until


def no_pauses() -> Iterator[float]:
    while True:
        yield 0.001


def long_pauses() -> Iterator[float]:
    while True:
        yield 3600.0


class Pod:
    """A champion of its own, with its announcements kept."""

    def __init__(self, store: MemoryStore, cache: Path, pauses=no_pauses) -> None:  # type: ignore[no-untyped-def]
        self.said: list[ModelLoaded] = []
        self.health = Health(LOADED)
        self._loader = Loader(store.get, BundleCache(cache))
        self.champion = Champion(
            pod_id="pod-1", loader=self._loader, announce=self.said.append, health=self.health, pauses=pauses
        )  # fmt: skip
        self._task: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Pod:
        await self.champion.restore()
        self._task = asyncio.create_task(self.champion.run())
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._task is not None
        assert not self._task.done()
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)
        self._loader.close()

    async def settled(self, epoch: int) -> None:
        await until(lambda: self.champion.settled == epoch)

    @property
    def epoch(self) -> int | None:
        serving = self.champion.serving
        return None if serving is None else serving.named.epoch

    @property
    def model(self) -> ServingModel:
        assert self.champion.serving is not None
        return self.champion.serving.named


def loads(source: str) -> float:
    return REGISTRY.get_sample_value("model_sources_total", {"source": source}) or 0.0


def kept() -> str:
    """Digest of the model that is kept, as the metrics tell."""
    (sample,) = next(metric for metric in REGISTRY.collect() if metric.name == "model_kept_info").samples
    return sample.labels["sha256"]


def cached_epoch(folder: Path) -> int | None:
    found = BundleCache(folder).read()
    return None if found is None else found[0].epoch


def risk_by(bundle: Bundle) -> float:
    return load_model(bundle).score_values(clean_encounter(example_encounter()).values)


async def test_a_promoted_model_is_put_in_service_and_announced(store: MemoryStore, tmp_path: Path) -> None:
    bundle = tiny_bundle(1)
    async with Pod(store, tmp_path) as pod:
        assert pod.health.waiting_for == [LOADED]
        pod.champion.want(promote(store, bundle, epoch=4))
        await pod.settled(4)
        assert pod.health.waiting_for == []
    (said,) = pod.said
    assert (said.outcome, said.epoch, said.sha256, said.reason) == ("serving", 4, bundle.sha256, None)
    assert said.load_ms > 0


async def test_an_older_epoch_is_ignored(store: MemoryStore, tmp_path: Path) -> None:
    async with Pod(store, tmp_path) as pod:
        pod.champion.want(promote(store, tiny_bundle(2), epoch=5))
        await pod.settled(5)
        pod.champion.want(promote(store, tiny_bundle(1), epoch=4))
        pod.champion.want(promote(store, tiny_bundle(1), epoch=5))
        pod.champion.want(promote(store, tiny_bundle(3), epoch=6))
        await pod.settled(6)
    assert [said.epoch for said in pod.said] == [5, 6]


async def test_a_rollback_is_a_newer_epoch_of_an_older_model(store: MemoryStore, tmp_path: Path) -> None:
    old, new = tiny_bundle(1), tiny_bundle(2)
    async with Pod(store, tmp_path) as pod:
        for epoch, bundle in enumerate((old, new, old), start=1):
            pod.champion.want(promote(store, bundle, epoch))
            await pod.settled(epoch)
    assert [said.sha256 for said in pod.said] == [old.sha256, new.sha256, old.sha256]


class TestRollback:
    """The model that answered before is still in memory."""

    async def test_it_is_swapped_in_at_once_with_the_store_down(self, store: MemoryStore, tmp_path: Path) -> None:
        old, new = tiny_bundle(1), tiny_bundle(2, family="lightgbm")
        async with Pod(store, tmp_path) as pod:
            for epoch, bundle in enumerate((old, new), start=1):
                pod.champion.want(promote(store, bundle, epoch))
                await pod.settled(epoch)
            before = loads("memory"), loads("store")
            back, forth = promote(store, old, epoch=3), promote(store, new, epoch=4)
            store.available = False
            pod.champion.want(back)
            assert (pod.epoch, pod.model.version) == (3, "3")
            assert pod.model.sha256 == old.sha256
            assert kept() == new.sha256
            pod.champion.want(forth)
            assert (pod.epoch, pod.model.sha256) == (4, new.sha256)
            assert (loads("memory"), loads("store")) == (before[0] + 2, before[1])
            await until(lambda: cached_epoch(tmp_path) == 4)
        assert [said.epoch for said in pod.said] == [1, 2, 3, 4]
        assert all(said.load_ms < 10 for said in pod.said[2:])  # some 0.03; a busy machine may take longer

    async def test_it_does_not_wait_for_a_load_that_is_stuck(self, tmp_path: Path) -> None:
        release = threading.Event()

        class SlowStore(MemoryStore):
            def get(self, uri: str) -> bytes:
                if slow and not release.wait(30):
                    raise TimeoutError
                return super().get(uri)

        slow, store = False, SlowStore()
        async with Pod(store, tmp_path) as pod:
            for epoch in (1, 2):
                pod.champion.want(promote(store, tiny_bundle(epoch), epoch))
                await pod.settled(epoch)
            stuck, back = promote(store, tiny_bundle(3), epoch=3), promote(store, tiny_bundle(1), epoch=4)
            slow = True
            pod.champion.want(stuck)
            await asyncio.sleep(0.05)
            pod.champion.want(back)
            assert pod.epoch == 4
            release.set()
            await until(lambda: cached_epoch(tmp_path) == 4)  # what was stuck is done with by then
            assert (pod.epoch, pod.champion.settled) == (4, 4)
        assert [said.epoch for said in pod.said] == [1, 2, 4]

    async def test_only_one_is_kept(self, store: MemoryStore, tmp_path: Path) -> None:
        async with Pod(store, tmp_path) as pod:
            for epoch in (1, 2, 3):
                pod.champion.want(promote(store, tiny_bundle(epoch, family="lightgbm"), epoch))
                await pod.settled(epoch)
            assert pod.champion.kept is not None
            gone = weakref.ref(pod.champion.kept.model.scorer)
            before = loads("store")
            pod.champion.want(promote(store, tiny_bundle(1, family="lightgbm"), epoch=4))
            await pod.settled(4)
            assert loads("store") == before + 1
            gc.collect()
            assert gone() is None

    async def test_a_rollback_to_the_cached_bundle_needs_no_store(self, store: MemoryStore, tmp_path: Path) -> None:
        async with Pod(store, tmp_path) as pod:
            for epoch in (1, 2):
                pod.champion.want(promote(store, tiny_bundle(epoch), epoch))
                await pod.settled(epoch)
            await until(lambda: cached_epoch(tmp_path) == 2)
        back = promote(store, tiny_bundle(1), epoch=3)
        store.available = False
        before = loads("cache")
        async with Pod(store, tmp_path) as pod:
            assert pod.epoch == 2
            pod.champion.want(back)
            await pod.settled(3)
            assert pod.model.sha256 == tiny_bundle(1).sha256
        assert loads("cache") == before + 2  # at the start, and then

    @pytest.mark.parametrize("which", [1, 2], ids=["the one before", "the one in service"])
    @pytest.mark.parametrize("claim", ["synthetic", "family", "size"])
    async def test_claims_that_disagree_are_refused(
        self, store: MemoryStore, tmp_path: Path, which: int, claim: str
    ) -> None:
        async with Pod(store, tmp_path) as pod:
            for epoch in (1, 2):
                pod.champion.want(promote(store, tiny_bundle(epoch), epoch))
                await pod.settled(epoch)
            honest = promote(store, tiny_bundle(which), epoch=3)
            lies = {
                "synthetic": {"synthetic": True},
                "family": {"model": honest.model.model_copy(update={"family": "lightgbm"})},
                "size": {"bundle": honest.bundle.model_copy(update={"size_bytes": 1})},
            }
            pod.champion.want(honest.model_copy(update=lies[claim]))
            assert (pod.epoch, pod.champion.settled) == (2, 3)
        assert (pod.said[-1].outcome, pod.said[-1].epoch) == ("refused", 3)
        assert {"synthetic": "synthetic=", "family": "holds a", "size": "announced"}[claim] in (
            pod.said[-1].reason or ""
        )


async def test_many_promotions_at_once_end_at_the_newest(store: MemoryStore, tmp_path: Path) -> None:
    promotions = [promote(store, tiny_bundle(epoch), epoch) for epoch in range(1, 30)]
    random.Random(3).shuffle(promotions)
    async with Pod(store, tmp_path) as pod:
        for promotion in promotions:
            pod.champion.want(promotion)
        await pod.settled(29)
        assert pod.epoch == 29
    assert len(pod.said) == 1


class TestRefusal:
    """Each way in which a bundle isn't what was promoted keeps the old model in service."""

    async def refused(self, store: MemoryStore, tmp_path: Path, bundle: Bundle, **promoted: bool) -> str:
        async with Pod(store, tmp_path) as pod:
            pod.champion.want(promote(store, tiny_bundle(1), epoch=1))
            await pod.settled(1)
            promotion = promote(store, bundle, epoch=2, **promoted)
            self.spoil(store, f"{ROOT}/{bundle.sha256}")
            pod.champion.want(promotion)
            await pod.settled(2)
            assert pod.epoch == 1
            assert pod.health.waiting_for == []
            pod.champion.want(promote(store, tiny_bundle(3), epoch=3))
            await pod.settled(3)
            assert pod.epoch == 3
            assert pod.health.waiting_for == []
        first, said, last = pod.said
        assert (first.outcome, said.outcome, last.outcome) == ("serving", "refused", "serving")
        assert said.reason
        return said.reason

    def spoil(self, store: MemoryStore, uri: str) -> None:
        """What a test does to the stored bundle."""

    async def test_one_flipped_byte(self, store: MemoryStore, tmp_path: Path) -> None:
        def flip(store: MemoryStore, uri: str) -> None:
            data = bytearray(store.objects[f"{uri}/model.txt"])
            data[40] ^= 1
            store.objects[f"{uri}/model.txt"] = bytes(data)

        self.spoil = flip  # type: ignore[method-assign]
        assert "digest" in await self.refused(store, tmp_path, tiny_bundle(2))

    async def test_a_missing_object(self, store: MemoryStore, tmp_path: Path) -> None:
        self.spoil = lambda store, uri: store.objects.pop(f"{uri}/bundle.json")  # type: ignore[assignment]
        assert "gone" in await self.refused(store, tmp_path, tiny_bundle(2))

    async def test_golden_rows_that_score_otherwise(self, store: MemoryStore, tmp_path: Path) -> None:
        assert "golden" in await self.refused(store, tmp_path, tiny_bundle(2, golden_shift=0.001))

    @pytest.mark.parametrize("synthetic", [True, False])
    async def test_a_synthetic_flag_that_disagrees(self, store: MemoryStore, tmp_path: Path, synthetic: bool) -> None:
        bundle = tiny_bundle(2, synthetic=synthetic)
        assert "synthetic" in await self.refused(store, tmp_path, bundle, synthetic=not synthetic)


async def test_another_family_than_promoted_is_refused(store: MemoryStore, tmp_path: Path) -> None:
    promotion = promote(store, tiny_bundle(1), epoch=1)
    lying = promotion.model_copy(update={"model": promotion.model.model_copy(update={"family": "lightgbm"})})
    async with Pod(store, tmp_path) as pod:
        pod.champion.want(lying)
        await pod.settled(1)
        assert pod.epoch is None
        assert pod.health.waiting_for == [LOADED]


async def test_the_store_coming_back_ends_the_wait(store: MemoryStore, tmp_path: Path) -> None:
    retried = "model_loads_total", {"outcome": "retried"}
    before = REGISTRY.get_sample_value(*retried) or 0.0
    async with Pod(store, tmp_path) as pod:
        pod.champion.want(promote(store, tiny_bundle(1), epoch=1))
        await pod.settled(1)
        promotion = promote(store, tiny_bundle(2), epoch=2)
        store.available = False
        pod.champion.want(promotion)
        await until(lambda: (REGISTRY.get_sample_value(*retried) or 0.0) >= before + 3)
        assert pod.epoch == 1
        store.available = True
        await pod.settled(2)
        assert pod.epoch == 2


async def test_waiting_for_the_store_does_not_hold_up_a_newer_promotion(store: MemoryStore, tmp_path: Path) -> None:
    retried = "model_loads_total", {"outcome": "retried"}
    before = REGISTRY.get_sample_value(*retried) or 0.0
    async with Pod(store, tmp_path, pauses=long_pauses) as pod:
        promotions = [promote(store, tiny_bundle(epoch), epoch) for epoch in (1, 2)]
        store.available = False
        pod.champion.want(promotions[0])
        await until(lambda: (REGISTRY.get_sample_value(*retried) or 0.0) > before)
        store.available = True
        pod.champion.want(promotions[1])
        await pod.settled(2)
    assert [said.epoch for said in pod.said] == [2]


async def test_a_failed_cache_write_does_not_stop_serving(store: MemoryStore, tmp_path: Path) -> None:
    not_a_folder = tmp_path / "file"
    not_a_folder.write_text("in the way")
    async with Pod(store, not_a_folder) as pod:
        for epoch in (1, 2):
            pod.champion.want(promote(store, tiny_bundle(epoch), epoch))
            await pod.settled(epoch)
        assert pod.epoch == 2


async def test_reloading_under_load_fails_no_request_and_mixes_no_models(
    settings: Settings, store: MemoryStore
) -> None:
    # Three in turn: none is the one that is kept, so all are loaded.
    made = (tiny_bundle(1), tiny_bundle(2, family="lightgbm"), tiny_bundle(3, family="lightgbm"))
    bundles = {bundle.sha256: bundle for bundle in made}
    expected = {sha256: risk_by(bundle) for sha256, bundle in bundles.items()}
    assert len(set(expected.values())) == 3
    answers: list[Prediction] = []
    last_epoch = 12

    async def ask(service: Service) -> None:
        while service.champion.settled < last_epoch:
            response = await service.predict(example_encounter())
            assert response.status_code == 200
            answers.append(Prediction.model_validate_json(response.content))
            await asyncio.sleep(0)

    async def promote_in_turn(service: Service) -> None:
        for epoch in range(2, last_epoch + 1):
            seen = len(answers)
            await service.settle(promote(store, made[epoch % 3], epoch))
            if epoch < last_epoch:
                await until(lambda: len(answers) > seen + 10)  # noqa: B023  awaited at once

    async with running(settings, store) as service:
        await service.settle(promote(store, made[1], epoch=1))
        await asyncio.gather(promote_in_turn(service), *(ask(service) for _ in range(8)))
    assert {answer.model.epoch for answer in answers} >= set(range(1, last_epoch))
    for answer in answers:
        assert answer.risk == expected[answer.model.sha256]


async def test_requests_are_answered_while_a_load_is_stuck(settings: Settings, store: MemoryStore) -> None:
    release = threading.Event()

    class SlowStore(MemoryStore):
        def get(self, uri: str) -> bytes:
            if slow and not release.wait(30):
                raise TimeoutError
            return super().get(uri)

    slow = False
    slow_store = SlowStore()
    async with running(settings, slow_store) as service:
        await service.settle(promote(slow_store, tiny_bundle(1), epoch=1))
        slow = True
        service.champion.want(promote(slow_store, tiny_bundle(2), epoch=2))
        for _ in range(50):
            assert (await service.predict(example_encounter())).json()["model"]["epoch"] == 1
        release.set()
        await until(lambda: service.champion.settled == 2)
        assert (await service.predict(example_encounter())).json()["model"]["epoch"] == 2
