"""Services that play their part over `httpx.MockTransport`."""

from __future__ import annotations

from collections.abc import Callable
from uuid import uuid4

import httpx
import pytest

from readmit_contracts.prediction import Prediction, ServingModel
from readmit_ui.clients import Services

NAMES = ("inference", "ingestor", "trainer", "promoter", "monitor")
Handler = Callable[[httpx.Request], httpx.Response]


@pytest.fixture
def model() -> ServingModel:
    return ServingModel(name="diabetes_readmission_lightgbm", version="3", sha256="ab" * 32, epoch=7, synthetic=False)


@pytest.fixture
def prediction(model: ServingModel) -> Prediction:
    return Prediction(
        prediction_id=uuid4(), risk=0.234, readmitted_within_30_days=True, threshold=0.125, model=model, warnings=[]
    )


@pytest.fixture
def services_that() -> Callable[[Handler], Services]:
    """Services whose every request is answered by one function; the host is the service's name."""

    def make(handler: Handler) -> Services:
        client = httpx.AsyncClient(transport=httpx.MockTransport(handler))
        return Services(client, {name: f"http://{name}" for name in NAMES})

    return make
