"""Hundreds of reloads: the newest promotion wins, in order, and memory comes back."""

from __future__ import annotations

import asyncio
import random
import sys
from pathlib import Path

import pytest

from readmit_bundle import Bundle, load_model, pack
from readmit_bundle.archive import MODEL_FILE
from readmit_chassis.health import Health
from readmit_chassis.s3 import MemoryStore
from readmit_contracts.events import ModelLoaded, ModelPromoted
from readmit_inference.cache import BundleCache
from readmit_inference.champion import LOADED, Champion
from readmit_inference.loader import Loader
from readmit_inference.testing import promote, tiny_bundle, until


def variant(number: int) -> Bundle:
    """Linear and LightGBM in turn, each a bundle that nobody has loaded before."""
    bundle = tiny_bundle(1, family="lightgbm", trees=100) if number % 2 else tiny_bundle(2)
    manifest = load_model(bundle).manifest
    lineage = manifest.lineage.model_copy(update={"code_version": str(number)})
    return pack(manifest.model_copy(update={"lineage": lineage}), bundle.files[MODEL_FILE])


def resident_kib() -> int:
    return int(Path("/proc/self/status").read_text().partition("VmRSS:")[2].split()[0])


async def test_promotions_that_come_faster_than_loads_end_at_the_newest(store: MemoryStore, tmp_path: Path) -> None:
    said: list[ModelLoaded] = []
    cache = BundleCache(tmp_path)
    loader = Loader(store.get, cache)
    champion = Champion(pod_id="pod-1", loader=loader, announce=said.append, health=Health(LOADED))
    task = asyncio.create_task(champion.run())
    randomly, promotions = random.Random(11), list[ModelPromoted]()
    for epoch in range(1, 201):
        back = promotions and randomly.random() < 0.3
        made = randomly.choice(promotions[-3:]).model_copy(update={"epoch": epoch}) if back else None
        promotions.append(made or promote(store, variant(epoch), epoch))
        champion.want(promotions[-1])
        await asyncio.sleep(randomly.choice((0, 0, 0.01)))
    await until(lambda: champion.settled == 200)
    assert champion.serving is not None
    assert champion.serving.cause == promotions[-1]
    assert champion.serving.named.sha256 == promotions[-1].bundle.sha256
    epochs = [loaded.epoch for loaded in said]
    assert epochs == sorted(set(epochs))
    assert 2 < len(epochs) < 200
    await until(lambda: (found := cache.read()) is not None and found[0] == promotions[-1])
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    loader.close()


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
async def test_memory_comes_back_after_every_reload(tmp_path: Path) -> None:
    """Two hundred models that stay would be 20 MiB."""
    store = MemoryStore()
    loader = Loader(store.get, BundleCache(tmp_path))
    champion = Champion(pod_id="pod-1", loader=loader, announce=lambda _: None, health=Health(LOADED))
    task = asyncio.create_task(champion.run())
    resident = []
    for epoch in range(1, 301):
        champion.want(promote(store, variant(epoch), epoch))
        await until(lambda: champion.settled == epoch)  # noqa: B023  awaited at once
        store.objects.clear()
        resident.append(resident_kib())
    assert resident[-1] - resident[99] < 3 * 1024
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    loader.close()
