"""The real process: uvicorn, real sockets, signals. Kafka and S3 are down; the model comes from the cache."""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import re
import signal
import socket
import ssl
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from readmit_bundle import read_bundle
from readmit_chassis.s3 import MemoryStore
from readmit_chassis.self_signed import self_signed
from readmit_chassis.settings import TlsSettings
from readmit_contracts.encounter import example_encounter
from readmit_inference.cache import BundleCache
from readmit_inference.settings import Settings
from readmit_inference.testing import promote, tiny_bundle

#: The health check of the image.
ALIVE = Path(__file__).parents[3] / "infra" / "images" / "alive.py"


@pytest.fixture
def pod(
    settings: Settings, store: MemoryStore, tmp_path: Path, request: pytest.FixtureRequest
) -> Iterator[tuple[subprocess.Popen[bytes], str]]:
    """`python -m readmit_inference` and its address; a test may add to its environment."""
    promotion = promote(store, tiny_bundle(1, family="lightgbm"), epoch=3)
    BundleCache(settings.cache_dir).write(promotion, read_bundle(store.get, promotion.bundle))
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    environment = environment_of(settings) | {"INFERENCE_PORT": str(port)} | getattr(request, "param", {})
    with (tmp_path / "log").open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "readmit_inference"], env=os.environ | environment, stderr=log, cwd=tmp_path
        )
        try:
            scheme = "https" if "INFERENCE_TLS__CERT_FILE" in environment else "http"
            address = f"{scheme}://127.0.0.1:{port}"
            asyncio.run(_until_ready(process, address))
            yield process, address
        finally:
            process.kill()
            process.wait()


def environment_of(settings: Settings) -> dict[str, str]:
    return {
        "INFERENCE_CACHE_DIR": str(settings.cache_dir),
        "INFERENCE_KAFKA__BOOTSTRAP_SERVERS": settings.kafka.bootstrap_servers,
        "INFERENCE_S3__ENDPOINT_URL": settings.s3.endpoint_url,
        "INFERENCE_S3__ACCESS_KEY": "k",
        "INFERENCE_S3__SECRET_KEY": "s",
    }


async def _until_ready(process: subprocess.Popen[bytes], address: str) -> None:
    async with asyncio.timeout(60), httpx.AsyncClient(verify=False) as client:  # noqa: S501  it is ours
        while True:
            assert process.poll() is None
            try:
                if (await client.get(f"{address}/readyz")).status_code == 200:
                    return
            except httpx.TransportError:
                await asyncio.sleep(0.05)


def test_the_process_answers_refuses_floods_and_drains(pod: tuple[subprocess.Popen[bytes], str]) -> None:
    process, address = pod
    with httpx.Client(base_url=address, timeout=30) as client:
        assert client.post("/predict", json=example_encounter()).json()["model"]["epoch"] == 3

        flood = b'{"age":"' + b"x" * 10_000_000 + b'"}'
        assert client.post("/predict", content=flood).status_code == 413
        chunks = (flood[i : i + 65536] for i in range(0, len(flood), 65536))
        assert client.post("/predict", content=chunks).status_code == 413
        assert client.post("/predict", json=example_encounter()).status_code == 200

    assert answer_after_sigterm(process, address).startswith(b"HTTP/1.1 200")
    assert process.wait(timeout=30) in {0, -signal.SIGTERM}


def test_a_body_that_is_cut_off_is_counted(pod: tuple[subprocess.Popen[bytes], str]) -> None:
    host, port = pod[1].removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=30) as connection:
        connection.sendall(b'POST /predict HTTP/1.1\r\nHost: pod\r\nContent-Length: 900\r\n\r\n{"age":')
    until = time.monotonic() + 30
    while 'prediction_errors_total{code="invalid_json"} 1.0' not in httpx.get(f"{pod[1]}/metrics").text:
        assert time.monotonic() < until
        time.sleep(0.05)


