"""Settings: fragments to nest, and a loader that turns a wrong environment into one readable message.

A service declares one frozen `BaseSettings` with `model_config = service_config("INGESTOR_")`; nested fragments are set
as `INGESTOR_KAFKA__BOOTSTRAP_SERVERS`. pydantic-settings ignores a mistyped variable silently, so `load_settings`
checks for those itself.
"""

from __future__ import annotations

import difflib
import os
import sys
from collections.abc import Iterator, Mapping
from typing import Annotated, TypeVar

from pydantic import BaseModel, ConfigDict, Field, SecretStr, ValidationError
from pydantic_settings import BaseSettings, SettingsConfigDict


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


def service_config(prefix: str) -> SettingsConfigDict:
    """The settings configuration of every service, with its own prefix."""
    return SettingsConfigDict(env_prefix=prefix, env_nested_delimiter="__", frozen=True, extra="ignore")


S = TypeVar("S", bound=BaseSettings)


def load_settings(settings_class: type[S]) -> S:
    """Build the settings from the environment, or say on stderr what is wrong with it and exit with code 2."""
    prefix = settings_class.model_config.get("env_prefix", "")
    problems = list(_unknown_variables(settings_class, os.environ, prefix))
    try:
        settings = settings_class()
    except ValidationError as error:
        for problem in error.errors():
            variable = prefix + "__".join(str(part) for part in problem["loc"]).upper()
            problems.append(f"{variable}: {'not set' if problem['type'] == 'missing' else problem['msg']}")
    else:
        if not problems:
            return settings
    print("The environment does not describe this service:", *problems, sep="\n  ", file=sys.stderr)  # noqa: T201
    sys.exit(2)


def _unknown_variables(settings_class: type[BaseSettings], environ: Mapping[str, str], prefix: str) -> Iterator[str]:
    known = {name for name, _ in variables(settings_class, prefix)}
    for name in environ:
        if name.upper().startswith(prefix) and name.upper() not in known:
            close = difflib.get_close_matches(name.upper(), known, n=1)
            yield f"{name}: no such setting" + (f"; did you mean {close[0]}?" if close else "")


def variables(model: type[BaseModel], prefix: str) -> Iterator[tuple[str, bool]]:
    """Every variable that the settings know, with nested ones, and whether it must be set."""
    for name, field in model.model_fields.items():
        variable = prefix + name.upper()
        nested = field.annotation
        if isinstance(nested, type) and issubclass(nested, BaseModel):
            yield variable, False
            yield from variables(nested, variable + "__")
        else:
            yield variable, field.is_required()
