"""Whether a promotion has reached every pod, and whether a trial goes on: pure."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from pydantic import ValidationError

from readmit_contracts.events import ModelLoaded
from readmit_contracts.examples import EXAMPLES
from readmit_promoter.convergence import Arrival, Progress, pod_state, progress
from readmit_promoter.rollout_policy import CanaryStage, ConvergencePolicy, RolloutPolicy, ShadowStage, TrialLimits
from readmit_promoter.trial import Figures, assess

AT = datetime(2026, 11, 28, 12, tzinfo=UTC)
LOADED = next(example for example in EXAMPLES if isinstance(example, ModelLoaded))
POLICY = ConvergencePolicy(deadline_s=10, settle_s=0)
TRIAL = RolloutPolicy(
    trial=(
        ShadowStage(stage="shadow", at_least_s=10, at_least_answers=100, at_most_s=60),
        CanaryStage(stage="canary", share=0.2, at_least_s=10, at_least_answers=50, at_most_s=60),
    ),
    limits=TrialLimits(judged_from=50, refusing_pods=1),
)


def after(seconds: float, live: str, *arrivals: Arrival, policy: ConvergencePolicy = POLICY) -> Progress:
    """Pods with one-letter names, so many seconds after a promotion."""
    pods = [LOADED.model_copy(update={"pod_id": name}) for name in live]
    known = {arrival.pod_id: arrival for arrival in arrivals}
    return progress(7, AT, AT + timedelta(seconds=seconds), pods, known, policy)


def test_a_promotion_converges_when_every_live_pod_serves_it_and_tells_when() -> None:
    first, last = Arrival("a", 0.2, None), Arrival("b", 0.6, None)
    assert after(0.3, "ab", first).status == "converging"
    found = after(0.7, "ab", first, last)
    assert found.status == "converged"
    fact = found.fact()
    assert (fact.promotion_epoch, fact.converged, fact.pods) == (7, True, 2)
    assert (fact.first_s, fact.median_s, fact.last_s) == (0.2, pytest.approx(0.4), 0.6)


def test_a_pod_that_has_gone_is_not_waited_for_and_one_that_nobody_knew_counts() -> None:
    assert after(1, "a", Arrival("a", 0.2, None), Arrival("gone", 0.1, None)).status == "converged"
    assert after(1, "", Arrival("new", 0.2, None)).status == "converged"


def test_nobody_is_nothing_to_converge_and_nothing_to_take_back() -> None:
    assert after(3600, "").status == "converging"


def test_a_pod_that_does_not_serve_it_in_time_fails_it_and_is_named() -> None:
    found = after(10.1, "ab", Arrival("a", 0.2, None))
    assert (found.status, found.fact().missing, found.fact().converged) == ("failed", ("b",), False)


@pytest.mark.parametrize(("allowed", "status"), [(0, "failed"), (1, "converged")])
def test_pods_may_refuse_up_to_a_limit(allowed: int, status: str) -> None:
    policy = POLICY.model_copy(update={"refusing_pods": allowed})
    found = after(1, "ab", Arrival("a", 0.2, None), Arrival("b", 0.3, "digest"), policy=policy)
    assert found.status == status
    assert found.fact().refused == {"b": "digest"}


def test_it_has_to_stay_so_for_a_while() -> None:
    policy = POLICY.model_copy(update={"settle_s": 2.0})
    assert after(1.9, "a", Arrival("a", 0.2, None), policy=policy).status == "converging"
    assert after(2.2, "a", Arrival("a", 0.2, None), policy=policy).status == "converged"


@pytest.mark.parametrize(
    ("outcome", "epoch", "state"), [("serving", 7, "serving"), ("serving", 6, "behind"), ("refused", 7, "refused")]
)
def test_the_state_of_a_pod(outcome: str, epoch: int, state: str) -> None:
    assert pod_state(LOADED.model_copy(update={"outcome": outcome, "epoch": epoch}), 7) == state


def test_a_stage_goes_on_until_its_time_and_its_answers_are_there() -> None:
    enough = Figures(answers=100, mean_risk_difference=0.01)
    assert assess(TRIAL, 0, Figures(answers=99, mean_risk_difference=0.01), 30, 0).course == "stay"
    assert assess(TRIAL, 0, enough, 9, 0).course == "stay"
    assert assess(TRIAL, 0, enough, 10, 0).course == "next"


def test_a_canary_counts_what_the_challenger_answered() -> None:
    assert assess(TRIAL, 1, Figures(answers=400, by_challenger=49), 30, 0).course == "stay"
    assert assess(TRIAL, 1, Figures(answers=400, by_challenger=50), 30, 0).course == "next"


@pytest.mark.parametrize(
    ("figures", "says"),
    [
        (Figures(answers=49, failures=1), "failed on 1 of 50"),
        (Figures(answers=50, mean_risk_difference=-0.051), "mean difference of risk -0.0510"),
        (Figures(answers=50, changed_decisions=13), "13 of 50 decisions change"),
        (Figures(answers=50, mean_score_ms=5.1), "5.10 ms"),
    ],
)
def test_a_challenger_beyond_a_limit_fails_as_soon_as_there_is_enough_to_judge_by(figures: Figures, says: str) -> None:
    found = assess(TRIAL, 0, figures, 1, 0)
    assert found.course == "fail"
    assert says in found.why


def test_too_few_answers_are_nothing_to_judge_by() -> None:
    assert assess(TRIAL, 0, Figures(answers=49, changed_decisions=49), 1, 0).course == "stay"


def test_pods_that_refuse_the_challenger_end_its_trial() -> None:
    assert assess(TRIAL, 0, Figures(), 1, 1).course == "stay"
    assert assess(TRIAL, 0, Figures(), 1, 2).course == "fail"


def test_a_trial_that_nobody_asks_anything_ends() -> None:
    found = assess(TRIAL, 0, Figures(answers=3), 61, 0)
    assert (found.course, found.why) == ("fail", "3 answers in 61 s, 100 are needed")


def test_a_stage_that_the_policy_no_longer_has_ends_the_trial() -> None:
    assert assess(RolloutPolicy(), 0, Figures(answers=1000), 1000, 0).course == "fail"


@pytest.mark.parametrize(
    "wrong",
    [
        {"trial": [{"stage": "blue_green"}]},
        {"trial": [{"stage": "canary", "share": 1.0}]},
        {"trial": [{"stage": "canary"}]},
        {"approval": "sometimes"},
        {"convergence": {"deadline_s": 0}},
        {"reactions": {"drift": "panic"}},
        {"reactions": {"degradation": "panic"}},
        {"canary": []},
    ],
)
def test_what_a_policy_cannot_say(wrong: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        RolloutPolicy.model_validate(wrong)