@pytest.mark.parametrize("body", [json.dumps(example_encounter()), "{}", "{", "null"])
def test_alone_or_behind_another_request_an_encounter_gets_the_same_bytes(
    pod: tuple[subprocess.Popen[bytes], str], body: str
) -> None:
    """The first is answered without ASGI, the second with it."""
    host, port = pod[1].removeprefix("http://").split(":")
    ask = f"POST /predict HTTP/1.1\r\nHost: pod\r\nContent-Length: {len(body)}\r\n\r\n{body}".encode()
    before = b"GET /livez HTTP/1.1\r\nHost: pod\r\n\r\n"
    answers = []
    for sent, count in ((ask, 1), (before + ask, 2)):
        with socket.create_connection((host, int(port)), timeout=30) as connection:
            connection.sendall(sent)
            said, until = b"", time.monotonic() + 30
            while said.count(b"HTTP/1.1 ") < count or not said.endswith(b"}"):
                assert time.monotonic() < until
                said += connection.recv(65536)
        answers.append(b"HTTP/1.1 " + said.split(b"HTTP/1.1 ")[-1])
    alone, behind = (re.sub(rb"date: [^\r]*|[0-9a-f]{8}-[0-9a-f-]{27}", b"", answer) for answer in answers)
    assert alone == behind


@pytest.mark.parametrize("pod", [{"INFERENCE_SHED_AFTER_S": "0.03"}], indirect=True)
def test_a_thousand_at_once_are_answered_or_turned_away_and_then_all_is_well(
    pod: tuple[subprocess.Popen[bytes], str],
) -> None:
    process, address = pod
    statuses = asyncio.run(flood(process, address, connections=600, waves=8))
    assert len(statuses) == 4_800
    assert set(statuses) == {200, 503}
    assert statuses.count(200) >= 8
    assert httpx.post(f"{address}/predict", json=example_encounter()).status_code == 200


@pytest.mark.parametrize("pod", [{"INFERENCE_BODY_TIMEOUT_S": "0.5"}], indirect=True)
def test_a_client_that_does_not_send_its_body_is_told_so_and_let_go(pod: tuple[subprocess.Popen[bytes], str]) -> None:
    _, address = pod
    host, port = address.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=30) as connection:
        connection.sendall(b'POST /predict HTTP/1.1\r\nHost: pod\r\nContent-Length: 900\r\n\r\n{"age":')
        said = b""
        while block := connection.recv(4096):  # until the pod closes
            said += block
    assert said.startswith(b"HTTP/1.1 408")
    assert b"urn:readmit:problem:body_too_slow" in said
    assert httpx.post(f"{address}/predict", json=example_encounter()).status_code == 200


@pytest.mark.stack
def test_generated_requests_get_what_the_openapi_document_promises(
    pod: tuple[subprocess.Popen[bytes], str], tmp_path: Path
) -> None:
    """No 5xx, no status, content type or body that is not documented; seeded, so that a failure comes again.

    Not checked: that only what the schema says is taken. By design more is, such as numbers as text and ages without
    brackets.
    """
    checks = "not_a_server_error,status_code_conformance,content_type_conformance,response_schema_conformance"
    command = [Path(sys.executable).with_name("schemathesis"), "run", f"{pod[1]}/openapi.json", "--checks", checks,
               "--max-examples", "100", "--seed", "1"]  # fmt: skip
    hooks = os.environ | {"SCHEMATHESIS_HOOKS": "schemathesis_texts", "PYTHONPATH": _with_hooks()}
    found = subprocess.run(command, capture_output=True, text=True, timeout=300, cwd=tmp_path, env=hooks, check=False)
    assert found.returncode == 0, found.stdout[-4000:]
    assert " passed" in found.stdout


@pytest.fixture
def key_file(tmp_path: Path) -> Path:
    """Where the pod's keys are; `good` is one."""
    path = tmp_path / "keys.json"
    path.write_text(json.dumps({"keys": [{"id": "ward", "sha256": hashlib.sha256(b"good").hexdigest()}]}))
    return path


@pytest.mark.stack
@pytest.mark.parametrize("pod", [{"INFERENCE_API_KEYS_FILE": "keys.json"}], indirect=True)
def test_generated_requests_get_what_the_document_promises_with_a_key_and_without_one(
    key_file: Path, pod: tuple[subprocess.Popen[bytes], str], tmp_path: Path
) -> None:
    """`ignored_auth` asks without a key, and with a wrong one, whatever the document says needs one."""
    checks = ("not_a_server_error,status_code_conformance,content_type_conformance,response_schema_conformance,"
              "ignored_auth")  # fmt: skip
    hooks = os.environ | {"SCHEMATHESIS_HOOKS": "schemathesis_texts", "PYTHONPATH": _with_hooks()}
    command = [Path(sys.executable).with_name("schemathesis"), "run", f"{pod[1]}/openapi.json", "--checks", checks,
               "--max-examples", "50", "--seed", "1", "--header", "X-API-Key: good"]  # fmt: skip
    found = subprocess.run(command, capture_output=True, text=True, timeout=300, cwd=tmp_path, env=hooks, check=False)
    assert found.returncode == 0, found.stdout[-4000:]
    assert " passed" in found.stdout
    assert httpx.post(f"{pod[1]}/predict", json=example_encounter()).status_code == 401


