"""Whether a challenger's trial goes on, goes to its next stage, or has failed. Pure."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Literal

from readmit_promoter.rollout_policy import CanaryStage, RolloutPolicy

Course = Literal["stay", "next", "fail"]


@dataclass(frozen=True, slots=True)
class Figures:
    """What both models said of the encounters of a stage, from `prediction.made`.

    `answers`: encounters that both were asked about. `by_challenger`: those that the challenger answered.
    """

    answers: int = 0
    by_challenger: int = 0
    failures: int = 0  #: encounters that the challenger failed on
    mean_risk_difference: float | None = None  #: challenger less champion
    changed_decisions: int = 0  #: encounters on whose alert they differ
    mean_score_ms: float | None = None  #: of the challenger

    def document(self) -> dict[str, Any]:
        """For the ledger."""
        return asdict(self)


@dataclass(frozen=True, slots=True)
class Assessment:
    """What to do, and why."""

    course: Course
    why: str


def assess(policy: RolloutPolicy, position: int, figures: Figures, elapsed_s: float, refusing: int) -> Assessment:
    """`position`: of the stage in the policy; `refusing`: live pods that refuse the challenger."""
    if position >= len(policy.trial):
        return Assessment("fail", "the policy no longer has this stage")
    if wrong := _beyond_limits(policy, figures, refusing):
        return Assessment("fail", wrong)
    stage = policy.trial[position]
    counted = figures.by_challenger if isinstance(stage, CanaryStage) else figures.answers
    if elapsed_s >= stage.at_least_s and counted >= stage.at_least_answers:
        return Assessment("next", f"{stage.stage}: {_said(figures)}")
    if elapsed_s > stage.at_most_s:
        return Assessment("fail", f"{counted} answers in {elapsed_s:.0f} s, {stage.at_least_answers} are needed")
    return Assessment("stay", f"{stage.stage}: {counted} of {stage.at_least_answers} answers, {elapsed_s:.0f} s")


def _beyond_limits(policy: RolloutPolicy, figures: Figures, refusing: int) -> str | None:
    limits = policy.limits
    if refusing > limits.refusing_pods:
        return f"{refusing} pods refuse the challenger, {limits.refusing_pods} may"
    asked = figures.answers + figures.failures
    if asked < limits.judged_from:
        return None
    difference, changed, score_ms = figures.mean_risk_difference, figures.changed_decisions, figures.mean_score_ms
    wrong = None
    if figures.failures > limits.failures * asked:
        wrong = f"the challenger failed on {figures.failures} of {asked} encounters"
    elif difference is not None and abs(difference) > limits.mean_risk_difference:
        wrong = f"mean difference of risk {difference:+.4f}, beyond {limits.mean_risk_difference}"
    elif changed > limits.changed_decisions * figures.answers:
        wrong = f"{changed} of {figures.answers} decisions change, beyond {limits.changed_decisions:.0%}"
    elif score_ms is not None and score_ms > limits.score_ms:
        wrong = f"{score_ms:.2f} ms an encounter, more than {limits.score_ms}"
    return wrong


def _said(figures: Figures) -> str:
    difference = figures.mean_risk_difference or 0.0
    return (
        f"{figures.answers} answers, mean difference of risk {difference:+.4f},"
        f" {figures.changed_decisions} decisions changed"
    )
