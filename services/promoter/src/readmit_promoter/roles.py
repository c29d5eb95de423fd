"""Who may do what: each role may also do what those below it may."""

from __future__ import annotations

from typing import Final, Literal

from fastapi import Request

from readmit_chassis.access.api_keys import ApiKeys
from readmit_chassis.access.client import Client, Scopes, credential_in
from readmit_promoter.errors import Forbidden, Unauthorized

Role = Literal["viewer", "approver", "admin"]

#: `viewer` reads. `approver` says yes or no to candidates, goes back, and freezes. `admin` unfreezes and ends trials.
ROLES: Final[tuple[Role, ...]] = ("viewer", "approver", "admin")
SCOPES: Final = Scopes(frozenset(ROLES), frozenset({"viewer"}))


class Doorkeeper:
    """Knows people by their keys. Without keys everybody reads and nobody changes anything."""

    def __init__(self, keys: ApiKeys | None, *, open_reading: bool) -> None:
        """`open_reading`: who shows no key may read."""
        self._keys = keys
        self._open_reading = open_reading or keys is None

    def reader(self, request: Request) -> str:
        """Who reads. Raises `Unauthorized`, `Forbidden`."""
        if self._open_reading:
            return "anonymous"
        return self.person(request, "viewer", "read")

    def person(self, request: Request, role: Role, command: str) -> str:
        """Who asks for a command that takes a role. Raises `Unauthorized`, or `Forbidden` for who is known."""
        if self._keys is None:
            raise Unauthorized(
                "This promoter has no keys, so nobody can change anything: set PROMOTER_API_KEYS_FILE, and make a key"
                " with `python -m readmit_promoter keys new`."
            )
        credential = credential_in(request.headers.raw)
        client = None if credential is None else self._keys.client_of(credential)
        if client is None:
            raise Unauthorized(
                "Send your key as X-API-Key, or as Authorization: Bearer. It is missing or not valid now."
            )
        if not may(client, role):
            have = ", ".join(sorted(client.scopes))
            raise Forbidden(client.label, f"{command} takes the role {role}; the key of {client.label} has {have}.")
        return client.label


def may(client: Client, role: Role) -> bool:
    """Whether one of the client's roles is this one or above it."""
    return any(ROLES.index(mine) >= ROLES.index(role) for mine in ROLES if mine in client.scopes)
