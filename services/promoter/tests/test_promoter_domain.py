"""The rules of promotion, on evidence in memory."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

from readmit_promoter.domain import Contender, Policy, Reason, Verdict, decide
from readmit_promoter.evidence import Evidence


@pytest.fixture
def evidence(cohort: Callable[..., dict[str, np.ndarray]]) -> Callable[..., Evidence]:
    def make(noise: float, digest: str = "a", **options: int) -> Evidence:
        arrays = cohort(noise, **options)
        return Evidence(digest * 64, arrays["row"], arrays["patient"], arrays["label"] == 1, arrays["risk"])

    return make


def judged(candidate: Evidence, champion: Contender | None, policy: Policy, *, synthetic: bool = False) -> Verdict:
    return decide(champion, candidate, synthetic=synthetic, policy=policy)


def indifferent(candidate: Evidence) -> Evidence:
    """The same patients, all at the same risk."""
    return replace(candidate, risk=np.full_like(candidate.risk, 0.3))


def test_the_first_candidate_that_discriminates_becomes_champion(
    evidence: Callable[..., Evidence], quick_policy: Policy
) -> None:
    verdict = judged(evidence(1.0), None, quick_policy)
    assert (verdict.reason, verdict.outcome) == (Reason.FIRST_CHAMPION, "promoted")
    assert verdict.auroc is not None
    assert 0.5 < verdict.auroc.low < verdict.auroc.point < verdict.auroc.high


def test_a_first_candidate_that_guesses_is_rejected(evidence: Callable[..., Evidence], quick_policy: Policy) -> None:
    verdict = judged(indifferent(evidence(1.0)), None, quick_policy)
    assert (verdict.reason, verdict.outcome) == (Reason.NO_DISCRIMINATION, "rejected")


def test_a_clearly_better_candidate_replaces_the_champion(
    evidence: Callable[..., Evidence], quick_policy: Policy
) -> None:
    verdict = judged(evidence(0.5, "b"), Contender(evidence(3.0), synthetic=False), quick_policy)
    assert verdict.reason is Reason.BEATS_CHAMPION
    assert verdict.common_rows == 600
    assert verdict.difference is not None
    assert verdict.difference.low > 0


@pytest.mark.parametrize(("noise", "seed"), [(3.0, 0), (1.0, 1), (1.0, 0)], ids=["worse", "as good", "the same"])
def test_a_candidate_that_is_not_better_beyond_noise_is_rejected(
    evidence: Callable[..., Evidence], quick_policy: Policy, noise: float, seed: int
) -> None:
    champion = Contender(evidence(1.0), synthetic=False)
    verdict = judged(evidence(noise, "b", seed=seed), champion, quick_policy)
    assert (verdict.reason, verdict.outcome) == (Reason.NOT_BETTER, "rejected")


def test_synthetic_never_replaces_real_however_good(evidence: Callable[..., Evidence], quick_policy: Policy) -> None:
    champion = Contender(evidence(3.0), synthetic=False)
    verdict = judged(evidence(0.1, "b"), champion, quick_policy, synthetic=True)
    assert verdict.reason is Reason.SYNTHETIC_NEVER_REPLACES_REAL


def test_real_replaces_synthetic_when_it_discriminates(evidence: Callable[..., Evidence], quick_policy: Policy) -> None:
    """Even where it looks worse: the two were scored on different rows, of which the synthetic ones mean nothing."""
    champion = Contender(evidence(0.1), synthetic=True)
    assert judged(evidence(1.0, "b", first_row=600), champion, quick_policy).reason is Reason.REAL_REPLACES_SYNTHETIC
    assert judged(indifferent(evidence(1.0, "b")), champion, quick_policy).reason is Reason.NO_DISCRIMINATION


def test_too_few_common_rows_are_insufficient_evidence(evidence: Callable[..., Evidence], quick_policy: Policy) -> None:
    champion = Contender(evidence(3.0), synthetic=False)
    verdict = judged(evidence(0.1, "b", first_row=550), champion, quick_policy)
    assert (verdict.reason, verdict.common_rows) == (Reason.INSUFFICIENT_EVIDENCE, 50)


def test_rows_on_whose_outcome_the_two_disagree_are_not_paired(
    evidence: Callable[..., Evidence], quick_policy: Policy
) -> None:
    champion = evidence(1.0)
    champion.label[:40] = ~champion.label[:40]
    verdict = judged(evidence(0.1, "b"), Contender(champion, synthetic=False), quick_policy)
    assert verdict.common_rows == 560


@pytest.mark.parametrize("label", [0, 1])
def test_labels_of_one_class_are_insufficient_evidence(
    evidence: Callable[..., Evidence], quick_policy: Policy, label: int
) -> None:
    candidate = evidence(1.0)
    candidate.label[:] = bool(label)
    verdict = judged(candidate, None, quick_policy)
    assert (verdict.reason, verdict.auroc) == (Reason.INSUFFICIENT_EVIDENCE, None)


def test_many_rows_of_few_patients_are_insufficient_evidence(
    evidence: Callable[..., Evidence], quick_policy: Policy
) -> None:
    candidate = evidence(1.0)
    candidate.patient[:] %= np.uint64(quick_policy.min_patients_per_class - 1)
    assert judged(candidate, None, quick_policy).reason is Reason.INSUFFICIENT_EVIDENCE


def test_no_evidence_at_all_is_insufficient(evidence: Callable[..., Evidence], quick_policy: Policy) -> None:
    assert judged(evidence(1.0, rows=0), None, quick_policy).reason is Reason.INSUFFICIENT_EVIDENCE


def test_a_champion_whose_evidence_is_lost_stays(evidence: Callable[..., Evidence], quick_policy: Policy) -> None:
    verdict = judged(evidence(0.1), Contender(None, synthetic=False), quick_policy)
    assert verdict.reason is Reason.INSUFFICIENT_EVIDENCE


def test_a_decision_can_be_derived_again_exactly(evidence: Callable[..., Evidence], quick_policy: Policy) -> None:
    champion = Contender(evidence(1.5), synthetic=False)
    assert judged(evidence(1.0, "b"), champion, quick_policy) == judged(evidence(1.0, "b"), champion, quick_policy)


def test_fifteen_thousand_rows_are_judged_in_seconds(evidence: Callable[..., Evidence]) -> None:
    """The policy in force; some 0.7 s of processor time on a laptop, and the floor is 2 s."""
    champion = Contender(evidence(3.0, rows=15_000), synthetic=False)
    candidate = evidence(1.0, "b", rows=15_000)
    started = time.process_time()
    assert judged(candidate, champion, Policy()).promoted
    assert time.process_time() - started < 4.0
