"""A challenger is loaded as a champion is, is on trial for as long as its rollout, and leaves nothing behind."""

from __future__ import annotations

import asyncio
import gc
import sys
import threading
import weakref
from collections.abc import Iterator
from pathlib import Path

import pytest
from prometheus_client import REGISTRY
from structlog.testing import capture_logs

from readmit_bundle import Bundle, load_model, pack
from readmit_bundle.archive import MODEL_FILE
from readmit_chassis.health import Health
from readmit_chassis.s3 import MemoryStore
from readmit_contracts.events import ModelLoaded
from readmit_inference.cache import BundleCache
from readmit_inference.challenger import Challenger
from readmit_inference.champion import LOADED, Champion
from readmit_inference.loader import Loader
from readmit_inference.testing import ROOT, promote, rollout, tiny_bundle, until

OLD, NEW = tiny_bundle(1), tiny_bundle(2, family="lightgbm")


def no_pauses() -> Iterator[float]:
    while True:
        yield 0.001


class Pod:
    """A champion and a challenger of their own, with what they announce kept."""

    def __init__(self, store: MemoryStore, folder: Path, *, is_logged: bool = True) -> None:
        self.said: list[ModelLoaded] = []
        self.health = Health(LOADED)
        self.tidied = 0
        self._loader = Loader(store.get, BundleCache(folder), self._tidy)
        self.champion = Champion(
            pod_id="pod-1", loader=self._loader, announce=self.said.append, health=self.health, pauses=no_pauses
        )
        self.challenger = Challenger(
            pod_id="pod-1", champion=self.champion, loader=self._loader, announce=self.said.append,
            is_logged=is_logged, pauses=no_pauses,
        )  # fmt: skip
        self._tasks: list[asyncio.Task[None]] = []

    def _tidy(self) -> None:
        self.tidied += 1

    async def __aenter__(self) -> Pod:
        await self.champion.restore()
        self._tasks = [asyncio.create_task(self.champion.run()), asyncio.create_task(self.challenger.run())]
        return self

    async def __aexit__(self, *_: object) -> None:
        assert not any(task.done() for task in self._tasks)
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._loader.close()

    async def promoted(self, store: MemoryStore, bundle: Bundle, epoch: int) -> None:
        self.champion.want(promote(store, bundle, epoch))
        await until(lambda: self.champion.settled == epoch)

    async def on_trial(self, revision: int) -> None:
        await until(lambda: (trial := self.champion.trial) is not None and trial.changed.revision == revision)

    @property
    def of_challenger(self) -> list[ModelLoaded]:
        return [said for said in self.said if said.role == "challenger"]


def loads(source: str) -> float:
    return REGISTRY.get_sample_value("model_sources_total", {"source": source}) or 0.0


def shown() -> set[tuple[str, str]]:
    """Digest and stage of the challenger, as the metrics tell."""
    (info,) = [metric for metric in REGISTRY.collect() if metric.name == "challenger_info"]
    return {(sample.labels["sha256"], sample.labels["stage"]) for sample in info.samples}


def resident_kib() -> int:
    return int(Path("/proc/self/status").read_text().partition("VmRSS:")[2].split()[0])


async def test_a_challenger_is_loaded_beside_the_champion_and_announced(store: MemoryStore, tmp_path: Path) -> None:
    async with Pod(store, tmp_path) as pod:
        await pod.promoted(store, OLD, 1)
        pod.challenger.want(rollout(store, NEW, 7, "canary", share=0.25))
        await pod.on_trial(7)
        assert pod.champion.serving is not None
        assert pod.champion.serving.named.sha256 == OLD.sha256
        assert shown() == {(NEW.sha256, "canary")}
    (said,) = pod.of_challenger
    assert (said.outcome, said.epoch, said.sha256, said.rollout_revision) == ("serving", 1, NEW.sha256, 7)
    assert (said.occasion, said.reason) == ("load", None)
    assert said.load_ms > 0


async def test_late_and_doubled_events_are_harmless(store: MemoryStore, tmp_path: Path) -> None:
    async with Pod(store, tmp_path) as pod:
        await pod.promoted(store, OLD, 1)
        newest = rollout(store, NEW, 7, "canary", share=0.25)
        pod.challenger.want(newest)
        await pod.on_trial(7)
        for late in (
            newest,
            rollout(store, NEW, 6),
            rollout(store, tiny_bundle(3), 5),
            rollout(store, NEW, 4, "ended"),
        ):
            pod.challenger.want(late)
        assert pod.champion.trial is not None
        assert pod.champion.trial.changed is newest
        assert len(pod.of_challenger) == 1


async def test_another_stage_or_share_takes_no_load(store: MemoryStore, tmp_path: Path) -> None:
    async with Pod(store, tmp_path) as pod:
        await pod.promoted(store, OLD, 1)
        pod.challenger.want(rollout(store, NEW, 1))
        await pod.on_trial(1)
        later = [rollout(store, NEW, 2, "canary", share=0.1), rollout(store, NEW, 3, "canary", share=0.5)]
        store.available = False
        for changed in later:
            pod.challenger.want(changed)
            assert pod.champion.trial is not None
            assert pod.champion.trial.changed is changed
    assert [said.rollout_revision for said in pod.of_challenger] == [1, 2, 3]


