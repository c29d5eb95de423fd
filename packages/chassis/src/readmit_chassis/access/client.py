"""Who asks: what every way of proving it comes down to."""

from __future__ import annotations

from collections.abc import Iterable, Set
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Limit:
    """So many requests a second for ever, and so many at once after a pause."""

    requests_per_s: float
    burst: int


@dataclass(frozen=True, slots=True)
class Scopes:
    """What keys of a service may be for, and what one is for that does not say."""

    allowed: frozenset[str]
    default: frozenset[str]


@dataclass(frozen=True, slots=True)
class Client:
    """`label` is what metrics may call it: there are only so many of them. `limit`: None is none."""

    name: str
    label: str
    scopes: Set[str]
    limit: Limit | None


def credential_in(headers: Iterable[tuple[bytes, bytes]]) -> bytes | None:
    """The key or token of a request; `X-API-Key` before `Authorization: Bearer`."""
    bearer = None
    for name, value in headers:
        if name == b"x-api-key":
            return value
        if name == b"authorization" and value[:7].lower() == b"bearer ":
            bearer = value[7:].strip()
    return bearer
