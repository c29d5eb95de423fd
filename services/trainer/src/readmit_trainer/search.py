"""The search for hyperparameters: patient-grouped cross-validation on the training rows, within a budget.

Seeded trial by trial, so that a search which is resumed goes on as if it had never stopped. A trial that falls behind
the median of the others after any of its folds is pruned.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import optuna
from optuna.distributions import BaseDistribution

from readmit_trainer.families.fitted import SEED, Family, Params

_STATES = {"complete": optuna.trial.TrialState.COMPLETE, "pruned": optuna.trial.TrialState.PRUNED}

#: Trials before pruning begins.
_UNPRUNED = 3


@dataclass(frozen=True, slots=True)
class Trial:
    """One point of the search. `losses`: mean log loss of each held-out fold that was scored, in nats.

    `settled` are the parameters for a fit on all rows.
    """

    number: int
    params: Params
    losses: tuple[float, ...]
    state: Literal["complete", "pruned"]
    seconds: float
    settled: Params

    @property
    def value(self) -> float | None:
        """Mean over all folds; None when the trial was pruned."""
        return sum(self.losses) / len(self.losses) if self.state == "complete" else None


@dataclass(frozen=True, slots=True)
class Budget:
    """At most so many trials, and no new one after so many seconds; the first is always made."""

    trials: int
    seconds: float


def search(
    family: Family,
    folds: int,
    budget: Budget,
    *,
    known: Sequence[Trial] = (),
    keep: Callable[[Trial], None] = lambda _: None,
    tell: Callable[[int, int], None] = lambda _done, _total: None,
) -> tuple[Trial, ...]:
    """All trials, in order; the first is the family's starting point. `known` are those of a search that was cut off.

    `keep` is called with each new trial, `tell` with how many are done of how many.
    """
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = optuna.create_study(pruner=optuna.pruners.MedianPruner(n_startup_trials=_UNPRUNED))
    made = [*known]
    space = _space(family)
    for trial in made:
        study.add_trial(_frozen(trial, space))
    deadline = time.monotonic() + budget.seconds
    while len(made) < budget.trials and (not made or time.monotonic() < deadline):
        study.sampler = optuna.samplers.TPESampler(seed=SEED + len(made), n_startup_trials=4)
        if not made:
            study.enqueue_trial(dict(family.start))
        trial = _attempt(study, family, folds, len(made))
        made.append(trial)
        keep(trial)
        tell(len(made), budget.trials)
    return tuple(made)


def best(trials: Sequence[Trial]) -> Trial:
    """The complete trial of the lowest loss, the earlier of two equal ones."""
    return min((t.value, t.number, t) for t in trials if t.value is not None)[2]


def _attempt(study: optuna.Study, family: Family, folds: int, number: int) -> Trial:
    started = time.perf_counter()
    running = study.ask()
    params = family.suggest(running)
    losses: list[float] = []
    settled: list[Params] = []
    pruned = False
    for held_out in range(folds):
        score = family.score_fold(params, held_out)
        losses.append(score.loss)
        settled.append(score.params)
        running.report(sum(losses) / len(losses), held_out)
        if held_out + 1 < folds and running.should_prune():
            pruned = True
            break
    seconds = time.perf_counter() - started
    state: Literal["complete", "pruned"] = "pruned" if pruned else "complete"
    trial = Trial(number, params, tuple(losses), state, seconds, family.settle(params, settled))
    study.tell(running, trial.value, state=_STATES[state])
    return trial


def _space(family: Family) -> Mapping[str, BaseDistribution]:
    """The search space, found by asking for a point of a study that is thrown away."""
    trial = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=SEED)).ask()
    family.suggest(trial)
    return trial.distributions


def _frozen(trial: Trial, space: Mapping[str, BaseDistribution]) -> optuna.trial.FrozenTrial:
    means = np.cumsum(trial.losses) / np.arange(1, len(trial.losses) + 1)
    return optuna.trial.create_trial(
        state=_STATES[trial.state],
        value=trial.value,
        params=dict(trial.params),
        distributions=dict(space),
        intermediate_values=dict(enumerate(means.tolist())),
    )