async def test_the_end_of_a_rollout_ends_the_trial_at_once_and_gives_memory_back(
    store: MemoryStore, tmp_path: Path
) -> None:
    async with Pod(store, tmp_path) as pod:
        await pod.promoted(store, OLD, 1)
        pod.challenger.want(rollout(store, NEW, 1, "canary", share=1.0))
        await pod.on_trial(1)
        await until(lambda: pod.tidied == 2)  # after each load
        assert pod.champion.trial is not None
        gone = weakref.ref(pod.champion.trial.challenger.model.scorer)
        pod.challenger.want(rollout(store, NEW, 2, "ended"))
        assert pod.champion.trial is None
        assert pod.challenger.said is None
        assert shown() == set()
        await until(lambda: pod.tidied == 3)
        gc.collect()
        assert gone() is None


class TestPromotion:
    """A promotion that is newer than the rollout's champion ends the trial in the pod."""

    async def test_the_challengers_own_is_a_swap_that_takes_no_load(self, store: MemoryStore, tmp_path: Path) -> None:
        async with Pod(store, tmp_path) as pod:
            await pod.promoted(store, OLD, 1)
            pod.challenger.want(rollout(store, NEW, 1, "canary", share=0.5))
            await pod.on_trial(1)
            before, promotion = (loads("memory"), loads("store")), promote(store, NEW, epoch=2)
            store.available = False
            pod.champion.want(promotion)
            assert pod.champion.serving is not None
            named = pod.champion.serving.named
            assert (named.sha256, named.role, named.epoch) == (NEW.sha256, "champion", 2)
            assert pod.champion.kept is not None
            assert pod.champion.kept.named.sha256 == OLD.sha256
            assert (pod.champion.trial, pod.champion.beside) == (None, None)
            assert (loads("memory"), loads("store")) == (before[0] + 1, before[1])
            await until(lambda: (cached := BundleCache(tmp_path).read()) is not None and cached[0].epoch == 2)
        async with Pod(store, tmp_path) as restarted:  # with the store still away
            assert restarted.champion.settled == 2

    async def test_of_anything_else_ends_it_before_that_is_loaded(self, tmp_path: Path) -> None:
        release = threading.Event()

        class SlowStore(MemoryStore):
            def get(self, uri: str) -> bytes:
                if slow and not release.wait(30):
                    raise TimeoutError
                return super().get(uri)

        slow, store = False, SlowStore()
        async with Pod(store, tmp_path) as pod:
            await pod.promoted(store, OLD, 1)
            pod.challenger.want(rollout(store, NEW, 1, "canary", share=1.0))
            await pod.on_trial(1)
            slow = True
            pod.champion.want(promote(store, tiny_bundle(3), epoch=2))
            assert pod.champion.trial is None
            assert pod.champion.serving is not None
            assert pod.champion.serving.named.epoch == 1
            release.set()
            await until(lambda: pod.champion.settled == 2)
            pod.challenger.want(rollout(store, NEW, 2, "canary", share=1.0, champion_epoch=1))  # late
            assert pod.champion.trial is None
            pod.challenger.want(rollout(store, NEW, 3, "canary", share=1.0, champion_epoch=2))
            await pod.on_trial(3)

    async def test_a_rollback_ends_it_too(self, store: MemoryStore, tmp_path: Path) -> None:
        async with Pod(store, tmp_path) as pod:
            await pod.promoted(store, OLD, 1)
            await pod.promoted(store, tiny_bundle(3), 2)
            pod.challenger.want(rollout(store, NEW, 1, "canary", share=1.0, champion_epoch=2))
            await pod.on_trial(1)
            pod.champion.want(promote(store, OLD, epoch=3))
            assert (pod.champion.trial, pod.champion.settled) == (None, 3)


async def test_a_rollout_that_is_heard_before_its_champion_waits_for_it(store: MemoryStore, tmp_path: Path) -> None:
    async with Pod(store, tmp_path) as pod:
        assert pod.health.waiting_for == [LOADED]
        pod.challenger.want(rollout(store, NEW, 1, "canary", share=1.0, champion_epoch=4))
        await until(lambda: pod.champion.beside is not None)
        assert (pod.champion.trial, pod.said) == (None, [])
        assert pod.health.waiting_for == [LOADED]
        await pod.promoted(store, OLD, 4)
        await pod.on_trial(1)
    assert [(said.role, said.epoch) for said in pod.said] == [("champion", 4), ("challenger", 4)]


async def test_a_rollout_of_the_model_before_takes_no_load(store: MemoryStore, tmp_path: Path) -> None:
    async with Pod(store, tmp_path) as pod:
        await pod.promoted(store, OLD, 1)
        await pod.promoted(store, NEW, 2)
        changed = rollout(store, OLD, 1, champion_epoch=2)
        store.available = False
        pod.challenger.want(changed)
        assert pod.champion.trial is not None
        assert pod.champion.trial.challenger.named.sha256 == OLD.sha256


