"""Real parts for the chassis: a PostgreSQL, and each kind of broker."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from readmit_chassis.testing import embedded_kafka, postgres_server


@pytest.fixture(scope="session")
def database() -> Iterator[str]:
    with postgres_server() as conninfo:
        yield conninfo


@pytest.fixture(scope="session")
def kafka() -> Iterator[str]:
    with embedded_kafka() as bootstrap_servers:
        yield bootstrap_servers
