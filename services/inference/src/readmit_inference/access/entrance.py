"""What stands before the service, put together from what is configured; nothing where nothing is."""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import structlog
from starlette.middleware.cors import CORSMiddleware
from starlette.types import ASGIApp

from readmit_chassis.access.api_keys import ApiKeys
from readmit_chassis.access.client import Limit
from readmit_chassis.access.watched_file import WatchedFile
from readmit_chassis.connections import AtOnce
from readmit_inference.access.gate import Gate, Proof
from readmit_inference.access.rate_limit import RateLimiter
from readmit_inference.access.scopes import SCOPES, anonymous

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Issuer:
    """Who makes tokens, for whom, and where its keys are if they are not to be fetched from it."""

    url: str
    audience: str
    jwks_file: Path | None


class Entrance:
    """The layers around the app, and the work beside them."""

    def __init__(
        self, *, api_keys_file: Path | None, issuer: Issuer | None, limit: Limit | None, cors_origins: Sequence[str]
    ) -> None:
        """Raises `Unusable` where a file that is named can't be used: better no service than an open one."""
        self._limit = limit
        self._cors_origins = cors_origins
        self._files: list[WatchedFile] = []
        self._follow_issuer: Callable[[], Coroutine[Any, Any, None]] | None = None
        self._proofs: list[Proof] = []
        if api_keys_file is not None:
            keys = ApiKeys(SCOPES, limit)
            self._read(WatchedFile(api_keys_file, keys.use, "keys"))
            self._proofs.append(keys)
        if issuer is not None:
            self._trust(issuer)
        asks_anything = bool(self._proofs) or limit is not None
        self._gate = Gate(self._proofs, RateLimiter(), anonymous(limit)) if asks_anything else None
        log.info(
            "access",
            open=not self._proofs,
            api_keys=None if api_keys_file is None else str(api_keys_file),
            issuer=issuer and issuer.url,
            cors_origins=list(cors_origins),
        )

    @property
    def asks(self) -> bool:
        """Whether a client must prove who it is."""
        return bool(self._proofs)

    def around(self, app: ASGIApp) -> ASGIApp:
        """The app behind what is configured; itself where that is nothing."""
        if self._gate is not None:
            app = self._gate.around(app)
        if self._cors_origins:
            # Outside the gate: a browser asks whether it may ask without a key, and reads why it may not.
            app = CORSMiddleware(
                app,
                allow_origins=self._cors_origins,
                allow_methods=("GET", "POST"),
                allow_headers=("Authorization", "Content-Type", "X-API-Key"),
                expose_headers=("Retry-After", "WWW-Authenticate"),
            )
        return app

    def around_posts(self, posts: Mapping[str, AtOnce]) -> dict[bytes, AtOnce]:
        """By target, what answers POSTs to these paths without ASGI, behind what is configured; what can be."""
        if self._cors_origins:  # its headers are Starlette's work
            return {}
        gate = self._gate
        return {
            path.encode(): at_once if gate is None else gate.around_post(path, at_once)
            for path, at_once in posts.items()
        }

    def watches(self) -> list[Coroutine[Any, Any, None]]:
        """What follows changes of files and keys, to be run beside the app."""
        issuers = [] if self._follow_issuer is None else [self._follow_issuer()]
        return [*(file.watch() for file in self._files), *issuers]

    def _trust(self, issuer: Issuer) -> None:
        # 0.2 s and 22 MB that only who uses it pays.
        from readmit_inference.access.tokens import Tokens, follow_issuer  # noqa: PLC0415

        tokens = Tokens(issuer.url, issuer.audience, self._limit)
        if issuer.jwks_file is not None:
            self._read(WatchedFile(issuer.jwks_file, tokens.use, "issuer"))
        else:
            self._follow_issuer = partial(follow_issuer, tokens, issuer.url)
        self._proofs.append(tokens)

    def _read(self, file: WatchedFile) -> None:
        file.read()
        self._files.append(file)
