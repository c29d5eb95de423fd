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
    outcome_rows: Annotated[int, Field(ge=100, le=20_000)] = 2_000
    min_outcomes: Annotated[int, Field(ge=50)] = 500
    max_auroc_loss: Annotated[float, Field(gt=0, lt=0.5)] = 0.03
    max_calibration_error: Annotated[float, Field(gt=0, lt=1)] = 0.03
    outcomes_after_days: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 30.0
    keep_answers_days: Annotated[float, Field(gt=0, le=3_650)] = 90.0
    evaluate_every_rows: Annotated[int, Field(ge=1)] = 200
    evaluate_every_s: Annotated[float, Field(gt=0)] = 10.0

    @model_validator(mode="after")
    def _window_can_be_judged(self) -> Settings:
        if self.min_rows > self.window_rows:
            raise ValueError("min_rows is more than window_rows: no window would ever be judged")
        if self.min_outcomes > self.outcome_rows:
            raise ValueError("min_outcomes is more than outcome_rows: no champion would ever be judged")
        if self.outcomes_after_days >= self.keep_answers_days:
            raise ValueError("outcomes_after_days is not less than keep_answers_days: nothing would be left to judge")
        return self
