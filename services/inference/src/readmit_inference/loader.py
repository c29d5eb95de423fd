"""Fetches, verifies and proves bundles beside what answers: the same for a champion and for a challenger."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, NamedTuple

from readmit_bundle import Bundle, BundleRefused, read_bundle
from readmit_chassis.s3 import ObjectMissing
from readmit_contracts.events import ModelPromoted
from readmit_inference.cache import BundleCache
from readmit_inference.domain import Cause, Serving, prepare
from readmit_inference.loading_thread import LoadingThread

#: Where a model that is put in service comes from: it was still in memory, lay on the pod's disk, or in S3.
Source = Literal["memory", "cache", "store"]


class Loaded(NamedTuple):
    """A model that may serve, its bundle (None: the cache has it) and where it came from."""

    serving: Serving
    bundle: Bundle | None
    source: Source


class Loader:
    """One thread for everything that blocks; what is asked for first is done first."""

    def __init__(self, get: Callable[[str], bytes], cache: BundleCache, tidy: Callable[[], object] = lambda: None):
        """`tidy` is called in the thread after each load, and when a model is given up."""
        self._get = get
        self._cache = cache
        self._tidy = tidy
        self._thread = LoadingThread()

    async def restore(self) -> tuple[ModelPromoted, Serving] | None:
        """The champion that the cache holds, if any. Raises `BundleRefused` when it can't be used."""
        cached = await self._thread.run(self._cache.read)
        if cached is None:
            return None
        promoted, bundle = cached
        return promoted, await self._thread.run(prepare, bundle, promoted)

    async def load(self, cause: Cause) -> Loaded:
        """Raises `BundleRefused` when there is no such bundle, or it isn't what was announced; `Transient`."""
        try:
            return await self._thread.run(self._fetch_and_prepare, cause)
        except ObjectMissing as missing:
            raise BundleRefused(f"the bundle is gone: {missing}") from missing

    async def write_cache(self, promoted: ModelPromoted, bundle: Bundle | None) -> None:
        """So that a restart finds what is in service, and what was before. Raises OSError."""
        await self._thread.run(self._cache.write, promoted, bundle)

    async def tidy(self) -> None:
        """Give back what a load, or a model that is gone, has left."""
        await self._thread.run(self._tidy)

    def close(self) -> None:
        """Take no more work; returns at once."""
        self._thread.close()

    def _fetch_and_prepare(self, cause: Cause) -> Loaded:
        cached = self._cache.find(cause.bundle)
        bundle = read_bundle(self._get, cause.bundle) if cached is None else cached
        return Loaded(prepare(bundle, cause), bundle, "store" if cached is None else "cache")
