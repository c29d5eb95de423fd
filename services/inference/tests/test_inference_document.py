"""The OpenAPI document in English and in Spanish."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any
from urllib.parse import urljoin

import pytest

from readmit_inference.document import rewritten
from readmit_inference.spanish import DRUGS, TEXTS, spanish
from readmit_inference.testing import Service

Path = tuple[str | int, ...]


@pytest.fixture
async def english(service: Service) -> dict[str, Any]:
    return (await service.client.get("/openapi.json")).json()  # type: ignore[no-any-return]


@pytest.fixture
async def in_spanish(service: Service) -> dict[str, Any]:
    return (await service.client.get("/openapi.es.json")).json()  # type: ignore[no-any-return]


def leaves(node: object, path: Path = ()) -> Iterator[tuple[Path, object]]:
    """Every value that holds no other, in order."""
    children = node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list) else ()
    for key, child in children:
        yield from leaves(child, (*path, key))
    if not children:
        yield path, node


def texts(document: dict[str, Any]) -> list[str]:
    found: list[str] = []

    def keep(text: str) -> str:
        found.append(text)
        return text

    rewritten(document, keep)
    return found


def test_every_text_of_the_document_has_a_translation(english: dict[str, Any]) -> None:
    missing = {text for text in texts(english) if spanish(text) is None}
    assert not missing, "add these to spanish.py"


def test_every_translation_is_of_a_text_of_the_document(english: dict[str, Any]) -> None:
    said = " ".join(" ".join(texts(english)).split())
    assert not {text for text in [*TEXTS, *DRUGS] if text not in said}, "remove these from spanish.py"


def test_the_spanish_document_differs_in_nothing_but_texts(english: dict[str, Any], in_spanish: dict[str, Any]) -> None:
    there, here = list(leaves(english)), list(leaves(in_spanish))
    assert [path for path, _ in here] == [path for path, _ in there]
    changed = [path for (path, value), (_, other) in zip(there, here, strict=True) if value != other]
    assert {path[-1] for path in changed} == {"summary", "description", "title"}
    assert [path for path in changed if path[-1] == "title"] == [("info", "title")]
    assert not [path for path in changed if "example" in path], "what CDS Hooks discovery answers is data"


def test_no_word_is_left_in_english(english: dict[str, Any], in_spanish: dict[str, Any]) -> None:
    """Looked for without the walk that translates: outside of examples, whatever is a summary or description."""
    alike = {
        value
        for (path, value), (_, other) in zip(leaves(english), leaves(in_spanish), strict=True)
        if path[-1] in {"summary", "description"} and "example" not in path and value == other
    }
    assert alike == {"CapabilityStatement"}


def test_what_a_field_may_be_called_is_no_obstacle() -> None:
    """A field `value` is described like any other; a value `description` is data."""
    document = {
        "info": {"title": "a"},
        "properties": {
            "value": {"description": "b"},
            "description": {"default": {"description": "x"}, "examples": [{"summary": "x"}]},
            "properties": {"properties": {"example": {"description": "c"}}},
        },
        "responses": {"default": {"description": "d"}},
        "examples": {"value": {"summary": "e", "value": {"summary": "x"}}},
    }
    assert sorted(texts(document)) == ["a", "b", "c", "d", "e"]


def test_patterns_translate_only_what_they_know() -> None:
    assert spanish("Whether glyburide-metformin was prescribed and how its dose changed") == (
        "Si se prescribió glibenclamida-metformina y cómo cambió su dosis"
    )
    assert spanish("Whether insulin-water was prescribed and how its dose changed") is None
    assert spanish("Type of admission: 1 Emergency; 2 Urgent") == "Tipo de ingreso: 1 Emergency; 2 Urgent"
    assert spanish("Type of farewell: 1 Emergency; 2 Urgent") is None
    assert spanish("The body is not JSON; The batch can't be read") == "El cuerpo no es JSON. El lote no se puede leer"
    assert spanish("The body is not JSON; The batch is blue") is None
    assert spanish("The risk\n\nOne\ncard") == "El riesgo\n\nUna tarjeta"
    assert spanish("The risk\n\nTwo cards") is None


async def test_the_url_decides_about_the_language(service: Service) -> None:
    for prefix in ("", "/v1"):
        spanish_one = await service.client.get(f"{prefix}/openapi.es.json", headers={"accept-language": "en"})
        assert spanish_one.headers["content-language"] == "es"
        assert spanish_one.json()["info"]["summary"] == "Riesgo de reingreso en los 30 días tras el alta"
        english_one = await service.client.get(f"{prefix}/openapi.json", headers={"accept-language": "es"})
        assert english_one.json()["info"]["summary"] == "Risk of readmission within 30 days"


async def test_each_page_shows_its_document_and_links_to_the_other(
    service: Service, english: dict[str, Any], in_spanish: dict[str, Any]
) -> None:
    for prefix in ("", "/v1"):
        page = await service.client.get(f"{prefix}/docs/es")
        assert page.headers["content-type"].startswith("text/html")
        assert "url: '../openapi.es.json'" in page.text
        assert "<title>Readmit: inferencia</title>" in page.text
    assert "(docs/es)" in english["info"]["description"]
    assert "(../docs)" in in_spanish["info"]["description"]


@pytest.mark.parametrize("page", ["/docs", "/docs/es", "/redoc", "/v1/docs", "/v1/docs/es", "/v1/redoc"])
async def test_the_pages_bring_all_that_they_load(service: Service, page: str) -> None:
    html = (await service.client.get(page)).text
    assert "://" not in html
    loaded = re.findall(r"""(?:src|href|spec-url)="([^"]+)\"""", html) + re.findall(r"url: '([^']+)'", html)
    assert len(loaded) >= 3
    for address in loaded:
        found = await service.client.get(urljoin(page, address))
        assert found.status_code == 200, address
        assert len(found.content) > 500


def test_no_operation_is_called_after_a_function(english: dict[str, Any]) -> None:
    """FastAPI makes a summary of the function's name where none is given."""
    operations = [operation for path in english["paths"].values() for operation in path.values()]
    named = [(operation["summary"].lower().replace(" ", "_"), operation["operationId"]) for operation in operations]
    assert not [summary for summary, name in named if name.startswith(summary)]
