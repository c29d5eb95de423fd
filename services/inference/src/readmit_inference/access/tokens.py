"""Tokens of an OpenID Connect issuer (JWT), checked against the issuer's keys (JWKS). Imported only where one is set.

The issuer is never asked while a request waits: its keys are fetched beside, and stay in force while it is away.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import time
from collections.abc import Callable, Mapping
from typing import Any
from urllib.parse import urlsplit

import httpx
import structlog
from joserfc import jwt
from joserfc.errors import InvalidKeyIdError, JoseError
from joserfc.jwk import KeySet
from joserfc.jws import JWSRegistry

from readmit_chassis.access.client import Client, Limit
from readmit_chassis.access.watched_file import Unusable
from readmit_chassis.metrics import ACCESS_READS, ACCESS_STALE
from readmit_inference.errors import IssuerUnavailable
from readmit_inference.patience import patience

log = structlog.get_logger()

#: Signatures by a key that we can't have: neither `none` nor one that whoever verifies could also make.
ALGORITHMS = ("RS256", "ES256")
_LEEWAY_S = 30
_REMEMBERED = 10_000
_REFRESH_S = 300.0
#: Tokens with an unknown key can make us ask earlier, but no more often than this.
_SOONEST_S = 10.0
SOURCE = "issuer"


class Tokens:
    """Whose token this is. A verified one is remembered by its digest until it expires: a repeat costs microseconds."""

    def __init__(
        self, issuer: str, audience: str, limit: Limit | None = None, *, now: Callable[[], float] = time.time
    ) -> None:
        """`limit`: of each subject. `now`: seconds since 1970."""
        self._now = now
        self._limit = limit
        self._keys: KeySet | None = None
        self._document = b""
        self._verified: dict[bytes, tuple[Client, float]] = {}
        # What is in a header and unknown is ignored, as RFC 7515 says; what is marked critical is not.
        self._header = JWSRegistry(algorithms=ALGORITHMS, strict_check_header=False)
        self._claims = jwt.JWTClaimsRegistry(
            now=lambda: int(now()),
            leeway=_LEEWAY_S,
            iss={"essential": True, "value": issuer},
            aud={"essential": True, "value": audience},
            exp={"essential": True},
            sub={"essential": True},
        )
        self.unknown_key = asyncio.Event()

    def use(self, jwks: bytes) -> None:
        """Take the issuer's keys. Raises `Unusable`, and keeps those there were."""
        if jwks == self._document:
            return
        try:
            given = json.loads(jwks)
            usable = [key for key in given["keys"] if key.get("kty") in {"RSA", "EC"} and key.get("use") != "enc"]
            keys = KeySet.import_key_set({"keys": usable})
        except (JoseError, ValueError, TypeError, KeyError, AttributeError) as error:
            raise Unusable(f"not a JWKS with a key for {' or '.join(ALGORITHMS)} ({type(error).__name__})") from error
        self._keys, self._document = keys, jwks
        self._verified.clear()  # a key that is gone must not be trusted any longer

    def client_of(self, token: bytes) -> Client | None:
        """The subject, if the token is valid now. Raises `IssuerUnavailable` as long as no keys have ever come."""
        digest = hashlib.sha256(token).digest()
        known = self._verified.get(digest)
        if known is not None and self._now() < known[1]:
            return known[0]
        if self._keys is None:
            raise IssuerUnavailable("No token can be checked before the issuer's keys are here: try again soon.")
        try:
            claims = jwt.decode(token, self._keys, registry=self._header).claims
            self._claims.validate(claims)
            client = Client(f"token:{claims['sub']}", "oidc", scopes_of(claims), self._limit)
            until_s = float(claims["exp"]) + _LEEWAY_S
        except InvalidKeyIdError:
            self.unknown_key.set()
            return None
        except (JoseError, ValueError, TypeError, OverflowError):
            return None
        self._remember(digest, client, until_s)
        return client

    def _remember(self, digest: bytes, client: Client, until_s: float) -> None:
        if len(self._verified) >= _REMEMBERED:
            now_s = self._now()
            self._verified = {digest: known for digest, known in self._verified.items() if now_s < known[1]}
            while len(self._verified) >= _REMEMBERED:
                del self._verified[next(iter(self._verified))]
        self._verified[digest] = (client, until_s)


def scopes_of(claims: Mapping[str, Any]) -> frozenset[str]:
    """`scope` as in RFC 9068 (words in one text), or `scp` as some issuers have it (a text or a list)."""
    given = claims.get("scope", claims.get("scp", ""))
    words = given.split() if isinstance(given, str) else given if isinstance(given, list) else ()
    return frozenset(word for word in words if isinstance(word, str))


async def fetch_jwks(http: httpx.AsyncClient, issuer: str) -> bytes:
    """The issuer's keys, found as OpenID Connect Discovery says. Raises `Unusable`."""
    try:
        found = (await http.get(f"{issuer.rstrip('/')}/.well-known/openid-configuration")).raise_for_status().json()
        if found["issuer"] != issuer:
            raise Unusable("the issuer's discovery document names another issuer")
        if not is_private(found["jwks_uri"]):
            raise Unusable("the issuer's keys are not behind https")
        return (await http.get(found["jwks_uri"])).raise_for_status().content
    except (httpx.HTTPError, httpx.InvalidURL, ValueError, KeyError, TypeError) as error:
        raise Unusable(f"the issuer's keys can't be fetched ({type(error).__name__})") from error


def is_private(url: str) -> bool:
    """Whether nobody on the way could give us other keys."""
    parts = urlsplit(url)
    return parts.scheme == "https" or (parts.scheme == "http" and parts.hostname in {"127.0.0.1", "::1", "localhost"})


async def follow_issuer(
    tokens: Tokens, issuer: str, transport: httpx.AsyncBaseTransport | None = None, soonest_s: float = _SOONEST_S
) -> None:
    """Keep `tokens` supplied with the issuer's keys. Runs until cancelled."""
    async with httpx.AsyncClient(timeout=5, transport=transport) as http:
        pauses = patience()
        while True:
            tokens.unknown_key.clear()
            try:
                tokens.use(await fetch_jwks(http, issuer))
            except Unusable as unusable:
                ACCESS_READS.labels(SOURCE, "refused").inc()
                ACCESS_STALE.labels(SOURCE).set(1)
                log.warning("issuer_keys_refused", issuer=issuer, reason=str(unusable))
                await asyncio.sleep(next(pauses))
                continue
            ACCESS_READS.labels(SOURCE, "used").inc()
            ACCESS_STALE.labels(SOURCE).set(0)
            pauses = patience()
            await asyncio.sleep(soonest_s)
            try:
                await asyncio.wait_for(tokens.unknown_key.wait(), _REFRESH_S - soonest_s)
            except TimeoutError:
                continue
