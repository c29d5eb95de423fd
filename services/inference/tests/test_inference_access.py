"""The whole service behind its gate: who gets in, who does not and what they are told, limits, browsers."""

from __future__ import annotations

import asyncio
import hashlib
import json
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx
import pytest
from joserfc import jwt
from joserfc.jwk import KeySet, RSAKey
from prometheus_client import REGISTRY
from pydantic import ValidationError

from readmit_chassis.access.watched_file import Unusable, WatchedFile
from readmit_chassis.s3 import MemoryStore
from readmit_contracts.encounter import example_encounter
from readmit_contracts.prediction import Problem
from readmit_inference.access.gate import Gate
from readmit_inference.access.rate_limit import RateLimiter
from readmit_inference.access.scopes import anonymous
from readmit_inference.settings import OidcSettings, RateSettings, Settings
from readmit_inference.testing import Service, promote, running, tiny_bundle, until

OPEN = (
    "/health", "/livez", "/readyz", "/metrics", "/docs", "/docs/es", "/openapi.json", "/openapi.es.json",
    "/cds-services", "/fhir/metadata",
)  # fmt: skip
ISSUER = "https://login.example.org"


def entry(key: str, name: str = "ward", **more: Any) -> dict[str, Any]:
    return {"id": name, "sha256": hashlib.sha256(key.encode()).hexdigest()} | more


def write_keys(path: Path, *entries: dict[str, Any]) -> None:
    scratch = path.with_suffix(".tmp")
    scratch.write_text(json.dumps({"keys": entries}))
    scratch.replace(path)


@pytest.fixture
def key_file(tmp_path: Path) -> Path:
    path = tmp_path / "keys.json"
    write_keys(
        path,
        entry("good"),
        entry("gone", "old", expires=(datetime.now(UTC) - timedelta(seconds=1)).isoformat()),
        entry("soon", "new", not_before=(datetime.now(UTC) + timedelta(hours=1)).isoformat()),
        entry("looks", "auditor", scopes=["model"]),
        entry("asks", "form", scopes=["predict"]),
        entry("slow", "batch", requests_per_s=0.01, burst=2),
    )
    return path


@asynccontextmanager
async def guarded(settings: Settings, store: MemoryStore, **more: Any) -> AsyncIterator[Service]:
    async with running(settings.model_copy(update=more), store) as service:
        await service.settle(promote(store, tiny_bundle(1), epoch=1))
        yield service


async def ask(service: Service, key: str | None, path: str = "/predict") -> httpx.Response:
    headers = {} if key is None else {"X-API-Key": key}
    if path == "/predict":
        return await service.client.post(path, json=example_encounter(), headers=headers)
    return await service.client.get(path, headers=headers)


def counted(name: str, **labels: str) -> float:
    return REGISTRY.get_sample_value(name, labels) or 0.0


async def test_a_key_opens_and_may_come_in_either_header(
    settings: Settings, store: MemoryStore, key_file: Path
) -> None:
    async with guarded(settings, store, api_keys_file=key_file) as service:
        assert (await ask(service, "good")).status_code == 200
        assert (await ask(service, "good", "/model")).status_code == 200
        assert (await ask(service, "good", "/v1/model")).status_code == 200
        for scheme in ("Bearer", "bearer"):
            bearer = await service.client.get("/model", headers={"Authorization": f"{scheme} good"})
            assert bearer.status_code == 200
        basic = await service.client.get("/model", headers={"Authorization": "Basic good"})
        assert basic.status_code == 401


async def test_without_a_valid_key_everything_but_the_open_paths_is_closed_in_the_same_words(
    settings: Settings, store: MemoryStore, key_file: Path
) -> None:
    before = counted("prediction_requests_total", outcome="unauthorized")
    async with guarded(settings, store, api_keys_file=key_file) as service:
        answers = [await ask(service, key) for key in (None, "", "unknown", "gone", "soon", "Good", "good good")]
        answers += [await ask(service, None, path) for path in ("/model", "/nowhere", "/", "/health/", "/v1/model")]
        for path in ("/v1/predict", "/predict/batch", "/v1/predict/batch", "/explain", "/fhir/RiskAssessment/$predict",
                     "/cds-services/readmission-risk"):  # fmt: skip
            answers.append(await service.client.post(path, json=example_encounter()))
        assert {(answer.status_code, answer.content) for answer in answers} == {(401, answers[0].content)}
        assert {answer.headers["www-authenticate"] for answer in answers} == {'Bearer realm="readmit"'}
        problem = Problem.model_validate_json(answers[0].content)
        assert problem.type == "urn:readmit:problem:unauthorized"
        assert "X-API-Key" in problem.detail
        assert {(await ask(service, None, path)).status_code for path in OPEN} == {200}
        assert (await ask(service, None, "/v1/livez")).status_code == 200
    assert counted("prediction_requests_total", outcome="unauthorized") == before + 7 + 3


