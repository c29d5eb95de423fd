"""How close `/predict` comes to the ceiling: its requests/s against those of a FastAPI handler that does nothing.

Both run as one uvicorn worker, in turns, loaded by the same client (`wrk`) over the same body; only the ratio means
anything, because the machine's own speed cancels out.

    python benchmarks/serving_ceiling.py [--rounds 5] [--seconds 4] [--connections 32] [--trees 200]
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
from pathlib import Path

from fastapi import FastAPI
from serving_load import Load, encounter_script, load, load_options, server

from readmit_bundle import read_bundle
from readmit_chassis.process import Process, run
from readmit_chassis.s3 import MemoryStore
from readmit_chassis.testing import free_port
from readmit_inference.cache import BundleCache
from readmit_inference.testing import promote, tiny_bundle


def no_op_app() -> FastAPI:
    """The ceiling: FastAPI answering a constant, as any tutorial writes it."""
    app = FastAPI()

    @app.get("/readyz")
    async def readyz() -> dict[str, str]:
        return {"status": "ok"}

    @app.post("/predict")
    async def predict() -> dict[str, float]:
        return {"risk": 0.1}

    return app


def compare(folder: Path, options: argparse.Namespace) -> dict[str, list[Load]]:
    """Load both servers in turns."""
    script = encounter_script(folder)
    store, cache = MemoryStore(), BundleCache(folder / "cache")
    promotion = promote(store, tiny_bundle(1, family="lightgbm", trees=options.trees), epoch=1)
    cache.write(promotion, read_bundle(store.get, promotion.bundle))
    ports = free_port(), free_port()
    nowhere = "127.0.0.1:1"  # Kafka and S3 stay down: the pod answers from its cache
    environment = {
        "INFERENCE_PORT": str(ports[1]),
        "INFERENCE_CACHE_DIR": str(folder / "cache"),
        "INFERENCE_KAFKA__BOOTSTRAP_SERVERS": nowhere,
        "INFERENCE_LOG_PREDICTIONS": "false",  # its cost is benchmarks/prediction_log.py
        "INFERENCE_S3__ENDPOINT_URL": f"http://{nowhere}",
        "INFERENCE_S3__ACCESS_KEY": "none",
        "INFERENCE_S3__SECRET_KEY": "none",
    }
    results: dict[str, list[Load]] = {"no-op FastAPI": [], "/predict": []}
    with (
        server([sys.executable, __file__, "--serve-no-op", str(ports[0])], {}, ports[0]) as no_op,
        server([sys.executable, "-m", "readmit_inference"], environment, ports[1]) as predict,
    ):
        for _ in range(options.rounds):
            for name, address in zip(results, (no_op, predict), strict=True):
                results[name].append(load(address, script, connections=options.connections, seconds=options.seconds))
    return results


def main() -> None:
    """Print the table and the ratio."""
    parser = load_options(__doc__, rounds=5)
    parser.add_argument("--serve-no-op", type=int, metavar="PORT", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.serve_no_op:
        run(no_op_app(), host="127.0.0.1", port=options.serve_no_op, process=Process())
    with tempfile.TemporaryDirectory(prefix="readmit-ceiling-") as folder:
        results = compare(Path(folder), options)
    print(f"{'':14} {'requests/s':>11} {'p99 ms':>8}   (medians of {options.rounds} rounds)")
    for name, loads in results.items():
        rate, p99 = (
            statistics.median(figures) for figures in zip(*((r.requests_per_s, r.p99_ms) for r in loads), strict=True)
        )
        print(f"{name:14} {rate:11,.0f} {p99:8.2f}")
    ratios = [p.requests_per_s / n.requests_per_s for n, p in zip(*results.values(), strict=True)]
    print(f"ratio {statistics.median(ratios):.2f} (rounds {min(ratios):.2f}-{max(ratios):.2f})")


if __name__ == "__main__":
    main()
