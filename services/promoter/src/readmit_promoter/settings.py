"""Settings of the promoter, from `PROMOTER_*` variables."""

from __future__ import annotations

from typing import Annotated

from pydantic import AnyHttpUrl, Field, FilePath
from pydantic_settings import BaseSettings

from readmit_chassis.settings import KafkaSettings, PostgresSettings, S3Settings, service_config


class Settings(BaseSettings):
    """Frozen; built once, in `__main__`."""

    model_config = service_config("PROMOTER_")

    host: str = "127.0.0.1"
    port: Annotated[int, Field(ge=1, le=65535)] = 30613
    kafka: KafkaSettings
    postgres: PostgresSettings
    s3: S3Settings
    mlflow_url: AnyHttpUrl
    policy_file: FilePath | None = None
    reconcile_interval_s: Annotated[float, Field(gt=0)] = 60.0
