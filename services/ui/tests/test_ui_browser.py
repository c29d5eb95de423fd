"""The page in a real browser: `READMIT_REQUIRE=chromium` makes its absence a failure."""

from __future__ import annotations

import os
import re
import shutil
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import httpx
import pytest
import uvicorn

from readmit_contracts.prediction import FieldError, Prediction, Problem, ServingModel
from readmit_ui.app import make_app
from readmit_ui.settings import Settings
from readmit_ui.spanish import SPANISH
from readmit_ui.texts import ENGLISH

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

pytestmark = [pytest.mark.browser, pytest.mark.timeout(120)]

DEGRADED = {
    "state": "degraded", "min_rows": 500, "window_rows": 1742, "window_positives": 203, "intervened": 258,
    "window_to": "2026-12-21T17:00:00Z",
    "figures": [
        {"name": "auroc", "value": 0.551, "low": 0.478, "high": 0.624, "reference": 0.668, "limit": 0.638,
         "degraded": True},
    ],
}  # fmt: skip
DRIFTED = {
    "state": "drifted", "min_rows": 500, "window_rows": 2000, "window_to": "2026-11-25T04:00:00Z",
    "reference_dataset_version": 1, "reference_rows": 69512,
    "figures": [
        {"feature": "payer_code", "psi": 0.4123, "threshold": 0.2, "drifted": True},
        {"feature": "number_inpatient", "psi": 0.0412, "threshold": 0.2, "drifted": False},
    ],
    "risk": {"feature": "risk", "psi": 0.01, "threshold": 0.2, "drifted": False},
}  # fmt: skip


MODEL = {"name": "diabetes_readmission_lightgbm", "version": "3", "family": "lightgbm"}
AT = "2026-11-28T12:00:00Z"
ROLLED_OUT = {
    "promotion": {
        "epoch": 4, "action": "promotion", "model": MODEL, "promoted_at": AT, "status": "converged", "why": "",
        "pods": [{"pod_id": "pod-1", "after_s": 0.31, "refused": None}], "missing": [],
        "first_s": 0.31, "median_s": 0.31, "last_s": 0.31,
    },
    "trial": None, "frozen": False, "candidates_waiting": 0,
}  # fmt: skip
WAITING = {"decision_id": "4c16", "decided_at": AT, "candidate": MODEL, "outcome": "waiting_for_approval"}
WHOLE = {
    "decision": WAITING, "followed_by": [],
    "judgement": {"fact": {"decision": {"verdict": {"gates": [
        {"gate": "calibration", "status": "insufficient_evidence", "detail": "slope 1.1"},
    ]}}}},
}  # fmt: skip


class FakeServices:
    """Inference with a synthetic model, a promoter that notes `commands`, a monitor; ingestor and trainer are away."""

    def __init__(self, prediction: Prediction, model: ServingModel) -> None:
        self.commands: list[tuple[str, str | None, bytes]] = []
        self._prediction = prediction.model_copy(update={"model": model.model_copy(update={"synthetic": True})})

    def __call__(self, request: httpx.Request) -> httpx.Response:
        match request.url.host, request.url.path:
            case "inference", "/health":
                return httpx.Response(200, json={"status": "ok", "model": self._prediction.model.model_dump()})
            case "inference", "/predict":
                return self._predict(request)
            case "monitor", "/drift":
                return httpx.Response(200, json=DRIFTED)
            case "monitor", "/performance":
                return httpx.Response(200, json=DEGRADED)
            case "promoter", _:
                return self._promoter(request)
            case _:
                raise httpx.ConnectError("away", request=request)

    def _promoter(self, request: httpx.Request) -> httpx.Response:
        path = request.url.path
        if request.method == "POST":
            self.commands.append((path, request.headers.get("x-api-key"), request.content))
        known = {"/rollout": ROLLED_OUT, "/decisions": {"decisions": [WAITING]}, "/decisions/4c16": WHOLE}
        return httpx.Response(200, json=known.get(path, {path.strip("/"): []}))

    def _predict(self, request: httpx.Request) -> httpx.Response:
        if b'"time_in_hospital":900' not in request.content:
            return httpx.Response(200, content=self._prediction.model_dump_json())
        error = FieldError(field="time_in_hospital", value=900, problem="is above 365", allowed="1 to 365")
        problem = Problem(type="urn:x", title="T", status=422, detail="D", errors=[error])
        return httpx.Response(422, content=problem.model_dump_json())


@contextmanager
def served(services: FakeServices, **settings: str) -> Iterator[str]:
    """The UI on a free port, in a thread."""
    client = httpx.AsyncClient(transport=httpx.MockTransport(services))
    urls = {f"{name}_url": f"http://{name}" for name in ("inference", "ingestor", "trainer", "promoter", "monitor")}
    app = make_app(Settings.model_validate(urls | settings), client)
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        server = uvicorn.Server(uvicorn.Config(app, log_level="warning"))
        thread = threading.Thread(target=server.run, args=([listener],))
        thread.start()
        deadline = time.monotonic() + 30
        while not server.started and time.monotonic() < deadline:
            thread.join(0.05)
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        server.should_exit = True
        server.force_exit = True  # Gradio's event streams stay open as long as a page does
        thread.join()


