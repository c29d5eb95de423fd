"""The page of an API's documentation, on an application of its own."""

from __future__ import annotations

import re
from urllib.parse import urljoin

from fastapi import FastAPI
from fastapi.testclient import TestClient

from readmit_chassis.documentation import serve_docs


def test_the_page_brings_all_that_it_loads_and_names_no_host() -> None:
    app = FastAPI(title="A service", docs_url=None, redoc_url=None)
    serve_docs(app)
    with TestClient(app) as client:
        page = client.get("/docs")
        assert page.headers["content-type"].startswith("text/html")
        assert "<title>A service</title>" in page.text
        assert not re.search(r"""(?:https?:)?//[\w.-]+""", page.text)
        loaded = re.findall(r"""(?:src|href)="([^"]+)\"""", page.text) + re.findall(r"url: '([^']+)'", page.text)
        assert len(loaded) == 4
        for address in loaded:
            found = client.get(urljoin("/docs", address))
            assert (found.status_code, len(found.content) > 50) == (200, True), address
        assert "/docs" not in client.get("/openapi.json").json()["paths"]
