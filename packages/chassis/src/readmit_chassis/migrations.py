"""Numbered SQL files, applied once each, in order, in one transaction, by one process at a time."""

from __future__ import annotations

import hashlib
import time
from importlib import resources

import psycopg
import structlog
from psycopg import sql

from readmit_chassis.failures import Transient

log = structlog.get_logger()

_PLUMBING = """
CREATE TABLE IF NOT EXISTS {schema}.migrations (
    name text PRIMARY KEY, sha256 text NOT NULL, applied_at timestamptz NOT NULL DEFAULT now()
);
CREATE TABLE IF NOT EXISTS {schema}.outbox (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    topic text NOT NULL, key text NOT NULL, headers jsonb NOT NULL, payload jsonb NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now()
);
CREATE TABLE IF NOT EXISTS {schema}.inbox (
    consumer text NOT NULL, event_id uuid NOT NULL, seen_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (consumer, event_id)
);
"""


def apply_migrations(conninfo: str, schema: str, package: str, wait_s: float = 60.0) -> None:
    """Bring the role's schema up to date with `package/migrations/NNNN_name.sql`.

    Waits up to `wait_s` seconds for the database. Raises RuntimeError when a file that was applied has changed since.
    """
    with _connect(conninfo, wait_s) as connection, connection.transaction():
        connection.execute("SELECT pg_advisory_xact_lock(hashtext(%s))", (f"{schema}.migrations",))
        connection.execute(sql.SQL(_PLUMBING).format(schema=sql.Identifier(schema)))
        table = sql.Identifier(schema, "migrations")
        rows = connection.execute(sql.SQL("SELECT name, sha256 FROM {}").format(table)).fetchall()
        applied = {str(name): str(digest) for name, digest in rows}
        folder = resources.files(package) / "migrations"
        for file in sorted((f for f in folder.iterdir() if f.name.endswith(".sql")), key=lambda f: f.name):
            text = file.read_text(encoding="utf-8")
            digest = hashlib.sha256(text.encode()).hexdigest()
            if file.name in applied:
                if applied[file.name] != digest:
                    raise RuntimeError(f"{schema}: {file.name} changed after it was applied; add a new file instead")
                continue
            connection.execute(text.encode())
            connection.execute(
                sql.SQL("INSERT INTO {} (name, sha256) VALUES (%s, %s)").format(table), (file.name, digest)
            )
            log.info("migration_applied", schema=schema, name=file.name)


def _connect(conninfo: str, wait_s: float) -> psycopg.Connection[tuple[object, ...]]:
    deadline = time.monotonic() + wait_s
    while True:
        try:
            return psycopg.connect(conninfo, autocommit=True)
        except psycopg.OperationalError as error:
            if time.monotonic() >= deadline or "authentication failed" in str(error):
                raise Transient(f"database not reachable: {error}") from error
            log.warning("database_unreachable", error=str(error).strip())
            time.sleep(0.5)
