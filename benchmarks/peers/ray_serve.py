"""The pipeline as Ray Serve's documentation serves a model: the proxy and one replica, on one node of one core."""

from __future__ import annotations

import argparse
import asyncio
import os
from typing import Any

import joblib
import pandas as pd
import ray
from ray import serve
from starlette.requests import Request

_BATCH = int(os.environ["PEER_BATCH"])


@serve.deployment(num_replicas=1, max_ongoing_requests=100, ray_actor_options={"num_cpus": 1})
class Encounters:
    """One replica."""

    def __init__(self) -> None:
        self.model = joblib.load(os.environ["PEER_MODEL"])

    async def __call__(self, request: Request) -> dict[str, float]:
        """An encounter in, its risk out."""
        row = await request.json()
        risk = await self.batched(row) if _BATCH > 1 else self.risks([row])[0]
        return {"risk": risk}

    @serve.batch(max_batch_size=max(_BATCH, 1), batch_wait_timeout_s=0.005)
    async def batched(self, rows: list[dict[str, Any]]) -> list[float]:
        """The risks of those that came together."""
        return self.risks(rows)

    def risks(self, rows: list[dict[str, Any]]) -> list[float]:
        """The risk of each row."""
        found: list[float] = self.model.predict_proba(pd.DataFrame(rows))[:, 1].tolist()
        return found


async def forever() -> None:
    """Until this process is ended."""
    await asyncio.Event().wait()


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--folder", required=True, help="short, as sockets lie below it")
    options = parser.parse_args()
    ray.init(
        num_cpus=1, include_dashboard=False, object_store_memory=100_000_000, _node_ip_address="127.0.0.1",
        _temp_dir=options.folder, log_to_driver=False, logging_level="warning",
    )  # fmt: skip
    serve.start(http_options={"host": "127.0.0.1", "port": options.port})
    serve.run(Encounters.bind(), route_prefix="/predict", logging_config={"enable_access_log": False})
    asyncio.run(forever())
