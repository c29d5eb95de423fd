"""Settings of the ingestor, from `INGESTOR_*` variables."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from pydantic import Field
from pydantic_settings import BaseSettings

from readmit_chassis.settings import KafkaSettings, PostgresSettings, S3Settings, service_config

UCI_ARCHIVE = "https://archive.ics.uci.edu/static/public/296/diabetes+130-us+hospitals+for+years+1999-2008.zip"


class Settings(BaseSettings):
    """Frozen; built once, in `__main__`."""

    model_config = service_config("INGESTOR_")

    host: str = "127.0.0.1"
    port: Annotated[int, Field(ge=1, le=65535)] = 30611
    kafka: KafkaSettings
    postgres: PostgresSettings
    cache_dir: Annotated[Path, Field(description="where downloads are kept")]
    source_url: Annotated[str, Field(description="what the source `uci` stands for")] = UCI_ARCHIVE
    s3: Annotated[S3Settings | None, Field(description="where sources `s3://…` are; without it there are none")] = None
    max_source_bytes: Annotated[int, Field(ge=1, description="a larger file is refused, packed or not")] = 64 * 1024**3
    schedule_hours: Annotated[float, Field(ge=0, description="how often a source is asked for; 0 is never")] = 25
    schedule_source: Annotated[str, Field(min_length=1, description="which one")] = "uci"
    batch_rows: Annotated[int, Field(ge=100)] = 15_000
    max_bad_share: Annotated[float, Field(ge=0, le=1, description="more bad rows than this fail the ingestion")] = 0.05
    feedback_rows: Annotated[
        int, Field(ge=1, description="this many labelled encounters of training patients make a batch of feedback")
    ] = 15_000
