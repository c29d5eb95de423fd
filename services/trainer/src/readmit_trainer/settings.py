"""The trainer's settings, read from `TRAINER_…` variables."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator
from pydantic_settings import BaseSettings

from readmit_chassis.settings import KafkaSettings, PostgresSettings, S3Settings, service_config
from readmit_trainer.domain import FAMILIES, FamilyName


class Settings(BaseSettings):
    """One frozen object, built once in `__main__`."""

    model_config = service_config("TRAINER_")

    host: str = "127.0.0.1"
    port: Annotated[int, Field(ge=1, le=65535)] = 30612
    kafka: KafkaSettings
    postgres: PostgresSettings
    s3: S3Settings
    bucket: str = "mlflow-artifacts"
    mlflow_url: str
    families: Annotated[tuple[FamilyName, ...], Field(min_length=1)] = FAMILIES
    #: Threads of one fit.
    threads: Annotated[int, Field(ge=1)] = 2
    #: Share of the training patients that are used, chosen by a hash of the patient.
    sample_fraction: Annotated[float, Field(gt=0, le=1)] = 1.0
    #: Train on the rows of so many batches, the newest ones; none: on all batches 1..k. History reaches further back.
    window_batches: Annotated[int | None, Field(ge=1)] = None
    #: LightGBM goes on from its model of the batch before, and reads the batches since then alone.
    warm_start: bool = False
    #: Trials of the search for hyperparameters, per batch and family; 1: the family's starting point alone.
    search_trials: Annotated[int, Field(ge=1)] = 6
    #: No new trial begins after so many seconds of one search.
    search_seconds: Annotated[float, Field(ge=0)] = 600.0
    #: Share of the training patients whose history the model does not see, so that it knows what to say without one.
    hidden_history: Annotated[float, Field(ge=0, le=1)] = 0.3
    #: Whether race is a feature. It is kept for audit either way.
    include_race: bool = False
    #: A fit that takes more memory is killed, in MB of 1,000,000 bytes; none: no limit of ours.
    memory_limit_mb: Annotated[float | None, Field(gt=0)] = None
    #: Where LightGBM's fits run on a Dask cluster: `tcp://host:8786`, or `tls://…` with Dask's own settings for TLS.
    dask_scheduler: Annotated[str | None, Field(pattern=r"^(tcp|tls)://[^/]+:[0-9]+$")] = None
    #: What becomes of a batch when a newer one of the same dataset is there: `skip` trains on the newer one alone.
    superseded: Literal["train", "skip"] = "train"
    #: A fit that runs longer is killed; it counts as a failed attempt.
    timeout_s: Annotated[float, Field(gt=0)] = 3600.0
    #: A value gets a feature of its own when at least so many training rows hold it.
    min_value_rows: Annotated[int, Field(ge=1)] = 200
    #: What missing a readmission costs, a needless follow-up costing 1. The decision threshold follows from it.
    missed_readmission_cost: Annotated[float, Field(gt=0)] = 7.0

    @model_validator(mode="after")
    def _one_way_to_fit(self) -> Self:
        if self.warm_start and self.dask_scheduler is not None:
            raise ValueError("TRAINER_WARM_START and TRAINER_DASK_SCHEDULER exclude each other: set one of them")
        return self
