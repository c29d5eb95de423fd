"""Roles, databases and schemas of a PostgreSQL server: the SQL of `infra/postgres`, the same everywhere."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType

import psycopg
from psycopg import sql

from readmit_local.assets import asset
from readmit_local.errors import LocalError
from readmit_local.secret_files import secret_file

#: Everybody who logs in; the names are those of `01-roles.sql`.
ROLES = (
    "readmit_ingestor", "readmit_trainer", "readmit_promoter", "readmit_monitor", "readmit_mlflow", "readmit_airflow",
    "readmit_viewer", "readmit_analyst",
)  # fmt: skip
#: Each database and who owns it; None is the superuser.
DATABASES: Mapping[str, str | None] = MappingProxyType(
    {"readmit": None, "mlflow": "readmit_mlflow", "airflow": "readmit_airflow"}
)


@dataclass(frozen=True, slots=True)
class Server:
    """A PostgreSQL server and its superuser."""

    host: str
    port: int
    password: str = field(repr=False)
    user: str = "postgres"

    def conninfo(self, database: str) -> str:
        """libpq connection string; holds the password."""
        return psycopg.conninfo.make_conninfo(
            host=self.host, port=self.port, user=self.user, password=self.password, dbname=database, connect_timeout=5
        )


async def prepare_database(server: Server, passwords: Mapping[str, str]) -> None:
    """Make what is missing of roles, databases, schemas and rights, and give each role its password of now.

    `passwords` has one for each of `ROLES`. Safe to repeat, also with other passwords. Raises `psycopg.Error`.
    """
    async with await psycopg.AsyncConnection.connect(server.conninfo("postgres"), autocommit=True) as connection:
        # Held until the connection ends: two that start at once take turns.
        await connection.execute("SELECT pg_advisory_lock(hashtext('readmit.database'))")
        await connection.execute(_file("01-roles.sql"))
        for role in ROLES:
            await _set_password(connection, role, passwords[role])
        rows = await connection.execute("SELECT datname FROM pg_database")
        there = {str(name) for (name,) in await rows.fetchall()}
        for database, owner in DATABASES.items():
            if database not in there:
                statement = sql.SQL("CREATE DATABASE {}").format(sql.Identifier(database))
                if owner is not None:
                    statement += sql.SQL(" OWNER {}").format(sql.Identifier(owner))
                await connection.execute(statement)
        async with await psycopg.AsyncConnection.connect(server.conninfo("readmit"), autocommit=True) as inside:
            await inside.execute(_file("02-schemas.sql"))


async def wait_for_server(server: Server, wait_s: float) -> None:
    """Return once the superuser can log in. Raises `LocalError` after `wait_s`, or at once when it is refused."""
    deadline = asyncio.get_running_loop().time() + wait_s
    while True:
        try:
            connection = await psycopg.AsyncConnection.connect(server.conninfo("postgres"))
        except psycopg.OperationalError as error:
            said = str(error).strip().splitlines()[0]
            if "authentication failed" in said:
                raise LocalError(f"{server.host}:{server.port} refuses {server.user}: {said}") from error
            if asyncio.get_running_loop().time() >= deadline:
                raise LocalError(f"no PostgreSQL at {server.host}:{server.port} after {wait_s:g} s: {said}") from error
            await asyncio.sleep(0.5)
        else:
            await connection.close()
            return


def passwords_from(folder: Path) -> dict[str, str]:
    """The roles' passwords out of secret files: that of `readmit_trainer` in `trainer_postgres_password`."""
    return {role: secret_file(folder, f"{role.removeprefix('readmit_')}_postgres_password") for role in ROLES}


async def _set_password(connection: psycopg.AsyncConnection[tuple[object, ...]], role: str, password: str) -> None:
    # Hashed here, so that no log of the server can hold the password.
    hashed = connection.pgconn.encrypt_password(password.encode(), role.encode(), b"scram-sha-256")
    await connection.execute(
        sql.SQL("ALTER ROLE {} PASSWORD {}").format(sql.Identifier(role), sql.Literal(hashed.decode()))
    )


def _file(name: str) -> bytes:
    return asset(f"postgres/{name}").read_bytes()
