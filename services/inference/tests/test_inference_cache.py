"""A pod that restarts answers from its cache, or from nothing; never from something unverified."""

from __future__ import annotations

from pathlib import Path

import pytest

from readmit_bundle import read_bundle
from readmit_chassis.s3 import MemoryStore
from readmit_contracts.encounter import example_encounter
from readmit_inference.cache import BundleCache
from readmit_inference.settings import Settings
from readmit_inference.testing import promote, running, tiny_bundle, until


async def test_a_restarted_pod_serves_with_kafka_and_the_store_down(settings: Settings, store: MemoryStore) -> None:
    async with running(settings, store) as service:
        await service.settle(promote(store, tiny_bundle(1, family="lightgbm"), epoch=7))
        await until((settings.cache_dir / "champion.json").exists)
        before = (await service.predict(example_encounter())).json()
    store.available = False
    async with running(settings, store) as service:
        after = (await service.predict(example_encounter())).json()
        assert (after["risk"], after["model"]) == (before["risk"], before["model"])
        assert (await service.client.get("/readyz")).status_code == 200


async def test_a_restarted_pod_goes_back_with_the_store_down(settings: Settings, store: MemoryStore) -> None:
    async with running(settings, store) as service:
        for epoch in (1, 2):
            await service.settle(promote(store, tiny_bundle(epoch), epoch))
        await until(lambda: (found := BundleCache(settings.cache_dir).read()) is not None and found[0].epoch == 2)
    back = promote(store, tiny_bundle(1), epoch=3)
    store.available = False
    async with running(settings, store) as service:
        assert (await service.predict(example_encounter())).json()["model"]["epoch"] == 2
        await service.settle(back)
        model = (await service.predict(example_encounter())).json()["model"]
        assert (model["epoch"], model["sha256"]) == (3, tiny_bundle(1).sha256)


async def test_a_restarted_pod_still_moves_to_a_newer_promotion(settings: Settings, store: MemoryStore) -> None:
    async with running(settings, store) as service:
        await service.settle(promote(store, tiny_bundle(1), epoch=1))
        await until((settings.cache_dir / "champion.json").exists)
    async with running(settings, store) as service:
        await service.settle(promote(store, tiny_bundle(2), epoch=2))
        assert (await service.predict(example_encounter())).json()["model"]["epoch"] == 2


def cached_files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file())


def test_the_newest_bundle_is_kept_and_the_one_before(store: MemoryStore, tmp_path: Path) -> None:
    cache = BundleCache(tmp_path)
    promotions = [promote(store, tiny_bundle(epoch), epoch) for epoch in (1, 2, 3)]
    for promotion in promotions:
        cache.write(promotion, read_bundle(store.get, promotion.bundle))
    kept = cache.read()
    assert kept is not None
    assert kept[0].epoch == 3
    assert [cache.find(promotion.bundle) is not None for promotion in promotions] == [False, True, True]
    assert len(cached_files(tmp_path)) == 5


def test_a_rollback_is_written_without_the_bundle_and_keeps_both(store: MemoryStore, tmp_path: Path) -> None:
    cache = BundleCache(tmp_path)
    promotions = [promote(store, tiny_bundle(epoch), epoch) for epoch in (1, 2)]
    for promotion in promotions:
        cache.write(promotion, read_bundle(store.get, promotion.bundle))
    back = promotions[0].model_copy(update={"epoch": 3})
    for again in (back, back.model_copy(update={"epoch": 4})):
        cache.write(again, None)
        kept = cache.read()
        assert kept is not None
        assert kept[0] == again
        assert kept[1].sha256 == tiny_bundle(1).sha256
        assert cache.find(promotions[1].bundle) is not None


def test_a_bundle_that_the_cache_lacks_cannot_be_named_champion(store: MemoryStore, tmp_path: Path) -> None:
    cache = BundleCache(tmp_path)
    first, second = (promote(store, tiny_bundle(epoch), epoch) for epoch in (1, 2))
    cache.write(first, read_bundle(store.get, first.bundle))
    with pytest.raises(FileNotFoundError):
        cache.write(second, None)
    kept = cache.read()
    assert kept is not None
    assert kept[0] == first


def test_the_same_bundle_promoted_again_is_read_with_its_new_epoch(store: MemoryStore, tmp_path: Path) -> None:
    cache = BundleCache(tmp_path)
    for epoch in (1, 2):
        promotion = promote(store, tiny_bundle(1), epoch)
        cache.write(promotion, read_bundle(store.get, promotion.bundle))
    kept = cache.read()
    assert kept is not None
    assert kept[0].epoch == 2


@pytest.mark.parametrize("damage", [lambda data: data[:-1], lambda data: b"x" + data[1:], lambda data: data[:0]])
@pytest.mark.parametrize("which", [0, 1, 2])
def test_a_damaged_cache_is_no_cache(store: MemoryStore, tmp_path: Path, which: int, damage) -> None:  # type: ignore[no-untyped-def]
    cache = BundleCache(tmp_path)
    promotion = promote(store, tiny_bundle(1), epoch=1)
    cache.write(promotion, read_bundle(store.get, promotion.bundle))
    path = cached_files(tmp_path)[which]
    path.write_bytes(damage(path.read_bytes()))
    assert cache.read() is None
    cache.write(promotion, read_bundle(store.get, promotion.bundle))
    assert cache.read() is not None


def test_an_empty_cache_is_no_cache(tmp_path: Path) -> None:
    assert BundleCache(tmp_path / "never-made").read() is None
