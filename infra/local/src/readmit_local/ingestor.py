"""The running ingestor's REST, for commands: an answer, or an error that says what is wrong and what to do."""

from __future__ import annotations

from typing import Any

import httpx

from readmit_local.errors import LocalError


def call(url: str, method: str, path: str, **request: Any) -> dict[str, Any]:
    """One request and its answer. Raises `LocalError` with the refused fields, one a line."""
    try:
        answer = httpx.request(method, url + path, timeout=120, trust_env=False, **request)
    except httpx.HTTPError as error:
        raise LocalError(f"the ingestor at {url} does not answer ({error}); see `readmit logs ingestor`") from error
    try:
        body = answer.json()
    except ValueError:
        body = {}
    if answer.is_success:
        found: dict[str, Any] = body
        return found
    raise LocalError("\n  ".join([_detail(body, answer.status_code), *_refused(body)]))


def _detail(body: dict[str, Any], status: int) -> str:
    detail = body.get("detail")
    if isinstance(detail, list):  # what FastAPI says of a query or body that is malformed
        detail = "; ".join(f"{'.'.join(map(str, each['loc']))}: {each['msg']}" for each in detail)
    return str(detail or f"the ingestor answered {status}; see `readmit logs ingestor`")


def _refused(body: dict[str, Any]) -> list[str]:
    return [
        f"{error['field']}: {error['value']!r} {error['problem']}; allowed: {error['allowed']}"
        for error in body.get("errors", [])
    ]
