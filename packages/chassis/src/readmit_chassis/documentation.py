"""Pages of an API's documentation that bring their scripts with them.

FastAPI's own load theirs from hosts outside, which a hospital's network does not reach. An application is made without
FastAPI's (`docs_url=None, redoc_url=None`). Links are relative, so that they also hold below a prefix.
"""

from __future__ import annotations

from pathlib import Path

import fastapi_offline
from fastapi import FastAPI, Request, Response
from fastapi.openapi.docs import get_swagger_ui_html
from fastapi.staticfiles import StaticFiles

#: Where the pages find their scripts, below the root of the application.
FILES = "docs-files"


def serve_docs(app: FastAPI) -> None:
    """`GET /docs`: Swagger UI of the application's OpenAPI document."""

    async def docs(_: Request) -> Response:
        return swagger_ui(app.title)

    app.add_route("/docs", docs, include_in_schema=False)
    serve_scripts(app)


def serve_scripts(app: FastAPI) -> None:
    """What the pages load."""
    app.mount(f"/{FILES}", StaticFiles(directory=Path(fastapi_offline.__file__).with_name("static")))


def swagger_ui(title: str, root: str = "./", document: str = "openapi.json") -> Response:
    """The page of a document; `root`: the way from the page to the application's root."""
    files = f"{root}{FILES}"
    return get_swagger_ui_html(
        openapi_url=f"{root}{document}", title=title, swagger_js_url=f"{files}/swagger-ui-bundle.js",
        swagger_css_url=f"{files}/swagger-ui.css", swagger_favicon_url=f"{files}/favicon.png",
    )  # fmt: skip
