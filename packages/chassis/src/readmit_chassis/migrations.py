"""Migrations: numbered SQL files, which Alembic applies in order, in one transaction, by one process at a time.

A service keeps `migrations/NNNN_name.sql` and beside it `NNNN_name.py`, an Alembic revision of the same name that runs
the file (`run_sql`). Alembic's version table stands in the service's own schema; `migrations` beside it remembers each
file's digest. There is no way down: what is wrong is mended by a new file.
"""

from __future__ import annotations

import hashlib
import threading
import time
from collections.abc import Callable
from importlib import resources
from pathlib import Path
from typing import Any

import psycopg
import structlog
from alembic import op
from alembic.config import Config
from alembic.runtime.environment import EnvironmentContext
from alembic.runtime.migration import MigrationContext, MigrationInfo, MigrationStep
from alembic.script import ScriptDirectory
from alembic.util import CommandError
from psycopg import sql
from sqlalchemy import StaticPool, create_engine
from sqlalchemy.exc import DBAPIError

from readmit_chassis.failures import Transient

log = structlog.get_logger()

_Database = psycopg.Connection[tuple[Any, ...]]

#: Alembic keeps the name of the newest revision in a column of this length.
_NAME_LIMIT = 32

#: `alembic.op`, which the revisions speak to, is one object per process.
_alembic_in_use = threading.Lock()

_PLUMBING = """
CREATE TABLE IF NOT EXISTS {schema}.migrations (
    name text PRIMARY KEY, sha256 text NOT NULL, applied_at timestamptz NOT NULL DEFAULT now()
);
CREATE TABLE IF NOT EXISTS {schema}.outbox (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    topic text NOT NULL, key text NOT NULL, headers jsonb NOT NULL, payload jsonb NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now()
);
DO $$
BEGIN  -- asked first: the ALTER would wait for every open transaction with an event in it, and the next ones behind it
    IF NOT EXISTS (SELECT FROM pg_attribute WHERE attrelid = {outbox}::regclass AND attname = 'held_until') THEN
        ALTER TABLE {schema}.outbox
            ADD COLUMN attempts integer NOT NULL DEFAULT 0,
            ADD COLUMN error text,
            ADD COLUMN held_until timestamptz;
        CREATE INDEX outbox_held ON {schema}.outbox (topic, key, id) WHERE held_until IS NOT NULL;
    END IF;
END
$$;
CREATE TABLE IF NOT EXISTS {schema}.inbox (
    consumer text NOT NULL, event_id uuid NOT NULL, seen_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (consumer, event_id)
);
"""


def apply_migrations(conninfo: str, schema: str, package: str, wait_s: float = 60.0) -> None:
    """Bring the role's schema up to date with `package/migrations`, wholly or not at all.

    Waits up to `wait_s` seconds for the database, then raises `Transient`. Raises RuntimeError when the files are no
    chain or one that was applied has changed since, and `psycopg.Error` when PostgreSQL refuses a statement.
    """
    script, digests = _read_chain(Path(str(resources.files(package) / "migrations")))
    with _connect(conninfo, wait_s) as database, _alembic_in_use:
        engine = create_engine("postgresql+psycopg://", creator=lambda: database, poolclass=StaticPool)
        environment = EnvironmentContext(Config(), script, fn=lambda heads, _: _steps(script, heads))
        try:
            with engine.begin() as connection, environment:
                database.execute("SELECT pg_advisory_xact_lock(hashtext(%s))", (f"{schema}.migrations",))
                database.execute(_plumbing(schema))
                environment.configure(
                    connection=connection,
                    version_table_schema=schema,
                    on_version_apply=_remembering(database, schema, digests),
                )
                if _is_behind(environment.get_context(), script, schema, digests, _applied(database, schema)):
                    environment.run_migrations()
        except DBAPIError as error:
            if error.orig is None:
                raise
            raise error.orig from error


def _plumbing(schema: str) -> sql.Composed:
    outbox = sql.Literal(sql.Identifier(schema, "outbox").as_string())
    return sql.SQL(_PLUMBING).format(schema=sql.Identifier(schema), outbox=outbox)


def run_sql(revision_file: str) -> None:
    """Run the SQL file beside a revision, which passes its `__file__`, as it stands: nothing in it is interpreted."""
    text = Path(revision_file).with_suffix(".sql").read_text(encoding="utf-8")
    op.get_bind().exec_driver_sql(text, execution_options={"no_parameters": True})


