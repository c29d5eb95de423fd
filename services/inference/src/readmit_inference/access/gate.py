"""One ASGI layer before everything: who asks, may they, and do they ask too much."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Protocol

from starlette.types import ASGIApp, Receive, Scope, Send

from readmit_chassis.access.client import Client, credential_in
from readmit_inference import metrics
from readmit_inference.access.paths import is_open, is_prediction, scope_for
from readmit_inference.access.rate_limit import RateLimiter
from readmit_inference.errors import Forbidden, PredictionRefused, RateLimited, Unauthorized
from readmit_inference.problems import refusal_response

#: One text for a key that is missing, unknown, expired or not valid yet: an answer must not tell which keys exist.
_WHO = (
    "Send an API key as X-API-Key, or a key or token as Authorization: Bearer. If you did, it is unknown here or not "
    "valid now: ask who runs this service for a new one."
)


class Proof(Protocol):
    """A way to prove who one is."""

    def client_of(self, credential: bytes, /) -> Client | None:
        """Who has this credential; None where it is not valid now."""


class Gate:
    """Lets requests through to the app, or answers why not. `everybody`: who all are where no proof is asked for."""

    def __init__(self, app: ASGIApp, proofs: Iterable[Proof], limiter: RateLimiter, everybody: Client) -> None:
        self._app = app
        self._proofs = tuple(proofs)
        self._limiter = limiter
        self._everybody = everybody

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and not is_open(scope["path"]):
            client = None
            try:
                client = self.client_of(scope["headers"])
                self.admit(client, scope["path"])
            except PredictionRefused as refused:
                _count(refused, client, scope)
                await refusal_response(refused)(scope, receive, send)
                return
        elif scope["type"] == "websocket":  # nothing here speaks it, and nothing that will may be forgotten here
            await send({"type": "websocket.close", "code": 1008})
            return
        await self._app(scope, receive, send)

    def client_of(self, headers: Iterable[tuple[bytes, bytes]]) -> Client:
        """Who asks. Raises `Unauthorized`, `IssuerUnavailable`."""
        if not self._proofs:
            return self._everybody
        credential = credential_in(headers)
        if credential:
            for proof in self._proofs:
                client = proof.client_of(credential)
                if client is not None:
                    return client
        raise Unauthorized(_WHO)

    def admit(self, client: Client, path: str) -> None:
        """Whether the client may ask this, now. Raises `Forbidden`, `RateLimited`."""
        scope = scope_for(path)
        if scope not in client.scopes:
            raise Forbidden(
                f"This key or token may not do this: ask who runs this service for the scope {scope}.",
                scope,
            )
        wait_s = self._limiter.take(client)
        if wait_s > 0.0:
            raise RateLimited("More requests than this client may make: go slower, and wait for Retry-After.", wait_s)


def _count(refused: PredictionRefused, client: Client | None, scope: Scope) -> None:
    metrics.ACCESS_REFUSED.labels(refused.code, "" if client is None else client.label).inc()
    if scope["method"] == "POST" and is_prediction(scope["path"]):
        outcome = Unauthorized.code if isinstance(refused, Forbidden) else refused.code
        metrics.REQUESTS.labels(outcome).inc()
        metrics.ERRORS.labels(refused.code).inc()
