"""Files over HTTP, kept in the cache folder under the digest of their address.

A download that was cut is resumed; a whole copy is asked about before it is used again; a server that is away or busy
is asked a few times. What is kept are the bytes as they were sent: only those can be resumed and held against a digest.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from pathlib import Path

import httpx
import structlog

from readmit_chassis.kafka import backoff
from readmit_ingestor.addresses import shown
from readmit_ingestor.cached import Cached, keeping
from readmit_ingestor.errors import SourceFault

log = structlog.get_logger()

#: Bytes done, and in all where that is known.
OnBytes = Callable[[int, int | None], None]
Pauses = Callable[[], Iterator[float]]

_TIMEOUT_S = 30.0
_LONGEST_WAIT_S = 60.0
#: A server that sends less than this in `patience_s` might keep the ingestor busy for weeks.
_SLOWEST_BYTES = 64 * 1024


class _Again(Exception):  # noqa: N818  not an error: another try
    """The server is away (`status` None) or busy; `wait_s` is what it asks for."""

    def __init__(self, reason: str, status: int | None = None, wait_s: float = 0.0) -> None:
        super().__init__(reason)
        self.status = status
        self.wait_s = wait_s


def pauses() -> Iterator[float]:
    """Five more tries, about a quarter of a minute in all."""
    return backoff(attempts=5, first_s=0.5)


def download(
    url: str,
    cache_dir: Path,
    on_bytes: OnBytes,
    *,
    max_bytes: int,
    pauses: Pauses = pauses,
    patience_s: float = 60.0,
) -> Path:
    """The file at an address, fetched or known to be unchanged. Blocks. Raises `SourceFault`.

    Where nobody answers, a whole copy of an earlier time is used, with a warning in the log.
    """
    waits = pauses()
    with keeping(cache_dir, url, shown(url)) as cached:
        receive = _Receive(url, cached, on_bytes, max_bytes, patience_s)
        while True:
            try:
                return receive.once()
            except _Again as again:
                wait_s = next(waits, None)
                if wait_s is None:
                    return _given_up(url, cached, again)
                wait_s = max(wait_s, again.wait_s)
                log.warning("source_asked_again", source=shown(url), reason=str(again), retry_in_s=round(wait_s, 1))
                time.sleep(wait_s)


def _given_up(url: str, cached: Cached, again: _Again) -> Path:
    if again.status is not None:
        raise SourceFault(
            "source_http_error", f"{shown(url)}: the server goes on answering {again.status}; try again later"
        )
    if cached.whole.exists():
        log.warning("source_served_from_cache", source=shown(url), reason=str(again))
        return cached.whole
    raise SourceFault("source_unreachable", f"{shown(url)}: not reachable ({again}); try again, or give a file")


@dataclass(frozen=True, slots=True)
class _Receive:
    """One address, the place for its bytes, and how many and how slowly they may come."""

    url: str
    cached: Cached
    on_bytes: OnBytes
    max_bytes: int
    patience_s: float

    def once(self) -> Path:
        have, headers = _conditions(self.cached)
        headers["accept-encoding"] = "identity"
        try:
            with httpx.stream("GET", self.url, headers=headers, timeout=_TIMEOUT_S, follow_redirects=True) as answer:
                if answer.status_code == 304 and self.cached.whole.exists():
                    return self.cached.whole
                self._check(answer, have)
                self._keep(answer, have if answer.status_code == 206 else 0)
        except httpx.TooManyRedirects as error:
            raise SourceFault(
                "source_http_error", f"{shown(self.url)}: redirected in circles; check the address"
            ) from error
        except (httpx.InvalidURL, httpx.UnsupportedProtocol) as error:  # its text may hold a password: not told
            raise SourceFault(
                "source_not_found", f"{shown(self.url)}: not an address, or one that leads to none; check it"
            ) from error
        except httpx.TransportError as error:
            raise _Again(str(error) or type(error).__name__) from error
        return self.cached.finish()

    def _check(self, answer: httpx.Response, have: int) -> None:
        """That the answer is the file, or what is left of it."""
        status, named = answer.status_code, shown(self.url)
        if status == 416:  # nothing is left to fetch, or the file changed: start afresh
            self.cached.forget_partial()
            raise _Again("the server cannot go on where it was cut", status)
        if status in {408, 429} or status >= 500:
            raise _Again(f"answered {status}", status, wait_s(answer.headers.get("retry-after", "")))
        if status not in {200, 206}:
            raise SourceFault("source_http_error", f"{named}: the server answered {status}; check the address")
        if status == 206 and not (have and answer.headers.get("content-range", "").startswith(f"bytes {have}-")):
            self.cached.forget_partial()
            raise _Again("answered with a part that was not asked for", status)
        if answer.headers.get("content-type", "").startswith("text/html"):
            raise SourceFault("source_not_data", f"{named}: a web page (HTML), not data; give the file's own address")
        packed = answer.headers.get("content-encoding", "identity").lower()
        if packed not in {"identity", "gzip", "x-gzip"}:  # gzip is told by its first bytes, like that of a file
            raise SourceFault(
                "source_http_error", f"{named}: sent in the encoding {packed[:20]!r}; download it by hand"
            )

    def _keep(self, answer: httpx.Response, done: int) -> None:
        """Write what comes behind the `done` bytes that are there already."""
        tag = _Tag.of(answer)
        length = answer.headers.get("content-length", "")
        total = done + int(length) if length.isdecimal() else None
        self._check_size(total or 0)
        self.cached.begin(tag.as_text() if tag else None, keep=done > 0)
        since_s, since_bytes = time.monotonic(), done
        with self.cached.partial.open("ab" if done else "wb") as file:
            for block in answer.iter_raw():  # as they come: what was received is kept
                file.write(block)
                done += len(block)
                self._check_size(done)
                self.on_bytes(done, total)
                if time.monotonic() - since_s > self.patience_s:
                    if done - since_bytes < _SLOWEST_BYTES:
                        raise _Again("hardly a byte comes")
                    since_s, since_bytes = time.monotonic(), done

    def _check_size(self, size_bytes: int) -> None:
        if size_bytes > self.max_bytes:
            self.cached.forget_partial()
            raise SourceFault(
                "source_too_large",
                f"{shown(self.url)}: more than {self.max_bytes} bytes; split it, or raise INGESTOR_MAX_SOURCE_BYTES",
            )


def wait_s(retry_after: str) -> float:
    """How long a server asks to be left alone, by its header: seconds or a date, within bounds; 0 for anything else."""
    if retry_after.isdecimal():
        asked_s = float(retry_after)
    else:
        try:
            until = parsedate_to_datetime(retry_after)
        except ValueError:
            return 0.0
        asked_s = (until if until.tzinfo else until.replace(tzinfo=UTC)).timestamp() - datetime.now(UTC).timestamp()
    return min(max(asked_s, 0.0), _LONGEST_WAIT_S)


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
        told = [answer.headers.get(name) for name in ("etag", "last-modified")]
        etag, last_modified = (text if text and text.isascii() else None for text in told)  # or it cannot be sent back
        return cls(etag, last_modified) if etag or last_modified else None

    @classmethod
    def read(cls, text: str | None) -> _Tag | None:
        """None too for what a crash left unreadable: then the file is fetched again."""
        try:
            known = json.loads(text or "{}")
        except ValueError:
            return None
        return cls(known.get("etag"), known.get("last_modified")) if isinstance(known, dict) else None

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
