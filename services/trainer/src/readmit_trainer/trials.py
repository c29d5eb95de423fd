"""Trials of searches that are not over: kept in `training.search_trials`, so that a search that was cut off goes on."""

from __future__ import annotations

from typing import Protocol
from uuid import UUID

import psycopg
from psycopg.types.json import Jsonb

from readmit_trainer.errors import PartAway
from readmit_trainer.search import Trial


class TrialShelf(Protocol):
    """The trials of one job's search."""

    def known(self) -> list[Trial]: ...

    def keep(self, trial: Trial) -> None: ...


class NoShelf:
    """Keeps nothing: for a search that nobody will resume."""

    def known(self) -> list[Trial]:
        """None."""
        return []

    def keep(self, trial: Trial) -> None:
        """Forgotten."""


class PostgresShelf:
    """One job's trials by one feature spec; another spec means other rows, whose trials say nothing here.

    Raises PartAway while the database is away.
    """

    def __init__(self, conninfo: str, job_id: UUID, spec_sha256: str) -> None:
        self._conninfo = conninfo
        self._key = (job_id, spec_sha256)

    def known(self) -> list[Trial]:
        """All trials so far, in order."""
        try:
            with psycopg.connect(self._conninfo) as connection:
                rows = connection.execute(
                    "SELECT number, params, losses, state, seconds, settled FROM training.search_trials"
                    " WHERE job_id = %s AND feature_spec_sha256 = %s ORDER BY number",
                    self._key,
                ).fetchall()
        except psycopg.OperationalError as error:
            raise PartAway(f"database not reachable: {error}", "database_away") from error
        trials = [Trial(n, params, tuple(losses), state, s, settled) for n, params, losses, state, s, settled in rows]
        return [trial for place, trial in enumerate(trials) if trial.number == place]

    def keep(self, trial: Trial) -> None:
        """Written at once; the same trial again changes nothing."""
        try:
            with psycopg.connect(self._conninfo) as connection:
                connection.execute(
                    "INSERT INTO training.search_trials"
                    " (job_id, feature_spec_sha256, number, params, losses, state, seconds, settled)"
                    " VALUES (%s, %s, %s, %s, %s, %s, %s, %s) ON CONFLICT DO NOTHING",
                    (
                        *self._key, trial.number, Jsonb(dict(trial.params)), list(trial.losses), trial.state,
                        trial.seconds, Jsonb(dict(trial.settled)),
                    ),
                )  # fmt: skip
        except psycopg.OperationalError as error:
            raise PartAway(f"database not reachable: {error}", "database_away") from error
