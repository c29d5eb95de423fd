"""`POST /predict` has two ways in, ASGI and one without; whatever is sent, both must answer the same bytes."""

from __future__ import annotations

import hashlib
import json
import re
import time
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from prometheus_client import REGISTRY

from readmit_chassis.s3 import MemoryStore
from readmit_contracts.encounter import example_encounter
from readmit_contracts.history import HISTORY, example_history
from readmit_inference.settings import RateSettings, Settings
from readmit_inference.testing import Service, promote, running, tiny_bundle

Headers = dict[str, str]

JSON: Headers = {"content-type": "application/json"}
GOOD = json.dumps(example_encounter()).encode()
_ID = re.compile(rb"[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}")

REQUESTS: list[tuple[bytes, Headers]] = [
    (GOOD, JSON),
    (GOOD, {}),
    (GOOD, {"content-type": "application/fhir+json; charset=utf-8"}),
    (json.dumps(example_encounter() | {HISTORY: example_history()}).encode(), JSON),
    (json.dumps(example_encounter() | {"payer_code": "XX", "shoe_size": 43}).encode(), JSON),  # warnings
    (json.dumps(example_encounter() | {"age": "[900-1000)", "time_in_hospital": -5}).encode(), JSON),
    (json.dumps(example_encounter() | {HISTORY: 1}).encode(), JSON),
    (GOOD.ljust(64 * 1024), JSON),
    (GOOD.ljust(64 * 1024 + 1), JSON),
    (GOOD, {"content-type": "text/plain"}),
    *((body, JSON) for body in (b"", b"{", b'{"age": NaN}', b'{"age": "\xff"}', b"[" * 60_000, b"null", b"[]", b"{}")),
]


async def by_asgi(service: Service, body: bytes, headers: Headers, path: str) -> tuple[int, dict[bytes, bytes], bytes]:
    said = await service.client.post(path, content=body, headers=headers)
    return said.status_code, {name.lower(): value for name, value in said.headers.raw}, _ID.sub(b"", said.content)


def at_once(service: Service, body: bytes, headers: Headers, path: str) -> tuple[int, dict[bytes, bytes], bytes]:
    given = [(name.lower().encode(), value.encode()) for name, value in headers.items()]
    given.append((b"content-length", b"%d" % len(body)))
    said = service.app.state.posts_at_once[path.encode()](given, body)
    assert dict(said.headers)[b"content-length"] == b"%d" % len(said.body)
    return said.status, dict(said.headers), _ID.sub(b"", said.body)


def counted() -> dict[tuple[str, str], float]:
    """What /metrics says of requests, without the times."""
    return {
        (sample.name, str(sample.labels)): sample.value
        for metric in REGISTRY.collect()
        if metric.name.startswith(("prediction_requests", "prediction_errors", "predictions", "access_refused"))
        for sample in metric.samples
        if not sample.name.endswith("_created")
    }


async def check(
    service: Service, body: bytes, headers: Headers, path: str = "/predict"
) -> tuple[int, dict[bytes, bytes]]:
    """Ask both ways; they answer and count the same. The status and the headers."""
    counts = [counted()]
    expected = await by_asgi(service, body, headers, path)
    counts.append(counted())
    assert at_once(service, body, headers, path) == expected
    counts.append(counted())
    first, second = ({k: after[k] - before.get(k, 0) for k in after} for before, after in pairwise(counts))
    assert first == second
    assert any(first.values())
    return expected[:2]


@pytest.mark.parametrize("request_", REQUESTS)
@pytest.mark.parametrize("path", ["/predict", "/v1/predict"])
async def test_good_and_bad_requests_are_answered_alike(
    service: Service, request_: tuple[bytes, Headers], path: str
) -> None:
    await check(service, *request_, path)


async def test_without_a_model_both_say_when_to_come_again(settings: Settings, store: MemoryStore) -> None:
    async with running(settings, store) as service:
        status, headers = await check(service, GOOD, JSON)
    assert (status, headers[b"retry-after"]) == (503, b"5")


async def test_overrun_both_turn_away(settings: Settings, store: MemoryStore) -> None:
    async with running(settings.model_copy(update={"shed_after_s": 0.05}), store) as service:
        await service.settle(promote(store, tiny_bundle(1), epoch=1))
        expected = await by_asgi(service, GOOD, JSON, "/predict")
        until = time.thread_time() + 0.2
        while time.thread_time() < until:
            pass
        said = at_once(service, GOOD, JSON, "/predict")
        assert (expected[0], said[0]) == (200, 503)
        assert said == await by_asgi(service, GOOD, JSON, "/predict")


async def test_a_bug_is_told_alike(service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    serving = service.champion.serving
    assert serving is not None
    monkeypatch.setattr(type(serving.model), "score_values", lambda *_: 1 / 0)
    status, _ = await check(service, GOOD, JSON)
    assert status == 500


@pytest.mark.parametrize(
    ("headers", "status"),
    [({"X-API-Key": "good"}, 200), ({"Authorization": "Bearer good"}, 200), ({"X-API-Key": "looks"}, 403),
     ({"X-API-Key": "unknown"}, 401), ({}, 401)],
)  # fmt: skip
async def test_the_gate_stands_before_both(
    settings: Settings, store: MemoryStore, tmp_path: Path, headers: Headers, status: int
) -> None:
    keys = tmp_path / "keys.json"
    keys.write_text(json.dumps({"keys": [entry("good"), entry("looks", scopes=["model"])]}))
    async with running(settings.model_copy(update={"api_keys_file": keys}), store) as service:
        await service.settle(promote(store, tiny_bundle(1), epoch=1))
        for path in ("/predict", "/v1/predict"):
            assert (await check(service, GOOD, JSON | headers, path))[0] == status


def entry(key: str, **more: Any) -> dict[str, Any]:
    return {"id": key, "sha256": hashlib.sha256(key.encode()).hexdigest()} | more


async def test_a_limit_is_one_for_both(settings: Settings, store: MemoryStore) -> None:
    limited = settings.model_copy(update={"rate": RateSettings(requests_per_s=0.01, burst=2)})
    async with running(limited, store) as service:
        await service.settle(promote(store, tiny_bundle(1), epoch=1))
        assert at_once(service, GOOD, JSON, "/predict")[0] == 200
        assert (await by_asgi(service, GOOD, JSON, "/v1/predict"))[0] == 200
        status, headers = await check(service, GOOD, JSON)
    assert status == 429
    assert b"retry-after" in headers


async def test_where_browsers_may_ask_all_goes_through_what_adds_their_headers(
    settings: Settings, store: MemoryStore
) -> None:
    open_to = settings.model_copy(update={"cors_origins": ("https://a.example.org",)})
    async with running(open_to, store) as service:
        assert service.app.state.posts_at_once == {}
