"""How close `/predict` comes to the ceiling: its requests/s against those of handlers that predict nothing.

Each runs as one uvicorn process on one core, in turns, loaded by the same client (`wrk`, on another core) with the same
encounters; only ratios mean anything, because the machine's own speed cancels out. First, every answer of `/predict` to
500 of the encounters is held against the bundle's own.

    python benchmarks/serving_ceiling.py [--rounds 5] [--seconds 4] [--connections 32] [--trees 200 | --bundle DIR]
        [--source diabetes-130-us-hospitals.zip]
"""

from __future__ import annotations

import argparse
import asyncio
import statistics
import sys
import tempfile
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import httpx
from fastapi import FastAPI
from prediction_log import pod_environment, until_logged
from pydantic import BaseModel, create_model
from serving_load import Load, cached_pod, encounters, encounters_script, load, load_options, server, the_bundle

from readmit_bundle import Bundle, load_model
from readmit_chassis.kafka import create_topics
from readmit_chassis.process import Process, run
from readmit_chassis.testing import embedded_kafka, free_port
from readmit_contracts.encounter import COLUMNS, Group
from readmit_contracts.topics import TOPICS
from readmit_features.cleaning import clean_encounter

_CONSTANT = b'{"risk":0.1}'


async def raw_asgi(scope: dict[str, Any], receive: Any, send: Any) -> None:
    """The server's own ceiling: the body is read and a constant sent."""
    if scope["type"] == "lifespan":
        while True:
            message = await receive()
            await send({"type": f"{message['type']}.complete"})
            if message["type"] == "lifespan.shutdown":
                return
    while (await receive()).get("more_body"):
        pass
    headers = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(_CONSTANT))]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": _CONSTANT})


def fast_api(*, validates: bool) -> FastAPI:
    """FastAPI answering a constant, as any tutorial writes it; with the body checked for its fields' types, or not."""
    app = FastAPI()
    columns = [column for column in COLUMNS if column.group is not Group.OUTCOME]
    fields: dict[str, Any] = {
        c.key.replace("-", "_"): (int | None if c.is_number else str | None, None) for c in columns
    }
    encounter: type[BaseModel] = create_model("Encounter", **fields)

    @app.get("/readyz")
    async def readyz() -> dict[str, str]:
        return {"status": "ok"}

    async def predict() -> dict[str, float]:
        return {"risk": 0.1}

    async def predict_validated(body: Any) -> dict[str, float]:  # noqa: ARG001  validated and not looked at
        return {"risk": 0.1}

    predict_validated.__annotations__["body"] = encounter
    app.post("/predict")(predict_validated if validates else predict)
    return app


CEILINGS: dict[str, Any] = {
    "raw ASGI, constant": lambda: raw_asgi,
    "FastAPI, constant": lambda: fast_api(validates=False),
    "FastAPI + pydantic, constant": lambda: fast_api(validates=True),
}
OURS, UNLOGGED = "/predict", "/predict, log off"


def compare(folder: Path, options: argparse.Namespace) -> dict[str, list[Load]]:
    """Check the answers, then load all servers in turns."""
    script = encounters_script(folder, options.source)
    bundle = the_bundle(options)
    ports = {name: free_port() for name in [*CEILINGS, UNLOGGED, OURS]}
    results: dict[str, list[Load]] = {name: [] for name in ports}
    with ExitStack() as stack:
        kafka = stack.enter_context(embedded_kafka())
        asyncio.run(create_topics(kafka, [(topic.name, topic.partitions, topic.config()) for topic in TOPICS]))
        unlogged = cached_pod(folder, bundle, ports[UNLOGGED])
        logged = pod_environment(Path(unlogged["INFERENCE_CACHE_DIR"]), kafka, ports[OURS], log=True)
        addresses = {}
        for name, port in ports.items():
            if name in CEILINGS:
                command, environment = [sys.executable, __file__, "--serve", name, "--port", str(port)], {}
            else:
                command = [sys.executable, "-m", "readmit_inference"]
                environment = logged if name == OURS else unlogged
            addresses[name] = stack.enter_context(server(command, environment, port))
        verify(addresses[OURS], bundle, encounters(options.source, 500))
        for _ in range(options.rounds):
            for name, address in addresses.items():
                results[name].append(load(address, script, connections=options.connections, seconds=options.seconds))
                if name == OURS:
                    until_logged(address)  # what is left is not the next server's to pay
    return results


def verify(address: str, bundle: Bundle, sent: list[dict[str, str | int]]) -> None:
    """End with a message unless the pod answers what the bundle says."""
    model = load_model(bundle)
    for encounter in sent:
        risk = httpx.post(f"{address}/predict", json=encounter).raise_for_status().json()["risk"]
        row = model.encoder.encode(clean_encounter(encounter).values)
        expected = float(model.score_matrix(row.reshape(1, -1))[0])
        if abs(risk - expected) > 1e-12:
            raise SystemExit(f"the pod says {risk}, the bundle {expected}")


def main() -> None:
    """Print the table and the ratios."""
    parser = load_options(__doc__, rounds=5)
    parser.add_argument("--serve", choices=[*CEILINGS], help=argparse.SUPPRESS)
    parser.add_argument("--port", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.serve:
        run(CEILINGS[options.serve](), host="127.0.0.1", port=options.port, process=Process())
    with tempfile.TemporaryDirectory(prefix="readmit-ceiling-") as folder:
        results = compare(Path(folder), options)
    print(f"{'':30} {'requests/s':>11} {'p50 ms':>8} {'p99 ms':>8} {'/predict is':>12}   (medians of {options.rounds})")
    for name, loads in results.items():
        rate, p50, p99 = (
            statistics.median(getattr(one, field) for one in loads) for field in ("requests_per_s", "p50_ms", "p99_ms")
        )
        ratios = [ours.requests_per_s / other.requests_per_s for ours, other in zip(results[OURS], loads, strict=True)]
        told = f"{statistics.median(ratios):.2f} ({min(ratios):.2f}-{max(ratios):.2f})"
        print(f"{name:30} {rate:11,.0f} {p50:8.2f} {p99:8.2f}   {told}")


if __name__ == "__main__":
    main()
