"""The whole service in this process, with a store in memory and Kafka down."""

from __future__ import annotations

import gc
import socket
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from readmit_chassis.s3 import MemoryStore
from readmit_chassis.settings import KafkaSettings, S3Settings
from readmit_inference.settings import Settings
from readmit_inference.testing import Service, promote, running, tiny_bundle

_LEAK_OF_FASTSTREAM = "ignore:Unclosed AIOKafkaProducer:ResourceWarning"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """FastStream forgets to close its producer when Kafka can't be reached, and here it never can."""
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.filterwarnings(_LEAK_OF_FASTSTREAM))


@pytest.fixture(scope="module", autouse=True)
def leave_nothing() -> Iterator[None]:
    """What FastStream left behind is collected under our filter, not in the middle of somebody else's test."""
    yield
    gc.collect()


@pytest.fixture
def store() -> MemoryStore:
    return MemoryStore()


@pytest.fixture
def closed_port() -> Iterator[int]:
    """A port that is taken but where nobody listens: connecting is refused at once."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        yield taken.getsockname()[1]


@pytest.fixture
def settings(tmp_path: Path, closed_port: int) -> Settings:
    address = f"127.0.0.1:{closed_port}"
    return Settings(
        pod_id="pod-1",
        cache_dir=tmp_path / "cache",
        shed_after_s=60.0,  # here the thread also does the tests' work, with the loop at rest meanwhile
        kafka=KafkaSettings(bootstrap_servers=address, idempotent_producer=False),
        s3=S3Settings.model_validate({"endpoint_url": f"http://{address}", "access_key": "k", "secret_key": "s"}),
    )


@pytest.fixture
async def service(settings: Settings, store: MemoryStore) -> AsyncIterator[Service]:
    """The service with a LightGBM model in service."""
    async with running(settings, store) as service:
        await service.settle(promote(store, tiny_bundle(1, family="lightgbm"), epoch=1))
        yield service
