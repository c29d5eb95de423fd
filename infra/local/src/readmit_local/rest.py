"""A running service's REST, for commands: an answer, or an error that says what is wrong and what to do."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import httpx

from readmit_local.errors import LocalError


class Refused(LocalError):  # noqa: N818  named for what is the case
    """The service answered, and said no. `kind`: the problem's type (RFC 9457), where it named one."""

    def __init__(self, line: str, status: int, kind: str) -> None:
        super().__init__(line)
        self.status = status
        self.kind = kind


def call(service: str, url: str, method: str, path: str, **request: Any) -> dict[str, Any]:
    """One request and its answer. Raises `Refused` with the refused fields, one a line, and `LocalError`."""
    try:
        answer = httpx.request(method, url + path, timeout=120, trust_env=False, **request)
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        raise LocalError(f"the {service} at {url} does not answer ({error}); see `readmit logs {service}`") from error
    try:
        body = answer.json()
    except ValueError:
        body = None
    if answer.is_success and isinstance(body, dict):
        return body
    told: dict[str, Any] = body if isinstance(body, dict) else {}
    line = "\n  ".join([_detail(service, told, answer.status_code), *_refused(told)])
    raise Refused(line, answer.status_code, str(told.get("type", "")))


def _detail(service: str, body: Mapping[str, Any], status: int) -> str:
    detail = body.get("detail")
    if isinstance(detail, list):  # what FastAPI says of a query or body that is malformed
        detail = "; ".join(f"{'.'.join(map(str, each['loc']))}: {each['msg']}" for each in detail)
    return str(detail or f"the {service} answered {status}; see `readmit logs {service}`")


def _refused(body: Mapping[str, Any]) -> list[str]:
    return [
        f"{error['field']}: {error['value']!r} {error['problem']}; allowed: {error['allowed']}"
        for error in body.get("errors", [])
    ]
