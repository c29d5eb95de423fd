"""Settings: fragments to nest, and a loader that turns a wrong environment into one readable message.

A service declares one frozen `BaseSettings` with `model_config = service_config("INGESTOR_")`; nested fragments are set
as `INGESTOR_KAFKA__BOOTSTRAP_SERVERS`. A secret may come as a file of its variable's name instead, as Compose and
Kubernetes mount them: `/run/secrets/INGESTOR_POSTGRES__PASSWORD` (elsewhere: `READMIT_SECRETS_DIR`). pydantic-settings
ignores a mistyped name silently, so `load_settings` checks for those itself.
"""

from __future__ import annotations

import difflib
import os
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, TypeVar, get_args

from pydantic import BaseModel, ConfigDict, Field, FilePath, SecretStr, ValidationError
from pydantic_settings import BaseSettings, SettingsConfigDict

#: Where Compose and Kubernetes mount secrets.
SECRETS_DIR = "/run/secrets"


class KafkaSettings(BaseModel):
    """Where the cluster is. `idempotent_producer` needs InitProducerId: Apache Kafka has it, small brokers lack it."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    bootstrap_servers: str
    idempotent_producer: bool = True


class PostgresSettings(BaseModel):
    """One role's way into one database."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    host: str
    port: Annotated[int, Field(ge=1, le=65535)] = 5432
    database: str
    user: str
    password: SecretStr

    def conninfo(self) -> str:
        """libpq connection string; holds the password, so never log it."""
        escaped = self.password.get_secret_value().replace("\\", "\\\\").replace("'", "\\'")
        return (
            f"host={self.host} port={self.port} dbname={self.database} user={self.user} password='{escaped}' "
            "connect_timeout=5"
        )


class S3Settings(BaseModel):
    """An S3 server and one key for it."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    endpoint_url: str
    access_key: str
    secret_key: SecretStr
    region: str = "us-east-1"


class TlsSettings(BaseModel):
    """A server's certificate (with its chain) and private key, as PEM files."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    cert_file: FilePath
    key_file: FilePath


def service_config(prefix: str) -> SettingsConfigDict:
    """The settings configuration of every service, with its own prefix."""
    return SettingsConfigDict(env_prefix=prefix, env_nested_delimiter="__", frozen=True, extra="ignore")


S = TypeVar("S", bound=BaseSettings)


def load_settings(settings_class: type[S]) -> S:
    """Build the settings from environment and secret files, or say on stderr what is wrong and exit with code 2.

    Where a variable and a file have the same name, the variable wins.
    """
    prefix = settings_class.model_config.get("env_prefix", "")
    folder = Path(os.environ.get("READMIT_SECRETS_DIR", SECRETS_DIR))
    files = {name: text for name, text in _secret_files(folder, prefix) if name not in os.environ}
    problems = [
        *_unknown(settings_class, os.environ, prefix),
        *_unknown(settings_class, files, prefix, f" in {folder}"),
    ]
    try:
        settings = settings_class(**_nested(files, prefix))
    except ValidationError as error:
        for problem in error.errors():
            variable = prefix + "__".join(str(part) for part in problem["loc"]).upper()
            if problem["type"] == "missing":
                problems += [f"{name}: not set" for name in _required(settings_class, prefix, variable) or [variable]]
            else:
                problems.append(f"{variable}: {problem['msg']}")
    else:
        if not problems:
            return settings
    print("The environment does not describe this service:", *problems, sep="\n  ", file=sys.stderr)  # noqa: T201
    sys.exit(2)


def _required(settings_class: type[BaseSettings], prefix: str, missing: str) -> list[str]:
    """The variables to set where a setting, or a whole fragment, is missing."""
    required = [name for name, needed in variables(settings_class, prefix) if needed]
    return [name for name in required if name == missing or name.startswith(f"{missing}__")]


def _secret_files(folder: Path, prefix: str) -> Iterator[tuple[str, str]]:
    for path in sorted(folder.glob(f"{prefix}*")):
        if path.is_file():
            yield path.name, path.read_text(encoding="utf-8").removesuffix("\n")


def _nested(files: Mapping[str, str], prefix: str) -> dict[str, Any]:
    """`{"INGESTOR_POSTGRES__PASSWORD": x}` as `{"postgres": {"password": x}}`."""
    tree: dict[str, Any] = {}
    for name, text in files.items():
        *groups, leaf = name.removeprefix(prefix).lower().split("__")
        branch = tree
        for group in groups:
            branch = branch.setdefault(group, {})
        branch[leaf] = text
    return tree


def _unknown(
    settings_class: type[BaseSettings], given: Mapping[str, str], prefix: str, where: str = ""
) -> Iterator[str]:
    known = {name for name, _ in variables(settings_class, prefix)}
    for name in given:
        if name.upper().startswith(prefix) and name.upper() not in known:
            close = difflib.get_close_matches(name.upper(), known, n=1)
            yield f"{name}{where}: no such setting" + (f"; did you mean {close[0]}?" if close else "")


def variables(model: type[BaseModel], prefix: str, *, optional: bool = False) -> Iterator[tuple[str, bool]]:
    """Every variable that the settings know, with nested ones, and whether it must be set.

    Those of a fragment that may be absent as a whole need not be.
    """
    for name, field in model.model_fields.items():
        variable = prefix + name.upper()
        nested = _fragment(field.annotation)
        if nested is not None:
            yield variable, False
            yield from variables(nested, variable + "__", optional=optional or not field.is_required())
        else:
            yield variable, field.is_required() and not optional


def _fragment(annotation: Any) -> type[BaseModel] | None:
    """The nested model of `Model` or `Model | None`."""
    for kind in (annotation, *get_args(annotation)):
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            return kind
    return None
