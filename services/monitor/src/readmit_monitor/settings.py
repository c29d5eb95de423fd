"""Settings of the monitor, from `MONITOR_*` variables."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, model_validator
from pydantic_settings import BaseSettings

from readmit_chassis.settings import KafkaSettings, PostgresSettings, service_config


class Settings(BaseSettings):
    """Frozen; built once, in `__main__`."""

    model_config = service_config("MONITOR_")

    host: str = "127.0.0.1"
    port: Annotated[int, Field(ge=1, le=65535)] = 30614
    kafka: KafkaSettings
    postgres: PostgresSettings
    window_rows: Annotated[int, Field(ge=100, le=20_000)] = 2_000
    min_rows: Annotated[int, Field(ge=50)] = 500
    evaluate_every_rows: Annotated[int, Field(ge=1)] = 200
    evaluate_every_s: Annotated[float, Field(gt=0)] = 10.0

    @model_validator(mode="after")
    def _window_can_be_judged(self) -> Settings:
        if self.min_rows > self.window_rows:
            raise ValueError("min_rows is more than window_rows: no window would ever be judged")
        return self