@pytest.fixture
def certificate(tmp_path: Path) -> TlsSettings:
    """Where the pod's certificate is."""
    return self_signed(tmp_path)


@pytest.mark.parametrize(
    "pod", [{"INFERENCE_TLS__CERT_FILE": "cert.pem", "INFERENCE_TLS__KEY_FILE": "key.pem"}], indirect=True
)
def test_with_a_certificate_a_pod_speaks_https_alone(
    certificate: TlsSettings, pod: tuple[subprocess.Popen[bytes], str]
) -> None:
    trusting = ssl.create_default_context(cafile=certificate.cert_file)
    address = pod[1].replace("127.0.0.1", "localhost")
    assert httpx.post(f"{address}/predict", json=example_encounter(), verify=trusting).status_code == 200
    with pytest.raises(httpx.TransportError):
        httpx.get(f"{address.replace('https', 'http')}/livez")
    alive = [sys.executable, "-IS", ALIVE, "1", "/livez", "INFERENCE_PORT"]
    told = {"INFERENCE_PORT": address.rpartition(":")[2]}
    assert subprocess.run(alive, env=told, check=False).returncode == 1
    assert subprocess.run(alive, env=told | {"INFERENCE_TLS__CERT_FILE": "cert.pem"}, check=False).returncode == 0


def test_a_pod_whose_keys_are_not_there_says_so_and_does_not_start(settings: Settings, tmp_path: Path) -> None:
    environment = environment_of(settings) | {"INFERENCE_API_KEYS_FILE": "nowhere.json"}
    ended = subprocess.run(
        [sys.executable, "-m", "readmit_inference"], env=os.environ | environment, cwd=tmp_path, timeout=60,
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert ended.returncode == 2
    assert "nowhere.json" in ended.stderr
    assert "Traceback" not in ended.stderr


def _with_hooks() -> str:
    return os.pathsep.join([str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")])


async def flood(process: subprocess.Popen[bytes], address: str, *, connections: int, waves: int) -> list[int]:
    """The statuses of waves of requests, one on each connection; the process is stopped until all of a wave are sent.

    So they come at once however busy the machine is.
    """
    host, port = address.removeprefix("http://").split(":")
    body = json.dumps(example_encounter()).encode()
    request = f"POST /predict HTTP/1.1\r\nHost: pod\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body
    opened = [await asyncio.open_connection(host, int(port)) for _ in range(connections)]

    async def status(reader: asyncio.StreamReader) -> int:
        head = await reader.readuntil(b"\r\n\r\n")
        await reader.readexactly(int(head.lower().partition(b"content-length: ")[2].partition(b"\r")[0]))
        return int(head[9:12])

    statuses: list[int] = []
    async with asyncio.timeout(60):
        for _ in range(waves):
            process.send_signal(signal.SIGSTOP)
            for _, writer in opened:
                writer.write(request)
                await writer.drain()
            process.send_signal(signal.SIGCONT)
            statuses += await asyncio.gather(*(status(reader) for reader, _ in opened))
    for _, writer in opened:
        writer.close()
    return statuses


def answer_after_sigterm(process: subprocess.Popen[bytes], address: str) -> bytes:
    """Send half a request, stop the process, send the other half; what it still answers."""
    host, port = address.removeprefix("http://").split(":")
    body = json.dumps(example_encounter()).encode()
    head = f"POST /predict HTTP/1.1\r\nHost: pod\r\nContent-Length: {len(body)}\r\n\r\n".encode()
    with socket.create_connection((host, int(port)), timeout=30) as connection:
        connection.sendall(head + body[:100])
        with httpx.Client(base_url=address, timeout=30) as client:
            client.get("/livez")  # the server has read our head by now
        process.send_signal(signal.SIGTERM)
        connection.sendall(body[100:])
        return connection.recv(4096)