async def test_a_key_reaches_as_far_as_its_scopes(settings: Settings, store: MemoryStore, key_file: Path) -> None:
    async with guarded(settings, store, api_keys_file=key_file) as service:
        assert (await ask(service, "looks", "/model")).status_code == 200
        assert (await ask(service, "asks")).status_code == 200
        for refused, scope in (
            (await ask(service, "looks"), "predict"),
            (await ask(service, "asks", "/model"), "model"),
        ):
            assert refused.status_code == 403
            assert Problem.model_validate_json(refused.content).type == "urn:readmit:problem:forbidden"
            assert refused.headers["www-authenticate"].endswith(f'error="insufficient_scope", scope="{scope}"')


async def test_a_client_that_asks_too_often_is_told_when_to_come_back_and_the_others_are_not_held_up(
    settings: Settings, store: MemoryStore, key_file: Path
) -> None:
    outcome, refused = (
        counted("prediction_requests_total", outcome="rate_limited"),
        counted("access_refused_total", code="rate_limited", client="batch"),
    )
    async with guarded(settings, store, api_keys_file=key_file) as service:
        answers = [await ask(service, "slow") for _ in range(3)]
        assert [answer.status_code for answer in answers] == [200, 200, 429]
        assert 90 <= int(answers[2].headers["retry-after"]) <= 100
        assert Problem.model_validate_json(answers[2].content).type == "urn:readmit:problem:rate_limited"
        assert (await ask(service, "good")).status_code == 200
        assert (await service.client.get("/livez", headers={"X-API-Key": "slow"})).status_code == 200
    assert counted("prediction_requests_total", outcome="rate_limited") == outcome + 1
    assert counted("access_refused_total", code="rate_limited", client="batch") == refused + 1


async def test_where_everybody_may_ask_there_is_no_limit_unless_one_is_set(
    settings: Settings, store: MemoryStore
) -> None:
    async with guarded(settings, store) as service:
        assert {(await ask(service, None)).status_code for _ in range(50)} == {200}
    async with guarded(settings, store, rate=RateSettings(requests_per_s=0.01, burst=3)) as service:
        assert [(await ask(service, None)).status_code for _ in range(4)] == [200, 200, 200, 429]
        assert (await ask(service, None, "/health")).status_code == 200


async def test_keys_change_while_it_runs_without_a_failed_request_and_a_broken_file_changes_nothing(
    settings: Settings, store: MemoryStore, key_file: Path
) -> None:
    def seen(outcome: str) -> float:
        return counted("access_reads_total", source="keys", outcome=outcome)

    async def asks(key: str) -> int:
        return (await ask(service, key)).status_code

    async def turns(key: str, status: int, meanwhile: str = "") -> None:
        """Until `key` is answered so; `meanwhile` never stops being valid."""
        async with asyncio.timeout(20):
            while await asks(key) != status:
                assert not meanwhile or await asks(meanwhile) == 200
                await asyncio.sleep(0.02)

    async with guarded(settings, store, api_keys_file=key_file) as service:
        write_keys(key_file, entry("good"), entry("next"))
        await turns("next", 200, meanwhile="good")
        write_keys(key_file, entry("next"))
        await turns("good", 401, meanwhile="next")

        refused = seen("refused")
        break_(key_file)
        await until(lambda: seen("refused") == refused + 1)
        assert counted("access_stale", source="keys") == 1
        assert await asks("next") == 200
        await asyncio.to_thread(key_file.unlink)
        await until(lambda: seen("refused") == refused + 2)
        assert await asks("next") == 200
        write_keys(key_file, entry("third"))
        await turns("third", 200)
        assert counted("access_stale", source="keys") == 0


