"""What the process is told from outside; see the table in the README."""

from __future__ import annotations

import socket
from pathlib import Path

from pydantic import Field, SecretStr
from pydantic_settings import BaseSettings

from readmit_chassis.settings import KafkaSettings, S3Settings, service_config


class Settings(BaseSettings):
    """Environment of the inference service (prefix `INFERENCE_`)."""

    model_config = service_config("INFERENCE_")

    host: str = "127.0.0.1"
    port: int = Field(default=30601, ge=1, le=65535)
    pod_id: str = Field(default_factory=socket.gethostname, min_length=1)
    cache_dir: Path
    kafka: KafkaSettings
    s3: S3Settings
    max_body_bytes: int = Field(default=64 * 1024, ge=1024)
    max_batch_bytes: int = Field(default=1024**3, ge=1024)
    #: A stay as FHIR resources is some hundred times the size of its fields.
    max_fhir_body_bytes: int = Field(default=1024 * 1024, ge=1024)
    body_timeout_s: float = Field(default=10.0, gt=0)
    #: Of what has come at once, what cannot be answered within this time is turned away (503).
    shed_after_s: float = Field(default=0.5, gt=0)
    log_predictions: bool = True
    log_capacity: int = Field(default=10_000, ge=1)
    #: Short keys can be guessed, and with the key every patient's number.
    pseudonym_key: SecretStr | None = Field(default=None, min_length=16)
