"""Files in an S3 bucket, kept in the cache folder like downloads: resumed, and fetched again only when they changed."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from pathlib import Path

import structlog

from readmit_chassis.s3 import ObjectMissing, ObjectStore, StoreUnavailable
from readmit_ingestor.cached import Cached, keeping
from readmit_ingestor.downloads import OnBytes, Pauses, pauses
from readmit_ingestor.errors import SourceFault

log = structlog.get_logger()

_BUCKET = re.compile(r"[A-Za-z0-9._-]{1,255}")
_LONGEST_KEY_BYTES = 1024


def fetch(
    store: ObjectStore, uri: str, cache_dir: Path, on_bytes: OnBytes, *, max_bytes: int, pauses: Pauses = pauses
) -> Path:
    """The object at `s3://bucket/key`, fetched or known to be unchanged. Blocks. Raises `SourceFault`."""
    _refuse_what_no_store_has(uri)
    waits = pauses()
    with keeping(cache_dir, uri, uri) as cached:
        while True:
            try:
                return _try(store, uri, cached, on_bytes, max_bytes)
            except ObjectMissing as missing:
                raise SourceFault(
                    "source_not_found", f"{uri}: no such object; a folder's address ends with /"
                ) from missing
            except StoreUnavailable as away:
                wait_s = next(waits, None)
                if wait_s is None:
                    raise _away(uri) from away
                log.warning("source_asked_again", source=uri, retry_in_s=round(wait_s, 1))
                time.sleep(wait_s)


def _try(store: ObjectStore, uri: str, cached: Cached, on_bytes: OnBytes, max_bytes: int) -> Path:
    about = store.stat(uri)
    if cached.whole.exists() and cached.whole_tag() == about.etag:
        return cached.whole
    if about.size_bytes > max_bytes:
        cached.forget_partial()
        raise SourceFault(
            "source_too_large", f"{uri}: more than {max_bytes} bytes; split it, or raise INGESTOR_MAX_SOURCE_BYTES"
        )
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
    _refuse_what_no_store_has(uri, folder=True)
    try:
        yield from sorted(store.under(uri))
    except StoreUnavailable as away:
        raise _away(uri) from away
    except ObjectMissing as missing:
        raise SourceFault("source_not_found", f"{uri}: no such bucket; check its name") from missing


def _refuse_what_no_store_has(uri: str, *, folder: bool = False) -> None:
    bucket, _, named = uri.removeprefix("s3://").partition("/")
    size_bytes = len(named.encode(errors="surrogatepass"))
    if not _BUCKET.fullmatch(bucket) or size_bytes > _LONGEST_KEY_BYTES or not (folder or named.strip("/")):
        raise SourceFault(
            "source_not_found", f"{uri}: no address of an object; give s3://bucket/key, or s3://bucket/prefix/"
        )


def _away(uri: str) -> SourceFault:
    return SourceFault(
        "source_unreachable", f"{uri}: the store is away, or refuses the key of INGESTOR_S3__…; try again"
    )
