"""Who asks: what every way of proving it comes down to."""

from __future__ import annotations

from collections.abc import Set
from dataclasses import dataclass
from typing import Final, Literal

Scope = Literal["predict", "model"]

#: `predict`: risks and explanations, whatever the way in. `model`: what the model in service was made from.
SCOPES: Final[frozenset[Scope]] = frozenset({"predict", "model"})


@dataclass(frozen=True, slots=True)
class Limit:
    """So many requests a second for ever, and so many at once after a pause."""

    requests_per_s: float
    burst: int


@dataclass(frozen=True, slots=True)
class Client:
    """`label` is what metrics may call it: there are only so many of them. `limit`: None is none."""

    name: str
    label: str
    scopes: Set[str]
    limit: Limit | None


def anonymous(limit: Limit | None) -> Client:
    """Everybody together, where nobody is asked who they are."""
    return Client("anonymous", "anonymous", SCOPES, limit)
