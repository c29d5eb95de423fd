"""Settings of the promoter, from `PROMOTER_*` variables."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from pydantic import AnyHttpUrl, BeforeValidator, Field
from pydantic_settings import BaseSettings

from readmit_chassis.settings import KafkaSettings, PostgresSettings, S3Settings, service_config


def _none_if_empty(text: object) -> object:
    return text or None  # Compose sets a variable to nothing where it is not to be set


class Settings(BaseSettings):
    """Frozen; built once, in `__main__`."""

    model_config = service_config("PROMOTER_")

    host: str = "127.0.0.1"
    port: Annotated[int, Field(ge=1, le=65535)] = 30613
    kafka: KafkaSettings
    postgres: PostgresSettings
    s3: S3Settings
    mlflow_url: AnyHttpUrl
    reconcile_interval_s: Annotated[float, Field(gt=0)] = 60.0
    #: What a promotion takes; without it, the policy that comes with the service.
    policy_file: Annotated[Path | None, BeforeValidator(_none_if_empty)] = None
    #: Who may change something. Without keys nobody may.
    api_keys_file: Annotated[Path | None, BeforeValidator(_none_if_empty)] = None
    #: Whether who shows no key may read.
    open_reading: bool = True