def revision_rows(query: str) -> list[dict[str, Any]]:
    """What a query finds, for a revision that carries rows over in Python."""
    return [dict(row) for row in op.get_bind().exec_driver_sql(query).mappings()]


def revision_execute(statement: str, parameters: dict[str, Any] | None = None) -> None:
    """Run one statement of such a revision; parameters as `%(name)s`."""
    op.get_bind().exec_driver_sql(statement, parameters or {})


def _read_chain(folder: Path) -> tuple[ScriptDirectory, dict[str, str]]:
    """The revisions, and the digests of their files by name, oldest first. Raises RuntimeError if they are no chain."""
    names = sorted(file.stem for file in folder.glob("*.sql"))
    script = ScriptDirectory(folder, version_locations=[folder])
    try:
        found = [(Path(one.path).stem, one.revision, one.down_revision) for one in script.walk_revisions()][::-1]
    except (CommandError, KeyError) as error:  # the latter: it follows a file that is not there
        raise RuntimeError(f"{folder}: {error!r}") from error
    expected = [(name, name, before) for name, before in zip(names, [None, *names], strict=False)]
    if found != expected or any(len(name) > _NAME_LIMIT for name in names):
        raise RuntimeError(
            f"{folder}: each NNNN_name.sql needs a NNNN_name.py with its name (at most {_NAME_LIMIT} characters) as"
            f" `revision` and the one before as `down_revision`; expected {expected}, found {found}"
        )
    return script, {name: hashlib.sha256((folder / f"{name}.sql").read_bytes()).hexdigest() for name in names}


def _steps(script: ScriptDirectory, heads: Any) -> list[MigrationStep]:
    """What leads from the database's revision to the newest one."""
    missing = list(script.iterate_revisions("heads", heads or "base"))
    return [MigrationStep.upgrade_from_script(script.revision_map, revision) for revision in reversed(missing)]


def _applied(database: _Database, schema: str) -> dict[str, str]:
    """The digests of the files that this schema has had, by name."""
    query = sql.SQL("SELECT name, sha256 FROM {} ORDER BY name").format(sql.Identifier(schema, "migrations"))
    return {str(name).removesuffix(".sql"): str(digest) for name, digest in database.execute(query)}


def _remembering(database: _Database, schema: str, digests: dict[str, str]) -> Callable[..., None]:
    """What Alembic calls after each file, in the same transaction."""
    statement = sql.SQL("INSERT INTO {} (name, sha256) VALUES (%s, %s)").format(sql.Identifier(schema, "migrations"))

    def remember(*, step: MigrationInfo, **_: Any) -> None:
        name = str(step.up_revision_id)
        database.execute(statement, (f"{name}.sql", digests[name]))
        log.info("migration_applied", schema=schema, name=name)

    return remember


def _is_behind(
    context: MigrationContext, script: ScriptDirectory, schema: str, digests: dict[str, str], applied: dict[str, str]
) -> bool:
    """Whether files may be missing; takes over what the runner before Alembic has done. RuntimeError: they disagree."""
    for name, digest in digests.items():
        if applied.get(name, digest) != digest:
            raise RuntimeError(f"{schema}: {name}.sql changed after it was applied; add a new file instead")
    revision = context.get_current_revision()
    if revision is None and applied:
        if list(applied) != list(digests)[: len(applied)]:
            raise RuntimeError(f"{schema}: applied were {list(applied)}, which is no beginning of {list(digests)}")
        context.stamp(script, list(applied)[-1])
        log.info("migrations_taken_over", schema=schema, names=list(applied))
    elif revision is not None and revision not in digests:
        if not applied.keys() >= digests.keys():
            raise RuntimeError(f"{schema}: stands at {revision}, which is not among the files, and lacks some of them")
        # An older image after or beside a newer one. All its files are there, and a later one keeps what it needs.
        log.warning("schema_newer_than_code", schema=schema, revision=revision)
        return False
    return bool(digests)


def _connect(conninfo: str, wait_s: float) -> _Database:
    deadline = time.monotonic() + wait_s
    while True:
        try:
            return psycopg.connect(conninfo)
        except psycopg.OperationalError as error:
            if time.monotonic() >= deadline or "authentication failed" in str(error):
                raise Transient(f"database not reachable: {error}") from error
            log.warning("database_unreachable", error=str(error).strip())
            time.sleep(0.5)
