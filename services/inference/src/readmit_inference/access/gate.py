"""Before everything: who asks, may they, and do they ask too much."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Protocol

from fastapi import Response
from starlette.types import ASGIApp, Receive, Scope, Send

from readmit_chassis.access.client import Client, credential_in
from readmit_chassis.connections import Answer, AtOnce, Headers
from readmit_inference import metrics
from readmit_inference.access.paths import is_open, is_prediction, scope_for
from readmit_inference.access.rate_limit import RateLimiter
from readmit_inference.errors import Forbidden, PredictionRefused, RateLimited, Unauthorized
from readmit_inference.problems import as_answer, refusal_response

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
    """Says of a request why it may not go on. `everybody`: who all are where no proof is asked for."""

    def __init__(self, proofs: Iterable[Proof], limiter: RateLimiter, everybody: Client) -> None:
        self._proofs = tuple(proofs)
        self._limiter = limiter
        self._everybody = everybody

    def around(self, app: ASGIApp) -> ASGIApp:
        """The app behind this gate."""

        async def gated(scope: Scope, receive: Receive, send: Send) -> None:
            if scope["type"] == "http":
                refusal = self.refusal(scope["method"], scope["path"], scope["headers"])
                if refusal is not None:
                    await refusal(scope, receive, send)
                    return
            elif scope["type"] == "websocket":  # nothing here speaks it, and nothing that will may be forgotten here
                await send({"type": "websocket.close", "code": 1008})
                return
            await app(scope, receive, send)

        return gated

    def around_post(self, path: str, at_once: AtOnce) -> AtOnce:
        """What answers POSTs to this path without ASGI, behind this gate."""

        def gated(headers: Headers, body: bytes) -> Answer:
            refusal = self.refusal("POST", path, headers)
            return at_once(headers, body) if refusal is None else as_answer(refusal)

        return gated

    def refusal(self, method: str, path: str, headers: Headers) -> Response | None:
        """What a request is answered that may not go on. It is counted."""
        if is_open(path):
            return None
        client = None
        try:
            client = self.client_of(headers)
            self.admit(client, path)
        except PredictionRefused as refused:
            _count(refused, client, method, path)
            return refusal_response(refused)
        return None

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


def _count(refused: PredictionRefused, client: Client | None, method: str, path: str) -> None:
    metrics.ACCESS_REFUSED.labels(refused.code, "" if client is None else client.label).inc()
    if method == "POST" and is_prediction(path):
        outcome = Unauthorized.code if isinstance(refused, Forbidden) else refused.code
        metrics.REQUESTS.labels(outcome).inc()
        metrics.ERRORS.labels(refused.code).inc()