@pytest.fixture
def services(prediction: Prediction, model: ServingModel) -> FakeServices:
    return FakeServices(prediction, model)


@pytest.fixture
def address(services: FakeServices) -> Iterator[str]:
    """A page without a key of the promoter."""
    with served(services) as address:
        yield address


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    chromium = shutil.which("chromium") or shutil.which("chromium-browser")
    if chromium is None:
        if "chromium" in os.environ.get("READMIT_REQUIRE", ""):
            pytest.fail("READMIT_REQUIRE asks for chromium, and it is not installed")
        pytest.skip("chromium is not installed")
    from playwright.sync_api import sync_playwright  # noqa: PLC0415  only with a browser

    with sync_playwright() as playwright:
        launched = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        yield launched
        launched.close()


def open_page(browser: Browser, address: str, **context: Any) -> tuple[Page, list[str]]:
    """The start page, and a list that fills with requests to anywhere else and with errors on the page."""
    page = browser.new_context(**context).new_page()
    unwanted: list[str] = []
    page.on("pageerror", lambda error: unwanted.append(str(error)))
    page.on("request", lambda r: None if r.url.startswith((address, "data:", "blob:")) else unwanted.append(r.url))
    page.goto(address)
    page.locator(".rm-serving b").first.wait_for()
    return page, unwanted


@pytest.mark.parametrize("width", [1440, 390])
def test_the_form_gives_a_risk_and_says_that_the_model_is_synthetic(browser: Browser, address: str, width: int) -> None:
    page, unwanted = open_page(browser, address, locale="en-US", viewport={"width": width, "height": 900})
    assert page.get_by_text(ENGLISH.not_clinical).is_visible()
    page.get_by_role("button", name=ENGLISH.button).click()
    page.locator(".rm-risk", has_text="23.4%").wait_for()
    assert page.locator("#result").get_by_text(ENGLISH.synthetic_banner).is_visible()
    assert page.evaluate("document.documentElement.scrollWidth <= window.innerWidth")
    assert unwanted == []


def test_a_refused_field_is_named_in_the_browsers_language(browser: Browser, address: str) -> None:
    page, unwanted = open_page(browser, address, locale="es-ES")
    assert page.evaluate("document.documentElement.lang") == "es"
    page.locator("#field-time_in_hospital input").fill("900")
    page.get_by_role("button", name=SPANISH.button).click()
    page.locator("#result li", has_text=SPANISH.labels["time_in_hospital"]).wait_for()
    page.get_by_role("link", name="English").click()
    page.get_by_role("button", name=ENGLISH.button).wait_for()
    assert unwanted == []


def test_the_loop_shows_what_is_there_and_what_is_away(browser: Browser, address: str) -> None:
    page, unwanted = open_page(browser, address, locale="en-US")
    page.get_by_role("tab", name=ENGLISH.tab_loop).click()
    page.locator("#table-pods", has_text=ENGLISH.nothing_yet).wait_for()
    page.locator("#table-drift .rm-state", has_text=ENGLISH.drift_states["drifted"]).wait_for()
    page.locator("#table-outcomes .rm-state", has_text=ENGLISH.outcome_states["degraded"]).wait_for()
    page.locator("#table-jobs", has_text=re.compile(ENGLISH.away)).wait_for()
    page.locator("#table-rollout", has_text=ENGLISH.states["converged"]).wait_for()
    page.locator("#table-gates", has_text="slope 1.1").wait_for()
    assert page.locator("#approve, #rollback").count() == 0, "a page without a key changes nothing"
    assert unwanted == []


def test_a_page_with_a_key_approves_and_goes_back_with_a_reason_and_not_without(
    browser: Browser, services: FakeServices
) -> None:
    with served(services, promoter_api_key="s3cret") as address:
        page, unwanted = open_page(browser, address, locale="es-ES")
        page.get_by_role("tab", name=SPANISH.tab_loop).click()
        page.locator("#table-gates", has_text="slope 1.1").wait_for()
        page.get_by_role("button", name=SPANISH.rollback).click()
        page.locator("#said", has_text=SPANISH.why_missing).wait_for()
        assert services.commands == []
        page.locator("#why textarea, #why input").first.fill("alertas dobles")
        page.get_by_role("button", name=SPANISH.rollback).click()
        page.locator("#said", has_text=SPANISH.command_done).wait_for()
        page.get_by_role("button", name=SPANISH.approve).click()
        deadline = time.monotonic() + 10
        while len(services.commands) < 2 and time.monotonic() < deadline:
            page.wait_for_timeout(50)
        reason = b'{"reason":"alertas dobles"}'
        assert services.commands == [
            ("/rollback", "s3cret", reason), ("/decisions/4c16/approve", "s3cret", reason)
        ]  # fmt: skip
        assert "s3cret" not in page.content()
        assert unwanted == []
