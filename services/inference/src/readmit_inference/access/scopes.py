"""What a client of the service may ask for."""

from __future__ import annotations

from typing import Final, Literal

from readmit_chassis.access.client import Client, Limit, Scopes

Scope = Literal["predict", "model"]

#: `predict`: risks and explanations, whatever the way in. `model`: what the model in service was made from. A key that
#: does not say is for all of it.
SCOPES: Final = Scopes(frozenset({"predict", "model"}), frozenset({"predict", "model"}))


def anonymous(limit: Limit | None) -> Client:
    """Everybody together, where nobody is asked who they are."""
    return Client("anonymous", "anonymous", SCOPES.default, limit)
