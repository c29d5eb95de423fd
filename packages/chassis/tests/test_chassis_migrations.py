"""Migrations on a real PostgreSQL: each file once, in order, all or nothing, one process at a time."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, LiteralString
from uuid import uuid4

import psycopg
import pytest
from structlog.testing import capture_logs

from readmit_chassis.failures import Transient
from readmit_chassis.migrations import apply_migrations
from readmit_chassis.testing import free_port

pytestmark = pytest.mark.stack

WritePackage = Callable[[str, dict[str, str]], Path]


@pytest.fixture
def own(database: str, empty_schema: str) -> str:
    """The database as the owner of the empty schema sees it."""
    return within(database, empty_schema)


def within(database: str, schema: str) -> str:
    return f"{database} options='-c search_path={schema}'"


def rows(own: str, query: LiteralString) -> list[tuple[Any, ...]]:
    with psycopg.connect(own) as connection:
        return connection.execute(query).fetchall()


def first(count: int) -> dict[str, str]:
    """The first `count` of a chain in which each file needs the one before."""
    add = "INSERT INTO numbers SELECT max(number) + 1 FROM numbers;"
    chain = {
        "0001_numbers": "CREATE TABLE numbers (number int PRIMARY KEY); INSERT INTO numbers VALUES (1);",
        "0002_second": add,
        "0003_third": add,
    }
    return dict(list(chain.items())[:count])


def test_files_are_applied_once_each_in_order_and_the_version_stands_in_the_services_own_schema(
    own: str, empty_schema: str, write_package: WritePackage
) -> None:
    write_package(empty_schema, first(2))
    apply_migrations(own, empty_schema, empty_schema)
    apply_migrations(own, empty_schema, empty_schema)
    assert rows(own, "SELECT number FROM numbers ORDER BY 1") == [(1,), (2,)]
    assert rows(own, "SELECT version_num FROM alembic_version") == [("0002_second",)]
    write_package(empty_schema, first(3))
    apply_migrations(own, empty_schema, empty_schema)
    assert rows(own, "SELECT number FROM numbers ORDER BY 1") == [(1,), (2,), (3,)]
    assert rows(own, "SELECT name FROM migrations ORDER BY 1") == [
        ("0001_numbers.sql",), ("0002_second.sql",), ("0003_third.sql",),
    ]  # fmt: skip
    assert rows(own, "SELECT count(*) FROM outbox, inbox") == [(0,)]


def test_nothing_in_a_file_of_sql_is_interpreted(own: str, empty_schema: str, write_package: WritePackage) -> None:
    text = """
        CREATE TABLE texts (text text);
        DO $$
        DECLARE share integer := 50;
        BEGIN
            INSERT INTO texts VALUES (share || '% :share %s %(name)s {braces} \\d');
        END
        $$;
    """
    write_package(empty_schema, {"0001_texts": text})
    apply_migrations(own, empty_schema, empty_schema)
    assert rows(own, "SELECT text FROM texts") == [("50% :share %s %(name)s {braces} \\d",)]


def test_a_file_that_fails_leaves_nothing_of_itself_nor_of_those_before_it(
    own: str, empty_schema: str, write_package: WritePackage
) -> None:
    write_package(empty_schema, {**first(2), "0003_wrong": "SELECT 1; SELECT nonsense;"})
    with pytest.raises(psycopg.errors.UndefinedColumn, match="nonsense"):
        apply_migrations(own, empty_schema, empty_schema)
    assert rows(own, "SELECT tablename FROM pg_tables WHERE schemaname = current_schema") == []
    write_package(empty_schema, first(2) | {"0003_wrong": "SELECT 1;"})
    apply_migrations(own, empty_schema, empty_schema)
    assert rows(own, "SELECT count(*) FROM numbers") == [(2,)]


def test_processes_that_start_at_once_apply_each_file_once(
    own: str, empty_schema: str, write_package: WritePackage
) -> None:
    folder = write_package(empty_schema, first(3))
    code = "import sys; from readmit_chassis.migrations import apply_migrations; apply_migrations(*sys.argv[1:])"
    command = [sys.executable, "-c", code, own, empty_schema, empty_schema]
    environment = os.environ | {"PYTHONPATH": str(folder.parents[1])}
    processes = [subprocess.Popen(command, env=environment) for _ in range(3)]
    assert [process.wait(60) for process in processes] == [0, 0, 0]
    assert rows(own, "SELECT number FROM numbers ORDER BY 1") == [(1,), (2,), (3,)]


def test_two_schemas_migrated_at_once_in_one_process_do_not_mix(database: str, write_package: WritePackage) -> None:
    schemas = [f"s{uuid4().hex[:8]}" for _ in range(2)]
    for schema in schemas:
        write_package(schema, first(3))
        with psycopg.connect(database) as connection:
            connection.execute(f"CREATE SCHEMA {schema}".encode())
    with ThreadPoolExecutor(2) as threads:
        list(threads.map(lambda schema: apply_migrations(within(database, schema), schema, schema), schemas))
    for schema in schemas:
        assert rows(within(database, schema), "SELECT count(*) FROM numbers") == [(3,)]


def migrated_before_alembic(own: str, files: dict[str, str]) -> None:
    """What the runner that Readmit had before Alembic left in a database."""
    with psycopg.connect(own) as connection:
        connection.execute(
            "CREATE TABLE migrations"
            " (name text PRIMARY KEY, sha256 text NOT NULL, applied_at timestamptz NOT NULL DEFAULT now())"
        )
        connection.execute(
            "CREATE TABLE outbox (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, topic text NOT NULL,"
            " key text NOT NULL, headers jsonb NOT NULL, payload jsonb NOT NULL,"
            " created_at timestamptz NOT NULL DEFAULT now())"
        )
        connection.execute("INSERT INTO outbox (topic, key, headers, payload) VALUES ('t', 'k', '{}', '{}')")
        for stem, text in files.items():
            connection.execute(text.encode())
            connection.execute(
                "INSERT INTO migrations (name, sha256) VALUES (%s, %s)",
                (f"{stem}.sql", hashlib.sha256(text.encode()).hexdigest()),
            )


@pytest.mark.parametrize("applied", [1, 2, 3])
def test_a_database_migrated_before_alembic_is_taken_over_and_gets_only_what_it_lacks(
    own: str, empty_schema: str, write_package: WritePackage, applied: int
) -> None:
    migrated_before_alembic(own, first(applied))
    write_package(empty_schema, first(3))
    apply_migrations(own, empty_schema, empty_schema)
    assert rows(own, "SELECT number FROM numbers ORDER BY 1") == [(1,), (2,), (3,)]
    assert rows(own, "SELECT version_num FROM alembic_version") == [("0003_third",)]
    assert rows(own, "SELECT count(*) FROM migrations") == [(3,)]
    assert rows(own, "SELECT topic, attempts, error, held_until FROM outbox") == [("t", 0, None, None)]


def test_a_database_whose_past_is_another_one_is_not_taken_over(
    own: str, empty_schema: str, write_package: WritePackage
) -> None:
    migrated_before_alembic(own, {"0001_numbers": "SELECT 1;", "0002_other": "SELECT 2;"})
    write_package(empty_schema, {**first(3), "0001_numbers": "SELECT 1;"})
    with pytest.raises(RuntimeError, match="no beginning of"):
        apply_migrations(own, empty_schema, empty_schema)


def test_a_file_that_changed_after_it_was_applied_is_refused(
    own: str, empty_schema: str, write_package: WritePackage
) -> None:
    write_package(empty_schema, first(1))
    apply_migrations(own, empty_schema, empty_schema)
    write_package(empty_schema, {"0001_numbers": "SELECT 1;"})
    with pytest.raises(RuntimeError, match=r"0001_numbers\.sql changed after it was applied"):
        apply_migrations(own, empty_schema, empty_schema)


def test_an_image_older_than_the_database_starts_and_changes_nothing(
    own: str, empty_schema: str, write_package: WritePackage
) -> None:
    folder = write_package(empty_schema, first(3))
    apply_migrations(own, empty_schema, empty_schema)
    for newer in folder.glob("0003_third.*"):
        newer.unlink()
    apply_migrations(own, empty_schema, empty_schema)
    assert rows(own, "SELECT version_num FROM alembic_version") == [("0003_third",)]
    assert rows(own, "SELECT count(*) FROM numbers") == [(3,)]
    write_package(empty_schema, {**first(2), "0003_another": "SELECT 1;"})
    with pytest.raises(RuntimeError, match="stands at 0003_third, which is not among the files"):
        apply_migrations(own, empty_schema, empty_schema)


def revision(name: str, before: str | None) -> str:
    return f"revision = {name!r}\ndown_revision = {before!r}\ndef upgrade() -> None: ...\n"


@pytest.mark.parametrize(
    "wrong",
    [
        {"0003_third.sql": "SELECT 1;"},
        {"0003_third.py": revision("0003_third", "0002_second")},
        {"0003_third.sql": "SELECT 1;", "0003_third.py": revision("0003_third", "0001_numbers")},
        {"0003_third.sql": "SELECT 1;", "0003_third.py": revision("0003_third", None)},
        {"0003_third.sql": "SELECT 1;", "0003_third.py": revision("0003_other", "0002_second")},
        {"0003_third.sql": "SELECT 1;", "0003_third.py": revision("0003_third", "0002_missing")},
        {f"0003_{'x' * 28}.sql": "SELECT 1;", f"0003_{'x' * 28}.py": revision(f"0003_{'x' * 28}", "0002_second")},
    ],
    ids=["no revision", "no SQL", "two heads", "two beginnings", "other name", "gap", "name too long"],
)
@pytest.mark.filterwarnings("ignore:Revision 0002_missing referenced")
def test_files_that_are_no_chain_are_refused_before_the_database_is_asked(
    write_package: WritePackage, wrong: dict[str, str]
) -> None:
    package = f"p{uuid4().hex[:8]}"
    folder = write_package(package, first(2))
    for name, text in wrong.items():
        (folder / name).write_text(text)
    with pytest.raises(RuntimeError, match=r"0003_|0002_missing"):
        apply_migrations("host=127.0.0.1 port=1", "anything", package, wait_s=0)


def test_a_database_that_lets_nobody_in_yet_is_waited_for(
    database: str, empty_schema: str, write_package: WritePackage
) -> None:
    write_package(empty_schema, first(3))
    admin = psycopg.connect(database, autocommit=True)
    admin.execute(f"CREATE DATABASE {empty_schema} ALLOW_CONNECTIONS false".encode())
    starting = f"{database} dbname={empty_schema}"
    with admin, ThreadPoolExecutor(1) as thread, capture_logs() as logs:
        migrating = thread.submit(apply_migrations, starting, "public", empty_schema)
        deadline = time.monotonic() + 20
        while not any(entry["event"] == "database_unreachable" for entry in logs) and time.monotonic() < deadline:
            time.sleep(0.02)
        admin.execute(f"ALTER DATABASE {empty_schema} ALLOW_CONNECTIONS true".encode())
        migrating.result(20)
    assert [entry["event"] for entry in logs].count("migration_applied") == 3
    assert logs[0]["event"] == "database_unreachable"


def test_a_database_that_stays_away_is_an_outage(empty_schema: str, write_package: WritePackage) -> None:
    write_package(empty_schema, first(1))
    with pytest.raises(Transient, match="database not reachable"):
        apply_migrations(f"host=127.0.0.1 port={free_port()} user=postgres", empty_schema, empty_schema, wait_s=0)


def test_a_package_that_nobody_may_write_to_is_read_all_the_same(
    own: str, empty_schema: str, write_package: WritePackage
) -> None:
    folder = write_package(empty_schema, first(2))
    before = sorted(folder.iterdir())
    code = "import sys; from readmit_chassis.migrations import apply_migrations; apply_migrations(*sys.argv[1:])"
    environment = os.environ | {"PYTHONPATH": str(folder.parents[1]), "PYTHONDONTWRITEBYTECODE": "1"}
    folder.chmod(0o555)
    try:
        subprocess.run(
            [sys.executable, "-c", code, own, empty_schema, empty_schema], env=environment, check=True, timeout=60
        )
        assert sorted(folder.iterdir()) == before
    finally:
        folder.chmod(0o755)
    assert rows(own, "SELECT count(*) FROM numbers") == [(2,)]
