"""Files over HTTP, kept in the cache folder under the digest of their address.

A download that was cut is resumed; a whole copy is asked about before it is used again; a server that is away or busy
is asked a few times.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx
import structlog

from readmit_chassis.kafka import backoff
from readmit_ingestor.addresses import shown
from readmit_ingestor.cached import Cached
from readmit_ingestor.errors import SourceFault

log = structlog.get_logger()

#: Bytes done, and in all where that is known.
OnBytes = Callable[[int, int | None], None]
Pauses = Callable[[], Iterator[float]]

_LONGEST_WAIT_S = 60.0


class _Again(Exception):  # noqa: N818  not an error: another try
    """The server is away (`status` None) or busy; `wait_s` is what it asks for."""

    def __init__(self, reason: str, status: int | None = None, wait_s: float = 0.0) -> None:
        super().__init__(reason)
        self.status = status
        self.wait_s = wait_s


def pauses() -> Iterator[float]:
    """Five more tries, about a quarter of a minute in all."""
    return backoff(attempts=5, first_s=0.5)


def download(url: str, cache_dir: Path, on_bytes: OnBytes, pauses: Pauses = pauses) -> Path:
    """The file at an address, fetched or known to be unchanged. Blocks. Raises `SourceFault`.

    Where nobody answers, a whole copy of an earlier time is used, with a warning in the log.
    """
    cached = Cached.of(cache_dir, url)
    waits = pauses()
    while True:
        try:
            return _try(url, cached, on_bytes)
        except _Again as again:
            wait_s = next(waits, None)
            if wait_s is None:
                return _given_up(url, cached, again)
            log.warning("source_asked_again", reason=str(again), retry_in_s=round(max(wait_s, again.wait_s), 1))
            time.sleep(max(wait_s, again.wait_s))


def _given_up(url: str, cached: Cached, again: _Again) -> Path:
    if again.status is not None:
        raise SourceFault(
            "source_http_error", f"{shown(url)}: the server goes on answering {again.status}; try again later"
        )
    if cached.whole.exists():
        log.warning("source_served_from_cache", reason=str(again))
        return cached.whole
    raise SourceFault("source_unreachable", f"{shown(url)}: not reachable ({again}); try again, or give a file")


def _try(url: str, cached: Cached, on_bytes: OnBytes) -> Path:
    have, headers = _conditions(cached)
    try:
        with httpx.stream("GET", url, headers=headers, timeout=30, follow_redirects=True) as answer:
            if answer.status_code == 304:
                return cached.whole
            if answer.status_code == 416:  # nothing is left to fetch, or the file changed: start afresh
                cached.forget_partial()
                raise _Again("the server cannot go on where it was cut")
            _check(answer, url)
            resumed = answer.status_code == 206
            tag = _Tag.of(answer)
            cached.begin(tag.as_text() if tag else None, keep=resumed)
            done = have if resumed else 0
            length = answer.headers.get("content-length", "")
            known = length.isdecimal() and "content-encoding" not in answer.headers
            total = done + int(length) if known else None
            with cached.partial.open("ab" if resumed else "wb") as file:
                for block in answer.iter_bytes():  # as they come: what was received is kept
                    file.write(block)
                    done += len(block)
                    on_bytes(done, total)
    except httpx.TooManyRedirects as error:
        raise SourceFault("source_http_error", f"{shown(url)}: redirected in circles; check the address") from error
    except (httpx.InvalidURL, httpx.UnsupportedProtocol) as error:
        raise SourceFault("source_not_found", f"{shown(url)}: not an address ({error}); check it") from error
    except httpx.TransportError as error:
        raise _Again(type(error).__name__) from error
    return cached.finish()


def _conditions(cached: Cached) -> tuple[int, dict[str, str]]:
    """Bytes that are there already, and the headers that ask for the rest of them, or whether anything has changed."""
    if (have := cached.partial_bytes()) and (tag := _Tag.read(cached.partial_tag())) and (validator := tag.validator):
        return have, {"range": f"bytes={have}-", "if-range": validator}
    if cached.whole.exists() and (tag := _Tag.read(cached.whole_tag())):
        return 0, tag.conditions()
    return 0, {}


@dataclass(frozen=True, slots=True)
class _Tag:
    """By what a server tells one state of a file from another."""

    etag: str | None
    last_modified: str | None

    @classmethod
    def of(cls, answer: httpx.Response) -> _Tag | None:
        tag = cls(answer.headers.get("etag"), answer.headers.get("last-modified"))
        return tag if tag.etag or tag.last_modified else None

    @classmethod
    def read(cls, text: str | None) -> _Tag | None:
        return cls(**json.loads(text)) if text else None

    def as_text(self) -> str:
        return json.dumps({"etag": self.etag, "last_modified": self.last_modified})

    @property
    def validator(self) -> str | None:
        """What `If-Range` takes: a strong tag, or a time."""
        strong = self.etag if self.etag and not self.etag.startswith("W/") else None
        return strong or self.last_modified

    def conditions(self) -> dict[str, str]:
        asked = {"if-none-match": self.etag, "if-modified-since": self.last_modified}
        return {name: value for name, value in asked.items() if value}


def _check(answer: httpx.Response, url: str) -> None:
    status = answer.status_code
    if status == 429 or status >= 500:
        wait = answer.headers.get("retry-after", "")
        raise _Again(f"answered {status}", status, min(float(wait), _LONGEST_WAIT_S) if wait.isdecimal() else 0.0)
    if status >= 400:
        raise SourceFault("source_http_error", f"{shown(url)}: the server answered {status}; check the address")
    if answer.headers.get("content-type", "").startswith("text/html"):
        raise SourceFault("source_not_data", f"{shown(url)}: a web page (HTML), not data; give the file's own address")
