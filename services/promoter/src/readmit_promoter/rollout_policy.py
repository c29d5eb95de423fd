"""What the policy says of the way from an accepted candidate to every pod, and of what happens by itself."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from readmit_contracts.events import Probability
from readmit_promoter.part import Part

Action = Literal["retrain", "rollback", "alert"]
Seconds = Annotated[float, Field(ge=0, allow_inf_nan=False)]


class ShadowStage(Part):
    """The champion answers; the challenger's answers to the same encounters are logged and compared."""

    stage: Literal["shadow"]
    at_least_s: Seconds = 300.0
    at_least_answers: Annotated[int, Field(ge=1, le=10_000)] = 500
    at_most_s: Annotated[float, Field(gt=0, description="with fewer answers by then, the trial has failed")] = 86_400.0

    @property
    def share(self) -> float:
        """Of the patients whom the challenger answers."""
        return 0.0


class CanaryStage(Part):
    """The challenger answers for a share of the patients."""

    stage: Literal["canary"]
    share: Annotated[float, Field(gt=0, lt=1)]
    at_least_s: Seconds = 300.0
    at_least_answers: Annotated[int, Field(ge=1, le=10_000, description="of the challenger")] = 200
    at_most_s: Annotated[float, Field(gt=0, description="with fewer answers by then, the trial has failed")] = 86_400.0


TrialStage = Annotated[ShadowStage | CanaryStage, Field(discriminator="stage")]


class TrialLimits(Part):
    """What ends a trial early, once `judged_from` answers are there. Differences are challenger less champion."""

    judged_from: Annotated[int, Field(ge=1)] = 100
    mean_risk_difference: Probability = 0.05
    changed_decisions: Annotated[Probability, Field(description="share of encounters on whose alert they differ")] = (
        0.25
    )
    failures: Annotated[Probability, Field(description="share of encounters that the challenger fails on")] = 0.0
    score_ms: Annotated[float, Field(gt=0, description="mean time of the challenger for one encounter")] = 5.0
    refusing_pods: Annotated[int, Field(ge=0, description="pods that may refuse to load it")] = 0


class ConvergencePolicy(Part):
    """When a promotion that does not reach the pods is taken back."""

    deadline_s: Annotated[float, Field(gt=0)] = 60.0
    settle_s: Annotated[
        float,
        Field(ge=0, description="how long it has to stay so: a pod without a model is not known before it has one"),
    ] = 2.0
    refusing_pods: Annotated[int, Field(ge=0, description="pods that may refuse it")] = 0
    roll_back: bool = True


class Reactions(Part):
    """What happens by itself to a champion that serves."""

    drift: Annotated[Action, Field(description="served patients differ from those that models were trained on")] = (
        "alert"
    )
    degradation: Annotated[
        Action, Field(description="known outcomes show that the champion does worse than it was promoted for")
    ] = "alert"
    retrain_at_most_every_s: Annotated[Seconds, Field(description="whatever the cause")] = 86_400.0


class RolloutPolicy(Part):
    """From acceptance to convergence. Without `trial`, an accepted candidate is promoted at once.

    A first champion, and a real one after a synthetic one, have no champion to be tried beside: they skip the trial.
    """

    approval: Literal["automatic", "manual"] = "automatic"
    trial: tuple[TrialStage, ...] = ()
    limits: TrialLimits = TrialLimits()
    convergence: ConvergencePolicy = ConvergencePolicy()
    reactions: Reactions = Reactions()
