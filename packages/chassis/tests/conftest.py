"""Real parts for the chassis: a PostgreSQL, a broker, and services' packages of migrations."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from uuid import uuid4

import psycopg
import pytest

from readmit_chassis.migrations import apply_migrations
from readmit_chassis.testing import embedded_kafka, postgres_server

#: Writes `package/migrations` of the given name from SQL by file name; a revision for each unless told otherwise.
WritePackage = Callable[[str, dict[str, str]], Path]


@pytest.fixture(scope="session")
def database() -> Iterator[str]:
    with postgres_server() as conninfo:
        yield conninfo


@pytest.fixture(scope="session")
def kafka() -> Iterator[str]:
    with embedded_kafka() as bootstrap_servers:
        yield bootstrap_servers


@pytest.fixture
def write_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> WritePackage:
    monkeypatch.syspath_prepend(str(tmp_path))

    def write(name: str, files: dict[str, str]) -> Path:
        folder = tmp_path / name / "migrations"
        folder.mkdir(parents=True, exist_ok=True)
        (folder.parent / "__init__.py").touch()
        before: str | None = None
        for stem, text in files.items():
            (folder / f"{stem}.sql").write_text(text)
            (folder / f"{stem}.py").write_text(
                f"from readmit_chassis.migrations import run_sql\n"
                f"revision = {stem!r}\ndown_revision = {before!r}\n"
                f"def upgrade() -> None:\n    run_sql(__file__)\n"
            )
            before = stem
        return folder

    return write


@pytest.fixture
def empty_schema(database: str) -> str:
    """A schema of its own, with nothing in it."""
    name = f"s{uuid4().hex[:8]}"
    with psycopg.connect(database, autocommit=True) as connection:
        connection.execute(f"CREATE SCHEMA {name}".encode())
    return name


@pytest.fixture
def schema(database: str, empty_schema: str, write_package: WritePackage) -> str:
    """A schema with outbox and inbox, migrated from a package of its own."""
    write_package(empty_schema, {"0001_effects": f"CREATE TABLE {empty_schema}.effects (number int);"})
    apply_migrations(database, empty_schema, empty_schema)
    return empty_schema
