"""The OpenAPI document: what it says of the whole API, and the same document in Spanish.

FastAPI makes the English one and serves it. The URL says which language it is, never `Accept-Language`: a client that
generates code from it gets the same bytes wherever it runs.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import orjson
from fastapi import FastAPI, Request, Response
from fastapi.openapi.docs import get_redoc_html

from readmit_chassis.documentation import FILES, serve_scripts, swagger_ui
from readmit_inference.spanish import spanish

#: Links are relative to the pages `/docs` and `/docs/es`, so that they also hold below `/v1`.
DESCRIPTION = "Not for clinical use: a research system. This page [in Spanish](docs/es)."
TAGS = (
    {"name": "prediction", "description": "The risk of one encounter or of many, and why"},
    {"name": "state", "description": "The model in service"},
    {"name": "operations", "description": "For those who run the service"},
    {"name": "clinical", "description": "FHIR R4 and CDS Hooks, for clinical systems"},
)

_HEADERS = {"content-language": "es"}
#: Their values are data, in which a key such as `description` is none of the document's words.
_DATA = frozenset({"const", "default", "enum", "example", "value"})
#: Their values are maps whose keys are names that somebody chose: a field may be called `value`.
_NAMED = frozenset({"examples", "headers", "parameters", "properties", "responses", "schemas"})


def rewritten(document: dict[str, Any], rewrite: Callable[[str], str]) -> dict[str, Any]:
    """A copy with every text for people rewritten: the name of the API, summaries and descriptions.

    Titles of schemas stay: they are names, after which clients' generators call their types.
    """
    copied = {key: _rewritten(key, child, rewrite) for key, child in document.items()}
    copied["info"]["title"] = rewrite(document["info"]["title"])
    return copied


def _rewritten(key: str, node: Any, rewrite: Callable[[str], str]) -> Any:
    """The copy of what stands below `key`."""
    if isinstance(node, str):
        return rewrite(node) if key in {"summary", "description"} else node
    if key in _DATA or (key == "examples" and isinstance(node, list)):
        return node
    if isinstance(node, list):
        return [_rewritten("", child, rewrite) for child in node]
    if not isinstance(node, dict):
        return node
    return {name: _rewritten("" if key in _NAMED else name, child, rewrite) for name, child in node.items()}


def install_pages(app: FastAPI) -> None:
    """`GET /openapi.es.json`, made when it is first asked for; the pages `/docs`, `/docs/es` and `/redoc`.

    They bring their scripts with them; the app must be made without FastAPI's.
    """

    @cache
    def document() -> dict[str, Any]:
        return rewritten(app.openapi(), lambda text: spanish(text) or text)

    @cache
    def written() -> bytes:
        return orjson.dumps(document())

    async def openapi(_: Request) -> Response:
        return Response(written(), media_type="application/json", headers=_HEADERS)

    async def docs(_: Request) -> Response:
        return swagger_ui(app.title)

    async def docs_in_spanish(_: Request) -> Response:
        html = swagger_ui(document()["info"]["title"], "../", "openapi.es.json")
        html.headers.update(_HEADERS)
        return html

    async def redoc(_: Request) -> Response:
        return get_redoc_html(
            openapi_url="./openapi.json", title=app.title, redoc_js_url=f"./{FILES}/redoc.standalone.js",
            redoc_favicon_url=f"./{FILES}/favicon.png", with_google_fonts=False,
        )  # fmt: skip

    app.add_route("/openapi.es.json", openapi, include_in_schema=False)
    app.add_route("/docs", docs, include_in_schema=False)
    app.add_route("/docs/es", docs_in_spanish, include_in_schema=False)
    app.add_route("/redoc", redoc, include_in_schema=False)
    serve_scripts(app)
