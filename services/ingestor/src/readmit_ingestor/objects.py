"""Files in an S3 bucket, kept in the cache folder like downloads: resumed, and fetched again only when they changed."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

from readmit_chassis.s3 import ObjectMissing, ObjectStore, StoreUnavailable
from readmit_ingestor.cached import Cached
from readmit_ingestor.downloads import OnBytes, Pauses, pauses
from readmit_ingestor.errors import SourceFault


def fetch(store: ObjectStore, uri: str, cache_dir: Path, on_bytes: OnBytes, pauses: Pauses = pauses) -> Path:
    """The object at `s3://bucket/key`, fetched or known to be unchanged. Blocks. Raises `SourceFault`."""
    cached = Cached.of(cache_dir, uri)
    waits = pauses()
    while True:
        try:
            return _try(store, uri, cached, on_bytes)
        except ObjectMissing as missing:
            raise SourceFault("source_not_found", f"{uri}: no such object; a folder's address ends with /") from missing
        except StoreUnavailable as away:
            wait_s = next(waits, None)
            if wait_s is None:
                raise SourceFault(
                    "source_unreachable", f"{uri}: the store is away, or refuses the key of INGESTOR_S3__…; try again"
                ) from away
            time.sleep(wait_s)


def _try(store: ObjectStore, uri: str, cached: Cached, on_bytes: OnBytes) -> Path:
    about = store.stat(uri)
    if cached.whole.exists() and cached.whole_tag() == about.etag:
        return cached.whole
    resumed = cached.partial_tag() == about.etag
    done = cached.partial_bytes() if resumed else 0
    cached.begin(about.etag, keep=resumed)
    with cached.partial.open("ab" if resumed else "wb") as file:
        for block in store.blocks(uri, etag=about.etag, offset=done) if done < about.size_bytes else ():
            file.write(block)
            done += len(block)
            on_bytes(done, about.size_bytes)
    return cached.finish()


def names(store: ObjectStore, uri: str) -> Iterator[str]:
    """The objects under `s3://bucket/prefix/`, in the order of their names. Raises `SourceFault`."""
    try:
        yield from sorted(store.under(uri))
    except StoreUnavailable as away:
        raise SourceFault(
            "source_unreachable", f"{uri}: the store is away, or refuses the key of INGESTOR_S3__…; try again"
        ) from away
    except ObjectMissing as missing:
        raise SourceFault("source_not_found", f"{uri}: no such bucket") from missing
