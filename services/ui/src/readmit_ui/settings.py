"""What the process is told from outside; see the table in the README."""

from __future__ import annotations

from pydantic import Field, SecretStr
from pydantic_settings import BaseSettings

from readmit_chassis.settings import service_config


class Settings(BaseSettings):
    """Environment of the UI (prefix `UI_`): where it listens, and where the services' REST faces are."""

    model_config = service_config("UI_")

    host: str = "127.0.0.1"
    port: int = Field(default=30602, ge=1, le=65535)
    inference_url: str = "http://127.0.0.1:30601"
    ingestor_url: str = "http://127.0.0.1:30611"
    trainer_url: str = "http://127.0.0.1:30612"
    promoter_url: str = "http://127.0.0.1:30613"
    monitor_url: str = "http://127.0.0.1:30614"
    #: What inference knows this page by, where it asks.
    inference_api_key: SecretStr | None = Field(default=None, min_length=1)
    #: With the role approver: whoever can open the page can then approve candidates and roll back.
    promoter_api_key: SecretStr | None = Field(default=None, min_length=1)
    timeout_s: float = Field(default=5.0, gt=0)
    refresh_s: float = Field(default=5.0, ge=1)
