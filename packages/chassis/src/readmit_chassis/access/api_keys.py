"""API keys: a file that lists their digests, by the client's id.

A key is 256 random bits: nobody guesses it from its digest, so a plain SHA-256 does. Slow hashes are for passwords.
"""

from __future__ import annotations

import hashlib
import hmac
import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Self

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, ValidationError, model_validator

from readmit_chassis.access.client import Client, Limit, Scopes
from readmit_chassis.access.watched_file import Unusable

#: So many bytes of a digest find its key, and the whole is then compared.
_INDEX_BYTES = 8


class KeyEntry(BaseModel):
    """One key. Several may have one id: two keys of a client, while one follows the other, share its limit."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    id: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9._-]{0,63}$")]
    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
    not_before: AwareDatetime | None = None
    expires: AwareDatetime | None = None
    requests_per_s: Annotated[float, Field(gt=0, allow_inf_nan=False)] | None = None
    burst: Annotated[int, Field(ge=1)] | None = None
    scopes: Annotated[frozenset[str], Field(min_length=1)] | None = None

    @model_validator(mode="after")
    def _holds_together(self) -> Self:
        if self.burst is not None and self.requests_per_s is None:
            raise ValueError("burst without requests_per_s")
        if self.not_before is not None and self.expires is not None and self.not_before >= self.expires:
            raise ValueError("expires before it begins")
        return self

    @property
    def limit(self) -> Limit | None:
        """Without `burst`, what comes in a second may come at once."""
        if self.requests_per_s is None:
            return None
        return Limit(self.requests_per_s, self.burst or math.ceil(self.requests_per_s))


class KeyFile(BaseModel):
    """What the file holds."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    keys: tuple[KeyEntry, ...]

    @model_validator(mode="after")
    def _agrees(self) -> Self:
        limits: dict[str, Limit | None] = {}
        indices = set()
        for entry in self.keys:
            if limits.setdefault(entry.id, entry.limit) != entry.limit:
                raise ValueError(f"the keys of {entry.id} have different limits")
            if (index := entry.sha256[: 2 * _INDEX_BYTES]) in indices:
                raise ValueError(f"a key of {entry.id} is listed twice")
            indices.add(index)
        return self


def parse_key_file(content: bytes, scopes: Scopes) -> KeyFile:
    """Raises `Unusable`, which names fields and never their values: a key may have been pasted for its digest."""
    try:
        file = KeyFile.model_validate_json(content)
    except ValidationError as error:
        found = error.errors(include_url=False, include_input=False, include_context=False)
        where = "; ".join(f"{'.'.join(str(part) for part in each['loc']) or 'file'}: {each['msg']}" for each in found)
        raise Unusable(f"not a list of API keys ({where})") from None
    for place, entry in enumerate(file.keys):
        if not (entry.scopes or scopes.default) <= scopes.allowed:
            allowed = ", ".join(sorted(scopes.allowed))
            raise Unusable(f"not a list of API keys (keys.{place}.scopes: allowed are {allowed})")
    return file


@dataclass(frozen=True, slots=True)
class _Key:
    digest: bytes
    from_s: float
    until_s: float
    client: Client


class ApiKeys:
    """The keys that are in force. `use` replaces them at once and as a whole."""

    def __init__(
        self, scopes: Scopes, default_limit: Limit | None = None, *, now: Callable[[], float] = time.time
    ) -> None:
        """`default_limit`: of keys without one. `now`: seconds since 1970."""
        self._scopes = scopes
        self._default_limit = default_limit
        self._now = now
        self._keys: dict[bytes, _Key] = {}

    def __len__(self) -> int:
        return len(self._keys)

    def use(self, content: bytes) -> None:
        """Take what the file holds now. Raises `Unusable`, and keeps what there was."""
        keys = {}
        for entry in parse_key_file(content, self._scopes).keys:
            digest = bytes.fromhex(entry.sha256)
            keys[digest[:_INDEX_BYTES]] = _Key(
                digest,
                entry.not_before.timestamp() if entry.not_before else -math.inf,
                entry.expires.timestamp() if entry.expires else math.inf,
                Client(
                    f"key:{entry.id}",
                    entry.id,
                    entry.scopes or self._scopes.default,
                    entry.limit or self._default_limit,
                ),
            )
        self._keys = keys

    def client_of(self, key: bytes) -> Client | None:
        """Whose key this is, if it is one that is valid now."""
        digest = hashlib.sha256(key).digest()
        found = self._keys.get(digest[:_INDEX_BYTES])
        if found is None or not hmac.compare_digest(found.digest, digest):
            return None
        return found.client if found.from_s <= self._now() < found.until_s else None
