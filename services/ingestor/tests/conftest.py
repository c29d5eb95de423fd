"""A PostgreSQL with the ingestor's tables, a database of its own for each test."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any
from uuid import uuid4

import psycopg
import pytest

from readmit_chassis.migrations import apply_migrations
from readmit_ingestor import store


@pytest.fixture(scope="session")
def postgres() -> Iterator[str]:
    """The superuser's connection string of a server."""
    from readmit_chassis.testing import postgres_server  # noqa: PLC0415  needs the testing extra, which not all have

    with postgres_server() as conninfo:
        yield conninfo


@pytest.fixture
def database(postgres: str) -> Iterator[psycopg.Connection[Any]]:
    """An autocommit connection to a fresh database."""
    name = f"t{uuid4().hex[:12]}"
    with psycopg.connect(postgres, autocommit=True) as admin:
        admin.execute(f"CREATE DATABASE {name}".encode())
    conninfo = postgres.replace("dbname=postgres", f"dbname={name}")
    with psycopg.connect(conninfo, autocommit=True) as connection:
        connection.execute("CREATE SCHEMA raw_data")
        connection.execute("CREATE SCHEMA clean_data")
        apply_migrations(conninfo, store.SCHEMA, "readmit_ingestor")
        yield connection
