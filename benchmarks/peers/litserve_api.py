"""The pipeline as LitServe's documentation serves a model: one worker, with batches or without.

LitServe reads the annotations of `decode_request` as they stand: no `from __future__ import annotations` here.
"""

import argparse
import os
from typing import Any

import joblib
import litserve
import pandas as pd

Row = dict[str, Any]


class Encounters(litserve.LitAPI):
    """An encounter in, its risk out."""

    def setup(self, device: str) -> None:  # noqa: ARG002  the port's signature
        self.model = joblib.load(os.environ["PEER_MODEL"])

    def decode_request(self, request: Row) -> Row:
        return request

    def predict(self, x: Row) -> float:
        return self.risks([x])[0]

    def encode_response(self, output: float) -> dict[str, float]:
        return {"risk": output}

    def risks(self, rows: list[Row]) -> list[float]:
        """The risk of each row."""
        found: list[float] = self.model.predict_proba(pd.DataFrame(rows))[:, 1].tolist()
        return found


class EncountersInBatches(Encounters):
    """Those that came together, at once."""

    def batch(self, inputs: list[Row]) -> list[Row]:
        return inputs

    def predict(self, x: list[Row]) -> list[float]:
        return self.risks(x)

    def unbatch(self, output: list[float]) -> list[float]:
        return output


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--port", type=int, required=True)
    batch = int(os.environ["PEER_BATCH"])
    api = EncountersInBatches(max_batch_size=batch, batch_timeout=0.005) if batch > 1 else Encounters()
    server = litserve.LitServer(api, accelerator="cpu", devices=1, workers_per_device=1, timeout=60)
    server.run(
        host="127.0.0.1", port=parser.parse_args().port, num_api_servers=1, generate_client_file=False,
        log_level="warning", access_log=False,
    )  # fmt: skip
