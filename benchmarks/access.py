"""What the gate before inference costs a request: processor time of the check alone, in microseconds.

python benchmarks/access.py [--requests 100000]
"""

from __future__ import annotations

import argparse
import asyncio
import hashlib
import json
import statistics
import time
from typing import Any

from joserfc import jwt
from joserfc.jwk import KeySet, RSAKey
from starlette.types import ASGIApp

from readmit_chassis.access.api_keys import ApiKeys
from readmit_chassis.access.client import Limit
from readmit_inference.access.gate import Gate, Proof
from readmit_inference.access.rate_limit import RateLimiter
from readmit_inference.access.scopes import SCOPES, anonymous
from readmit_inference.access.tokens import Tokens

KEYS = 1_000
KEY = "readmit_" + "x" * 43
NEVER_REACHED = Limit(1e9, 10**9)
#: What httpx sends.
HEADERS = [
    (b"host", b"inference:30601"), (b"accept", b"*/*"), (b"accept-encoding", b"gzip, deflate"),
    (b"connection", b"keep-alive"), (b"user-agent", b"python-httpx/0.28.1"), (b"content-length", b"900"),
    (b"content-type", b"application/json"),
]  # fmt: skip


async def nothing(*_: Any) -> None:
    """The app behind the gate, and whoever takes an answer."""


def per_request_us(app: ASGIApp, credential: bytes | None, requests: int) -> float:
    headers = HEADERS if credential is None else [*HEADERS, (b"authorization", b"Bearer " + credential)]
    scope = {"type": "http", "path": "/predict", "method": "POST", "headers": headers}

    async def ask() -> float:
        started = time.thread_time()
        for _ in range(requests):
            await app(scope, nothing, nothing)
        return (time.thread_time() - started) / requests * 1e6

    return statistics.median(asyncio.run(ask()) for _ in range(5))


def keys(limit: Limit | None) -> ApiKeys:
    entries = [
        {"id": f"client-{k}", "sha256": hashlib.sha256(key.encode()).hexdigest()}
        for k, key in enumerate([KEY, *(str(k) for k in range(1, KEYS))])
    ]
    made = ApiKeys(SCOPES, limit)
    made.use(json.dumps({"keys": entries}).encode())
    return made


def tokens() -> tuple[Tokens, bytes]:
    """A checker of tokens, and a token that it finds good."""
    signing = RSAKey.generate_key(2048, {"kid": "1"})
    claims = {"iss": "i", "aud": "a", "sub": "s", "exp": int(time.time()) + 3600, "scope": "predict"}
    made = Tokens("i", "a", NEVER_REACHED)
    made.use(json.dumps(KeySet([signing]).as_dict(private=False)).encode())
    return made, jwt.encode({"alg": "RS256", "kid": "1"}, claims, signing).encode()


def gate(*proofs: Proof) -> ASGIApp:
    return Gate(proofs, RateLimiter(), anonymous(None)).around(nothing)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--requests", type=int, default=100_000)
    requests = parser.parse_args().requests
    checked, token = tokens()
    cases: list[tuple[str, ASGIApp, bytes | None]] = [
        (f"a key, one of {KEYS:,}", gate(keys(None)), KEY.encode()),
        ("a key with a limit", gate(keys(NEVER_REACHED)), KEY.encode()),
        ("a token that was seen before, with a limit", gate(checked), token),
        ("no key: 401", gate(keys(None)), None),
    ]
    without = per_request_us(nothing, None, requests)
    for name, app, credential in cases:
        print(f"{name:45} {per_request_us(app, credential, requests) - without:6.2f} µs")
    started = time.thread_time()
    for _ in range(500):
        checked._verified.clear()  # noqa: SLF001  as if it had never been seen
        checked.client_of(token)
    print(f"{'a token that is new (RS256)':45} {(time.thread_time() - started) / 500 * 1e6:6.2f} µs")


if __name__ == "__main__":
    main()
