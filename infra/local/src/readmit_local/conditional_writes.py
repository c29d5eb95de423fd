"""A gate before the object store that keeps two promises which rclone's S3 server ignores.

The embedded broker guards its logs with `If-None-Match: *` (only create) and `If-Match` (only replace what I read).
Without them a restarted broker takes every log for new and writes over its first messages. The broker is the only one
who writes through here, so a lock in this process makes check and write one step.

    python -m readmit_local.conditional_writes PORT STORE_PORT ROOT
"""

from __future__ import annotations

import asyncio
import hashlib
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import httpx
import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from readmit_local.ports import HOST

_HOP_BY_HOP = {"connection", "keep-alive", "transfer-encoding", "content-length"}


def etag(path: Path) -> str | None:
    """The store's ETag of an object, from its file; None when there is none."""
    try:
        return hashlib.md5(path.read_bytes(), usedforsecurity=False).hexdigest()
    except (FileNotFoundError, NotADirectoryError):
        return None


def may_write(current: str | None, if_none_match: str | None, if_match: str | None) -> bool:
    """Whether the conditions of a PUT hold for an object with this ETag."""
    if if_none_match == "*" and current is not None:
        return False
    return if_match is None or if_match.strip('"') == current


def make_app(store_url: str, root: Path) -> Starlette:
    """The gate before the store at `store_url`, whose objects are the files below `root`."""
    # Unread answers must not be decoded or the lengths in their headers would lie.
    client = httpx.AsyncClient(base_url=store_url, trust_env=False, timeout=30, headers={"accept-encoding": "identity"})
    writing = asyncio.Lock()

    async def forward(request: Request) -> Response:
        # The signature covers host and path: both pass on untouched.
        target = client.base_url.copy_with(raw_path=_raw_target(request))
        answer = await client.request(request.method, target, headers=request.headers.raw, content=await request.body())
        headers = {name: value for name, value in answer.headers.items() if name not in _HOP_BY_HOP}
        if request.method == "HEAD" and "content-length" in answer.headers:
            headers["content-length"] = answer.headers["content-length"]
        return Response(answer.content, answer.status_code, headers)

    async def handle(request: Request) -> Response:
        if request.method != "PUT":
            return await forward(request)
        async with writing:
            current = etag(root / request.path_params["key"])
            if may_write(current, request.headers.get("if-none-match"), request.headers.get("if-match")):
                return await forward(request)
        return Response("<Error><Code>PreconditionFailed</Code></Error>", status_code=412, media_type="application/xml")

    @asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[None]:
        async with client:
            yield

    methods = ["GET", "HEAD", "PUT", "POST", "DELETE"]
    return Starlette(routes=[Route("/{key:path}", handle, methods=methods)], lifespan=lifespan)


def _raw_target(request: Request) -> bytes:
    path: bytes = request.scope["raw_path"]
    query: bytes = request.scope["query_string"]
    return path + (b"?" + query if query else b"")


def main() -> None:
    """Serve until a signal."""
    port, store_port, root = sys.argv[1:]
    app = make_app(f"http://{HOST}:{store_port}", Path(root))
    uvicorn.run(app, host=HOST, port=int(port), log_level="warning", access_log=False)


if __name__ == "__main__":
    main()
