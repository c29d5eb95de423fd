"""What the OpenAPI document says about keys and limits, of every endpoint that is not open."""

from __future__ import annotations

from typing import Any

from fastapi import FastAPI

from readmit_inference.access.paths import is_open
from readmit_inference.problems import openapi_responses

#: What the gate answers, and nothing behind it.
_GATES_OWN = ("401", "403", "429")
#: What it may answer too.
_SHARED = "503"
_SCHEMES = {
    "ApiKey": {"type": "apiKey", "in": "header", "name": "X-API-Key", "description": "A key of this service."},
    "Bearer": {
        "type": "http",
        "scheme": "bearer",
        "description": "The same key, or a token (JWT) of the issuer that the service trusts.",
    },
}


def describe_access(app: FastAPI, *, asked_for: bool) -> None:
    """Add schemes and answers to the document of `app`. Where no proof is `asked_for`, it is said to be optional."""
    without_access = app.openapi

    def openapi() -> dict[str, Any]:
        document = without_access()
        document["components"]["securitySchemes"] = _SCHEMES
        said = {str(status): answer for status, answer in openapi_responses().items()}
        for path, operations in document["paths"].items():
            if is_open(path):
                continue
            for operation in operations.values():
                operation["security"] = [*([] if asked_for else [{}]), *({scheme: []} for scheme in _SCHEMES)]
                answers = operation["responses"]
                own = answers.get(_SHARED, said[_SHARED])
                shared = own | {"content": own.get("content", {}) | said[_SHARED]["content"]}
                operation["responses"] = answers | {_SHARED: shared} | {status: said[status] for status in _GATES_OWN}
        return document

    app.openapi = openapi  # type: ignore[method-assign]  # as FastAPI documents it
