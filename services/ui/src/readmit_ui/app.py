"""The composition root: one FastAPI app with the page mounted once per language."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import gradio as gr
import httpx
from fastapi import FastAPI, Request
from fastapi.responses import FileResponse, RedirectResponse
from pydantic import SecretStr

from readmit_chassis.health import Health, health_router
from readmit_ui.clients import Services
from readmit_ui.page import build_page
from readmit_ui.settings import Settings
from readmit_ui.spanish import SPANISH
from readmit_ui.texts import ENGLISH, Texts

LANGUAGES: tuple[Texts, ...] = (ENGLISH, SPANISH)
_STYLE = Path(__file__).with_name("style.css")
_FONTS = ["system-ui", "-apple-system", "Segoe UI", "Roboto", "sans-serif"]

_ICON = Path(__file__).with_name("icon.svg")


def make_app(settings: Settings, http: httpx.AsyncClient | None = None) -> FastAPI:
    """The UI. It keeps no state; `http` replaces the client that reaches the services (tests)."""
    client = http or httpx.AsyncClient(timeout=settings.timeout_s)
    services = Services(
        client,
        {
            "inference": settings.inference_url,
            "ingestor": settings.ingestor_url,
            "trainer": settings.trainer_url,
            "promoter": settings.promoter_url,
            "monitor": settings.monitor_url,
        },
        _shown(settings.inference_api_key),
        _shown(settings.promoter_api_key),
    )
    health = Health()

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        async with client:
            yield

    app = FastAPI(title="Readmit UI", lifespan=lifespan, docs_url=None, redoc_url=None, openapi_url=None)
    app.include_router(health_router(health))

    @app.get("/")
    async def choose_language(request: Request) -> RedirectResponse:
        return RedirectResponse(f"{preferred(request.headers.get('accept-language', ''))}/")

    @app.get("/favicon.ico")
    async def icon() -> FileResponse:
        return FileResponse(_ICON)

    for texts in LANGUAGES:
        app = gr.mount_gradio_app(
            app,
            build_page(texts, LANGUAGES, services, settings.refresh_s),
            path=f"/{texts.language}",
            theme=_theme(),
            head=f"<script>document.documentElement.lang = '{texts.language}'</script>",
            css_paths=_STYLE,
            run_history=False,  # Gradio would keep every patient that was entered in the browser's storage
            max_file_size="1kb",  # nothing here takes files, but Gradio's upload route is always there
            mcp_server=False,
            ssr_mode=False,
            footer_links=[],
        )
    return app


def _shown(secret: SecretStr | None) -> str | None:
    return None if secret is None else secret.get_secret_value()


def _theme() -> gr.themes.Base:
    """Fonts of the reader's own system, so that nothing is fetched from outside; labels and buttons with contrast."""
    return gr.themes.Soft(primary_hue="teal", font=_FONTS, font_mono=["ui-monospace", "monospace"]).set(
        block_title_background_fill="none",
        block_title_background_fill_dark="none",
        block_title_text_color="*body_text_color",
        block_title_text_color_dark="*body_text_color",
        block_title_padding="0",
        block_title_text_weight="500",
        body_text_color_subdued="*neutral_600",
        input_border_width="1px",
        input_border_color="*neutral_300",
        input_shadow="none",
        button_primary_background_fill="*primary_700",
        button_primary_background_fill_hover="*primary_800",
    )


def preferred(accept_language: str) -> str:
    """The first of our languages that the browser asks for; English when it asks for none of them."""
    known = {texts.language for texts in LANGUAGES}
    asked: list[tuple[float, str]] = []
    for part in accept_language.split(","):
        tag, _, weight = part.partition(";q=")
        try:
            asked.append((-float(weight or 1), tag.strip().lower().partition("-")[0]))
        except ValueError:
            continue
    ours = [
        language for weight, language in sorted(asked, key=lambda item: item[0]) if weight < 0 and language in known
    ]
    return ours[0] if ours else ENGLISH.language