def break_(path: Path) -> None:
    path.write_text('{"keys": [{"id": "ward", "sha256": "')


@pytest.mark.parametrize("content", [None, b"{}", b'{"keys": [{"id": "ward"}]}'])
async def test_a_service_whose_keys_cannot_be_read_does_not_start_open(
    settings: Settings, store: MemoryStore, tmp_path: Path, content: bytes | None
) -> None:
    path = tmp_path / "wrong.json"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(Unusable):
        async with guarded(settings, store, api_keys_file=path):
            pass


async def test_a_token_of_the_trusted_issuer_opens_beside_keys(
    settings: Settings, store: MemoryStore, tmp_path: Path, key_file: Path
) -> None:
    signing = RSAKey.generate_key(2048, {"kid": "1"})
    jwks = tmp_path / "jwks.json"
    jwks.write_text(json.dumps(KeySet([signing]).as_dict(private=False)))

    def token(**changed: Any) -> str:
        exp = int(datetime.now(UTC).timestamp()) + 60
        claims = {"iss": ISSUER, "aud": "readmit", "sub": "ehr", "exp": exp, "scope": "predict"} | changed
        return jwt.encode({"alg": "RS256", "kid": "1"}, claims, signing)

    oidc = OidcSettings(issuer=ISSUER, audience="readmit", jwks_file=jwks)
    rate = RateSettings(requests_per_s=0.01, burst=5)
    async with guarded(settings, store, api_keys_file=key_file, oidc=oidc, rate=rate) as service:

        async def status(sent: str) -> int:
            headers = {"Authorization": f"Bearer {sent}"}
            return (await service.client.post("/predict", json=example_encounter(), headers=headers)).status_code

        assert await status(token()) == 200
        assert await status("good") == 200
        assert await status(token(aud="billing")) == 401
        assert await status(token(scope="openid")) == 403
        assert [await status(token(sub="busy")) for _ in range(6)] == [200] * 5 + [429]


async def test_as_long_as_an_issuer_has_never_been_reached_tokens_are_answered_503_and_keys_as_ever(
    settings: Settings, store: MemoryStore, key_file: Path, closed_port: int
) -> None:
    away = OidcSettings(issuer=f"http://127.0.0.1:{closed_port}", audience="readmit")
    async with guarded(settings, store, api_keys_file=key_file, oidc=away) as service:
        answer = await ask(service, "not.a.key")
        assert (answer.status_code, "retry-after" in answer.headers) == (503, True)
        assert Problem.model_validate_json(answer.content).type == "urn:readmit:problem:issuer_unavailable"
        assert (await ask(service, "good")).status_code == 200
        assert (await ask(service, None, "/readyz")).status_code == 200


