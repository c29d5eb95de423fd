"""The search: within its budget, pruned, seeded, resumed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, ClassVar
from uuid import UUID, uuid4

import numpy as np
import pytest
from psycopg_pool import AsyncConnectionPool

from readmit_chassis.failures import Transient
from readmit_trainer.families import BY_NAME, Family, TrainingRows
from readmit_trainer.families.fitted import Fitted, FoldScore, Params
from readmit_trainer.search import Budget, Trial, best, search
from readmit_trainer.trials import PostgresShelf

if TYPE_CHECKING:
    import optuna

FOLDS = 4
ROOMY = Budget(trials=12, seconds=600.0)


class Parabola:
    """A family whose loss is known: (x - 2)^2 + 1 in every fold, and the number of folds that were fitted."""

    start: ClassVar[Params] = {"x": 5.0}

    def __init__(self, _: TrainingRows | None = None) -> None:
        self.fitted = 0

    def suggest(self, trial: optuna.Trial) -> Params:
        return {"x": trial.suggest_float("x", -10.0, 10.0)}

    def score_fold(self, params: Params, held_out: int) -> FoldScore:
        self.fitted += 1
        return FoldScore((float(params["x"]) - 2.0) ** 2 + 1.0, {**params, "held_out": held_out})

    def settle(self, params: Params, folds: Sequence[Params]) -> Params:
        return {**params, "folds": len(folds)}

    def fit(self, params: Params) -> Fitted:
        raise NotImplementedError


def what(trials: Sequence[Trial]) -> list[tuple[Any, ...]]:
    """Everything about trials but how long they took."""
    return [(t.number, t.params, t.losses, t.state, t.settled) for t in trials]


def test_it_begins_at_the_familys_start_and_gets_better_within_its_trials() -> None:
    trials = search(Parabola(), FOLDS, ROOMY)
    assert len(trials) == 12
    assert trials[0].params == {"x": 5.0}
    assert trials[0].value == 10.0
    found = best(trials)
    assert found.value is not None
    assert found.value < 3.0
    assert found.settled == {**found.params, "folds": FOLDS}


def test_hopeless_trials_are_pruned_and_never_the_best() -> None:
    family = Parabola()
    trials = search(family, FOLDS, ROOMY)
    pruned = [trial for trial in trials if trial.state == "pruned"]
    assert pruned
    assert all(trial.value is None and len(trial.losses) < FOLDS for trial in pruned)
    assert family.fitted == sum(len(trial.losses) for trial in trials) < FOLDS * len(trials)
    assert best(trials).state == "complete"


def test_the_same_search_gives_the_same_trials_and_a_resumed_one_goes_on_as_if_it_had_not_stopped() -> None:
    whole = search(Parabola(), FOLDS, ROOMY)
    assert what(search(Parabola(), FOLDS, ROOMY)) == what(whole)
    for stopped in range(len(whole)):
        kept: list[Trial] = []
        resumed = search(Parabola(), FOLDS, ROOMY, known=whole[:stopped], keep=kept.append)
        assert what(resumed) == what(whole)
        assert what(kept) == what(whole[stopped:])


def test_without_time_there_is_one_trial() -> None:
    assert len(search(Parabola(), FOLDS, Budget(trials=50, seconds=0.0))) == 1


def test_progress_counts_trials() -> None:
    told: list[tuple[int, int]] = []
    search(Parabola(), FOLDS, Budget(3, 60.0), tell=lambda done, total: told.append((done, total)))
    assert told == [(1, 3), (2, 3), (3, 3)]


@pytest.mark.parametrize("name", list(BY_NAME))
def test_every_familys_start_lies_in_its_search_space(name: Any) -> None:
    random = np.random.default_rng(1)
    rows = random.integers(0, 5, (400, 3)).astype(float)
    data = TrainingRows(rows, random.random(400) < 0.1 + 0.1 * rows[:, 0], np.arange(400) % FOLDS, FOLDS, 1)
    family: Family = BY_NAME[name](data)
    trials = search(family, FOLDS, Budget(2, 60.0))
    assert trials[0].params == family.start
    assert all(np.isfinite(loss) for trial in trials for loss in trial.losses)
    assert family.fit(best(trials).settled).importances.shape == (3,)


@pytest.fixture
async def job(pool: AsyncConnectionPool) -> UUID:
    """A job that trials can belong to."""
    job_id = uuid4()
    async with pool.connection() as connection:
        await connection.execute(
            "INSERT INTO training.jobs (job_id, dataset_version, batch, family, family_rank, code_version, event,"
            " headers) VALUES (%s, 1, 1, 'lightgbm', 0, 'test', '{}', '{}')",
            (job_id,),
        )
    return job_id


@pytest.mark.stack
def test_trials_survive_in_the_database_for_their_job_and_spec_alone(server: str, job: UUID) -> None:
    trials = search(Parabola(), FOLDS, Budget(4, 60.0))
    shelf = PostgresShelf(server, job, "a" * 64)
    for trial in (*trials, trials[0]):
        shelf.keep(trial)
    assert tuple(PostgresShelf(server, job, "a" * 64).known()) == trials
    assert PostgresShelf(server, job, "b" * 64).known() == []


def test_a_database_that_is_away_postpones_the_search() -> None:
    shelf = PostgresShelf("host=127.0.0.1 port=1", uuid4(), "a" * 64)
    with pytest.raises(Transient, match="database not reachable"):
        shelf.known()
