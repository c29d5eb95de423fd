"""What Airflow's processes get as environment, from our variables and secret files. Needs nothing but Python.

Airflow wants URLs with passwords inside and three keys; we have addresses, password files and one key.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from urllib.parse import quote

#: Argument of the image → Airflow's command.
ROLES: Mapping[str, tuple[str, ...]] = {
    "migrate": ("db", "migrate"),
    "api-server": ("api-server",),
    "scheduler": ("scheduler",),
    "dag-processor": ("dag-processor",),
    "triggerer": ("triggerer",),
    "worker": ("celery", "worker"),
    "flower": ("celery", "flower"),
}

_DATABASE = ("AIRFLOW_POSTGRES_HOST", "AIRFLOW_POSTGRES_DATABASE", "AIRFLOW_POSTGRES_USER", "AIRFLOW_POSTGRES_PASSWORD")
_REDIS = ("AIRFLOW_REDIS_HOST", "REDIS_PASSWORD")
_SECRETS = (
    "AIRFLOW_POSTGRES_PASSWORD",
    "AIRFLOW_SECRET_KEY",
    "AIRFLOW_ADMIN_PASSWORD",
    "REDIS_PASSWORD",
    "FLOWER_PASSWORD",
)
_API = "AIRFLOW__CORE__EXECUTION_API_SERVER_URL"
_KAFKA = "AIRFLOW_CONN_READMIT_KAFKA"


class Incomplete(Exception):  # noqa: N818  named for what is the case
    """Variables or secrets that a role needs are not there; the names are the arguments."""


def with_secret_files(environ: Mapping[str, str], folder: Path) -> dict[str, str]:
    """The environment and, where it lacks one, the secret that is a file of the variable's name."""
    files = {
        name: (folder / name).read_text(encoding="utf-8").removesuffix("\n")
        for name in _SECRETS
        if name not in environ and (folder / name).is_file()
    }
    return {**files, **environ}


def airflow_environment(role: str, given: Mapping[str, str]) -> dict[str, str]:
    """`given` and what Airflow reads. Raises `Incomplete` with every name that is missing or empty."""
    missing = [name for name in dict.fromkeys(required(role, given)) if not given.get(name)]
    if missing:
        raise Incomplete(*missing)
    made = {}
    if role != "flower":
        database = _database_url(given)
        made["AIRFLOW__DATABASE__SQL_ALCHEMY_CONN"] = f"postgresql+psycopg2://{database}"
        made["AIRFLOW__CELERY__RESULT_BACKEND"] = f"db+postgresql+psycopg2://{database}"
        made["AIRFLOW__CORE__FERNET_KEY"] = derived_key(given["AIRFLOW_SECRET_KEY"], "fernet")
        made["AIRFLOW__API_AUTH__JWT_SECRET"] = derived_key(given["AIRFLOW_SECRET_KEY"], "tokens")
        made["AIRFLOW__API__SECRET_KEY"] = derived_key(given["AIRFLOW_SECRET_KEY"], "sessions")
    if (role == "flower" or _is_celery(given)) and all(given.get(name) for name in _REDIS):
        made["AIRFLOW__CELERY__BROKER_URL"] = _redis_url(given)
    if role == "flower":  # it has no database; Airflow insists on one, and would make it beside its configuration
        made["AIRFLOW__DATABASE__SQL_ALCHEMY_CONN"] = f"sqlite:///{tempfile.gettempdir()}/flower.db"
        made["AIRFLOW__CELERY__FLOWER_BASIC_AUTH"] = f"admin:{given['FLOWER_PASSWORD']}"
    return {**given, **made}


def required(role: str, given: Mapping[str, str]) -> Iterator[str]:
    """The variables, or secrets of that name, without which the role can't do its job."""
    if role == "flower":
        yield from (*_REDIS, "FLOWER_PASSWORD")
        return
    yield from (*_DATABASE, "AIRFLOW_SECRET_KEY")
    if role == "migrate":
        yield "AIRFLOW_ADMIN_PASSWORD"
    if role in {"scheduler", "worker", "triggerer"}:
        yield _API
    if role == "worker" or (role == "scheduler" and not _is_celery(given)):
        yield _KAFKA
    if role == "worker" or (role == "scheduler" and _is_celery(given)):
        yield from _REDIS


def derived_key(secret: str, purpose: str) -> str:
    """One key per purpose from one secret: HMAC-SHA-256 in URL-safe base64, which is what Fernet takes."""
    return base64.urlsafe_b64encode(hmac.digest(secret.encode(), purpose.encode(), hashlib.sha256)).decode()


def _is_celery(given: Mapping[str, str]) -> bool:
    return "CeleryExecutor" in given.get("AIRFLOW__CORE__EXECUTOR", "")


def _database_url(given: Mapping[str, str]) -> str:
    user, password, database = (
        quote(given[f"AIRFLOW_POSTGRES_{part}"], safe="") for part in ("USER", "PASSWORD", "DATABASE")
    )
    return f"{user}:{password}@{given['AIRFLOW_POSTGRES_HOST']}:{given.get('AIRFLOW_POSTGRES_PORT') or 5432}/{database}"


def _redis_url(given: Mapping[str, str]) -> str:
    password = quote(given["REDIS_PASSWORD"], safe="")
    return f"redis://:{password}@{given['AIRFLOW_REDIS_HOST']}:{given.get('AIRFLOW_REDIS_PORT') or 6379}/0"