@pytest.fixture
def issuer() -> Iterator[tuple[str, RSAKey]]:
    """A real server with discovery and keys, and what it signs with."""
    signing = RSAKey.generate_key(2048, {"kid": "1"})

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            answers = {
                "/.well-known/openid-configuration": {"issuer": url, "jwks_uri": f"{url}/keys"},
                "/keys": KeySet([signing]).as_dict(private=False),
            }
            self.send_response(200)
            self.end_headers()
            self.wfile.write(json.dumps(answers[self.path]).encode())

        def log_message(self, *_: Any) -> None:
            """Say nothing."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        url = f"http://127.0.0.1:{server.server_port}"
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield url, signing
        server.shutdown()
        thread.join()


async def test_the_issuers_keys_are_found_by_themselves(
    settings: Settings, store: MemoryStore, issuer: tuple[str, RSAKey]
) -> None:
    url, signing = issuer
    exp = int(datetime.now(UTC).timestamp()) + 60
    claims = {"iss": url, "aud": "readmit", "sub": "ehr", "exp": exp, "scp": ["model"]}
    headers = {"Authorization": f"Bearer {jwt.encode({'alg': 'RS256', 'kid': '1'}, claims, signing)}"}
    async with guarded(settings, store, oidc=OidcSettings(issuer=url, audience="readmit")) as service:
        async with asyncio.timeout(20):
            while (answer := await service.client.get("/model", headers=headers)).status_code == 503:  # noqa: ASYNC110  the keys are fetched beside
                await asyncio.sleep(0.02)
        assert answer.status_code == 200


async def preflight(service: Service, origin: str) -> httpx.Response:
    asked = {"Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": "content-type,x-api-key"}
    return await service.client.options("/predict", headers={"Origin": origin} | asked)


async def test_a_page_of_another_origin_gets_nothing_by_default(settings: Settings, store: MemoryStore) -> None:
    async with guarded(settings, store) as service:
        assert (await preflight(service, "https://ehr.example.org")).status_code == 405
        answer = await service.client.post(
            "/predict", json=example_encounter(), headers={"Origin": "https://ehr.example.org"}
        )
        assert not [name for name in answer.headers if name.startswith("access-control-")]


async def test_pages_of_named_origins_may_ask_and_read_why_not(
    settings: Settings, store: MemoryStore, key_file: Path
) -> None:
    origin = "https://ehr.example.org"
    async with guarded(settings, store, api_keys_file=key_file, cors_origins=(origin,)) as service:
        allowed = await preflight(service, origin)
        assert allowed.status_code == 200
        assert allowed.headers["access-control-allow-origin"] == origin
        assert "X-API-Key" in allowed.headers["access-control-allow-headers"]
        assert (await preflight(service, "https://evil.example.org")).status_code == 400
        for key, status in (("good", 200), (None, 401)):
            headers = {"Origin": origin} | ({} if key is None else {"X-API-Key": key})
            answer = await service.client.post("/predict", json=example_encounter(), headers=headers)
            assert answer.status_code == status
            assert answer.headers["access-control-allow-origin"] == origin
        stranger = await service.client.get("/health", headers={"Origin": "https://evil.example.org"})
        assert "access-control-allow-origin" not in stranger.headers


@pytest.mark.parametrize("asked_for", [True, False])
async def test_the_document_tells_of_keys_and_of_every_answer_of_the_gate(
    settings: Settings, store: MemoryStore, key_file: Path, asked_for: bool
) -> None:
    more = {"api_keys_file": key_file} if asked_for else {}
    async with guarded(settings, store, **more) as service:
        document = (await service.client.get("/openapi.json")).json()
    assert set(document["components"]["securitySchemes"]) == {"ApiKey", "Bearer"}
    for path, operations in document["paths"].items():
        for operation in operations.values():
            if path in OPEN:
                assert "security" not in operation
                continue
            assert ({} in operation["security"]) is not asked_for
            assert {"ApiKey": []} in operation["security"]
            for status in ("401", "403", "429"):
                assert list(operation["responses"][status]["content"]) == ["application/problem+json"]
            assert "application/problem+json" in operation["responses"]["503"]["content"]


async def test_a_web_socket_does_not_get_past_the_gate() -> None:
    said: list[Any] = []

    async def app(*_: Any) -> None:
        raise AssertionError("reached")

    async def receive() -> dict[str, Any]:
        return {"type": "websocket.connect"}

    async def send(message: Any) -> None:
        said.append(message)

    gate = Gate([], RateLimiter(), anonymous(None)).around(app)
    await gate({"type": "websocket", "path": "/predict", "headers": []}, receive, send)
    assert [message["type"] for message in said] == ["websocket.close"]


def test_origins_are_listed_with_commas_and_a_wrong_one_is_named(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = settings.model_dump(exclude_unset=True)
    monkeypatch.setenv("INFERENCE_CORS_ORIGINS", "https://a.example.org, http://localhost:3000")
    assert Settings(**given).cors_origins == ("https://a.example.org", "http://localhost:3000")
    monkeypatch.setenv("INFERENCE_CORS_ORIGINS", "https://a.example.org/page")
    with pytest.raises(ValidationError, match="without a path"):
        Settings(**given)


@pytest.mark.parametrize("issuer", ["http://login.example.org", "login.example.org", ""])
def test_an_issuer_is_reached_by_https(issuer: str) -> None:
    with pytest.raises(ValidationError, match="https"):
        OidcSettings(issuer=issuer, audience="readmit")


def test_a_variable_that_is_set_to_nothing_names_no_file(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("INFERENCE_API_KEYS_FILE", "")
    assert Settings(**settings.model_dump(exclude_unset=True)).api_keys_file is None


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(Unusable, match=r"nothing\.json"):
        WatchedFile(tmp_path / "nothing.json", lambda _: None, "keys").read()