async def test_another_challenger_takes_the_place_of_the_one_before(store: MemoryStore, tmp_path: Path) -> None:
    async with Pod(store, tmp_path) as pod:
        await pod.promoted(store, OLD, 1)
        pod.challenger.want(rollout(store, NEW, 1, "canary", share=1.0))
        await pod.on_trial(1)
        pod.challenger.want(rollout(store, tiny_bundle(3), 2, "canary", share=1.0))
        assert pod.champion.trial is None
        await pod.on_trial(2)
        assert shown() == {(tiny_bundle(3).sha256, "canary")}


class TestRefusal:
    """A challenger that isn't what was announced is refused, with the reason, and the champion answers all."""

    async def refused(self, pod: Pod) -> str:
        await until(lambda: bool(pod.of_challenger))
        assert pod.champion.trial is None
        (said,) = pod.of_challenger
        assert (said.outcome, said.rollout_revision, said.epoch) == ("refused", 1, 1)
        assert pod.challenger.said is said  # heartbeats repeat it
        return said.reason or ""

    async def test_one_flipped_byte(self, store: MemoryStore, tmp_path: Path) -> None:
        async with Pod(store, tmp_path) as pod:
            await pod.promoted(store, OLD, 1)
            changed, uri = rollout(store, NEW, 1), f"{ROOT}/{NEW.sha256}/model.txt"
            store.objects[uri] = store.objects[uri][:40] + b"#" + store.objects[uri][41:]
            pod.challenger.want(changed)
            assert "digest" in await self.refused(pod)

    async def test_a_missing_object(self, store: MemoryStore, tmp_path: Path) -> None:
        async with Pod(store, tmp_path) as pod:
            await pod.promoted(store, OLD, 1)
            changed = rollout(store, NEW, 1)
            del store.objects[f"{ROOT}/{NEW.sha256}/bundle.json"]
            pod.challenger.want(changed)
            assert "gone" in await self.refused(pod)

    async def test_golden_rows_that_score_otherwise_and_the_next_revision_is_tried(
        self, store: MemoryStore, tmp_path: Path
    ) -> None:
        async with Pod(store, tmp_path) as pod:
            await pod.promoted(store, OLD, 1)
            pod.challenger.want(rollout(store, tiny_bundle(2, golden_shift=0.001), 1))
            assert "golden" in await self.refused(pod)
            pod.challenger.want(rollout(store, NEW, 2))
            await pod.on_trial(2)

    @pytest.mark.parametrize("is_in_memory", [True, False])
    async def test_a_size_or_a_kind_that_disagrees(
        self, store: MemoryStore, tmp_path: Path, is_in_memory: bool
    ) -> None:
        async with Pod(store, tmp_path) as pod:
            await pod.promoted(store, OLD, 1)
            honest = rollout(store, OLD if is_in_memory else NEW, 1)
            pod.challenger.want(honest.model_copy(update={"synthetic": True}))
            assert "synthetic" in await self.refused(pod)


async def test_a_store_that_is_away_is_asked_again_and_the_champion_goes_on(store: MemoryStore, tmp_path: Path) -> None:
    async with Pod(store, tmp_path) as pod:
        await pod.promoted(store, OLD, 1)
        changed = rollout(store, NEW, 1)
        store.available = False
        with capture_logs() as logs:
            pod.challenger.want(changed)
            await until(lambda: sum(entry["event"] == "challenger_store_away" for entry in logs) >= 3)
        assert pod.health.waiting_for == []
        assert pod.said[-1].role == "champion"
        store.available = True
        await pod.on_trial(1)


async def test_a_shadow_without_a_log_does_nothing_and_says_so_once(store: MemoryStore, tmp_path: Path) -> None:
    with capture_logs() as logs:
        async with Pod(store, tmp_path, is_logged=False) as pod:
            await pod.promoted(store, OLD, 1)
            for revision in (1, 2):
                pod.challenger.want(rollout(store, NEW, revision))
            await until(lambda: bool(pod.of_challenger))
            assert pod.champion.trial is None
            pod.challenger.want(rollout(store, NEW, 3, "canary", share=0.5))
            await pod.on_trial(3)
    assert [entry["event"] for entry in logs].count("shadow_without_log") == 1


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
async def test_memory_comes_back_after_every_rollout(tmp_path: Path) -> None:
    """Two hundred challengers that stay would be 20 MiB."""
    store = MemoryStore()
    resident = []
    base = tiny_bundle(1, family="lightgbm", trees=100)
    manifest = load_model(base).manifest
    async with Pod(store, tmp_path) as pod:
        await pod.promoted(store, OLD, 1)
        for revision in range(1, 601, 2):
            lineage = manifest.lineage.model_copy(update={"code_version": str(revision)})
            made = pack(manifest.model_copy(update={"lineage": lineage}), base.files[MODEL_FILE])
            pod.challenger.want(rollout(store, made, revision, "canary", share=0.5))
            await pod.on_trial(revision)
            pod.challenger.want(rollout(store, made, revision + 1, "ended"))
            store.objects.clear()
            pod.said.clear()
            resident.append(resident_kib())
    assert resident[-1] - resident[99] < 3 * 1024
