"""The app: languages, health, and the form against the real inference service where that is installed."""

from __future__ import annotations

import gc
import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from readmit_contracts.encounter import Group
from readmit_contracts.prediction import Prediction
from readmit_ui.app import make_app, preferred
from readmit_ui.clients import Services, Trouble
from readmit_ui.form import encounter_of, fields
from readmit_ui.settings import Settings
from readmit_ui.spanish import SPANISH
from readmit_ui.texts import ENGLISH


@pytest.mark.parametrize(
    ("header", "language"),
    [
        ("", "en"),
        ("es", "es"),
        ("es-MX,es;q=0.9,en;q=0.8", "es"),
        ("en-GB,es;q=0.5", "en"),
        ("de,es;q=0.3,en;q=0.2", "es"),
        ("de", "en"),
        ("es;q=0", "en"),
        ("es;q=nonsense, ;;,", "en"),
    ],
)
def test_the_browsers_first_known_language_is_chosen(header: str, language: str) -> None:
    assert preferred(header) == language


async def test_the_app_serves_both_languages_and_its_health() -> None:
    app = make_app(Settings())
    transport = httpx.ASGITransport(app)
    async with (
        app.router.lifespan_context(app),
        httpx.AsyncClient(transport=transport, base_url="http://ui", follow_redirects=True) as client,
    ):
        for path in ("/livez", "/readyz", "/favicon.ico"):
            assert (await client.get(path)).status_code == 200
        assert "ui_predictions_total" in (await client.get("/metrics")).text
        spanish = await client.get("/", headers={"accept-language": "es"})
        assert spanish.url.path == "/es/"
        assert SPANISH.button in spanish.text
        english = await client.get("/")
        assert english.url.path == "/en/"
        assert ENGLISH.button in english.text


async def test_gradio_neither_phones_home_nor_keeps_what_was_entered() -> None:
    app = make_app(Settings())
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://ui") as client:
        for language in ("en", "es"):
            config = (await client.get(f"/{language}/config")).json()
            for door in ("analytics_enabled", "run_history", "mcp_server", "connect_heartbeat"):
                assert config[door] is False, door
            assert config["max_file_size"] == 1024


@pytest.fixture
def leak_of_faststream() -> Iterator[None]:
    """Collects what FastStream leaves behind without Kafka while this test's filter holds."""
    yield
    gc.collect()


@pytest.mark.filterwarnings("ignore:Unclosed AIOKafkaProducer:ResourceWarning")
@pytest.mark.usefixtures("leak_of_faststream")
async def test_the_form_is_understood_by_the_real_inference_service(tmp_path: Path) -> None:
    testing = pytest.importorskip("readmit_inference.testing", reason="the UI is installed alone")
    async with testing.running(_inference_settings(tmp_path), store := _store()) as inference:
        services = Services(inference.client, {"inference": "http://inference"})
        form = fields(ENGLISH)
        example = encounter_of(form, [field.value for field in form])
        waiting = await services.predict(example)
        assert isinstance(waiting, Trouble)
        assert waiting.kind == "no_model"

        await inference.settle(testing.promote(store, testing.tiny_bundle(1, synthetic=True), epoch=1))
        answer = await services.predict(example)
        assert isinstance(answer, Prediction)
        assert answer.model.synthetic
        assert answer.warnings == []

        seen_before = {"previous_encounters": 2}
        for field in form:
            told = seen_before if field.column.group is Group.HISTORY else {}
            for _, value in field.choices:
                entered = [value if f is field else told.get(f.column.key, f.value) for f in form]
                taken = await services.predict(encounter_of(form, entered))
                assert isinstance(taken, Prediction), (field.column.name, value)

        refused = await services.predict(example | {"age": "old"})
        assert isinstance(refused, Trouble)
        assert refused.problem is not None
        assert [error.field for error in refused.problem.errors] == ["age"]


@pytest.mark.filterwarnings("ignore:Unclosed AIOKafkaProducer:ResourceWarning")
@pytest.mark.usefixtures("leak_of_faststream")
async def test_where_inference_asks_for_a_key_the_page_shows_the_one_that_it_was_given(tmp_path: Path) -> None:
    testing = pytest.importorskip("readmit_inference.testing", reason="the UI is installed alone")
    listed = tmp_path / "keys.json"
    digest = hashlib.sha256(b"page").hexdigest()
    listed.write_text(json.dumps({"keys": [{"id": "ui", "sha256": digest, "requests_per_s": 0.01, "burst": 1}]}))
    asks_for_keys = _inference_settings(tmp_path).model_copy(update={"api_keys_file": listed})
    async with testing.running(asks_for_keys, store := _store()) as inference:
        await inference.settle(testing.promote(store, testing.tiny_bundle(1), epoch=1))
        urls = {"inference": "http://inference"}
        example = encounter_of(form := fields(ENGLISH), [field.value for field in form])
        answers = [await Services(inference.client, urls, key).predict(example) for key in (None, "page", "page")]
        assert [getattr(answer, "kind", "answered") for answer in answers] == [
            "unauthorized", "answered", "rate_limited",
        ]  # fmt: skip


def _inference_settings(tmp_path: Path) -> Any:
    from readmit_inference.settings import Settings as InferenceSettings  # noqa: PLC0415  may be absent

    return InferenceSettings.model_validate(
        {
            "cache_dir": tmp_path,
            "kafka": {"bootstrap_servers": "127.0.0.1:1", "idempotent_producer": False},
            "s3": {"endpoint_url": "http://127.0.0.1:1", "access_key": "k", "secret_key": "s"},
        }
    )


def _store() -> Any:
    from readmit_chassis.s3 import MemoryStore  # noqa: PLC0415  beside the service that needs it

    return MemoryStore()
