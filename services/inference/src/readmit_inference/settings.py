"""What the process is told from outside; see the table in the README."""

from __future__ import annotations

import re
import socket
from pathlib import Path
from typing import Annotated

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, SecretStr
from pydantic_settings import BaseSettings, NoDecode

from readmit_chassis.settings import KafkaSettings, S3Settings, TlsSettings, service_config

_ORIGIN = re.compile(r"\*|https?://[^/\s,]+")
_ISSUER = re.compile(r"https://\S+|http://(127\.0\.0\.1|\[::1\]|localhost)(:\d+)?(/\S*)?")


def _words(text: object) -> object:
    return tuple(text.replace(",", " ").split()) if isinstance(text, str) else text


def _origin(text: str) -> str:
    if not _ORIGIN.fullmatch(text):
        raise ValueError(f"{text}: write an origin as https://host or https://host:port, without a path, or *")
    return text


def _issuer(text: str) -> str:
    if not _ISSUER.fullmatch(text):
        raise ValueError("write the issuer as https://…, exactly as its tokens name it")
    return text


def _none_if_empty(text: object) -> object:
    return text or None  # Compose sets a variable to nothing where it is not to be set


class OidcSettings(BaseModel):
    """An issuer of tokens (OpenID Connect) that is trusted, and what its tokens must be for."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    issuer: Annotated[str, AfterValidator(_issuer)]
    audience: str = Field(min_length=1)
    #: The issuer's keys, where they are not to be fetched from it.
    jwks_file: Path | None = None


class RateSettings(BaseModel):
    """What each client without a limit of its own may ask of a pod; all together where nobody must say who they are."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    requests_per_s: float = Field(gt=0, allow_inf_nan=False)
    burst: int = Field(ge=1)


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
    #: How often the pod says that it lives, and with which model.
    heartbeat_s: float = Field(default=5.0, gt=0)
    log_predictions: bool = True
    log_capacity: int = Field(default=10_000, ge=1)
    #: Short keys can be guessed, and with the key every patient's number.
    pseudonym_key: SecretStr | None = Field(default=None, min_length=16)
    #: Who may ask. Without keys and issuer everybody may.
    api_keys_file: Annotated[Path | None, BeforeValidator(_none_if_empty)] = None
    oidc: OidcSettings | None = None
    rate: RateSettings | None = None
    #: The origins whose pages may ask from a browser.
    cors_origins: Annotated[tuple[Annotated[str, AfterValidator(_origin)], ...], NoDecode, BeforeValidator(_words)] = ()
    tls: TlsSettings | None = None
