"""The rules of promotion, on evidence in memory."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from readmit_promoter.canonical import canonical
from readmit_promoter.domain import FAILURES, Case, judge
from readmit_promoter.errors import EvidenceError
from readmit_promoter.evidence import Evidence, Grouping
from readmit_promoter.inspection import Inspection
from readmit_promoter.policy import Gates, Policy, load_policy
from readmit_promoter.verdict import GateResult, Outcome, Reason, Status, Verdict

MakeCase = Callable[..., Case]
MakeEvidence = Callable[..., Evidence]
GOOD = Inspection(size_bytes=1000, golden_rows=1, golden_error=0.0, row_us=50.0)


def changed(policy: Policy, **gates: dict[str, Any] | None) -> Policy:
    """With other entries in some gates, or without them."""
    document = policy.document()
    for name, entries in gates.items():
        document["gates"][name] = None if entries is None else (document["gates"][name] or {}) | entries
    return Policy.model_validate(document)


def gate(verdict: Verdict, name: str) -> GateResult:
    return next(found for found in verdict.gates if found.gate == name)


def indifferent(candidate: Evidence) -> Evidence:
    """The same patients, all at the same risk."""
    return replace(candidate, risk=np.full_like(candidate.risk, 0.3))


def test_the_first_candidate_that_discriminates_becomes_champion(
    case: MakeCase, evidence: MakeEvidence, quick_policy: Policy
) -> None:
    verdict = judge(quick_policy, case(evidence(1.0)))
    assert (verdict.reason, verdict.outcome) == (Reason.FIRST_CHAMPION, Outcome.ACCEPTED)
    assert verdict.auroc is not None
    assert 0.5 < verdict.auroc.low < verdict.auroc.point < verdict.auroc.high
    assert gate(verdict, "champion").status is Status.NOT_APPLICABLE


def test_a_first_candidate_that_guesses_is_rejected(
    case: MakeCase, evidence: MakeEvidence, quick_policy: Policy
) -> None:
    verdict = judge(quick_policy, case(indifferent(evidence(1.0))))
    assert (verdict.reason, verdict.outcome) == (Reason.NO_DISCRIMINATION, Outcome.REJECTED)


def test_a_clearly_better_candidate_replaces_the_champion(
    case: MakeCase, evidence: MakeEvidence, quick_policy: Policy
) -> None:
    verdict = judge(quick_policy, case(evidence(0.5, "b"), evidence(3.0)))
    assert (verdict.reason, verdict.outcome) == (Reason.BEATS_CHAMPION, Outcome.ACCEPTED)
    assert verdict.common_rows == 600
    assert verdict.difference is not None
    assert verdict.difference.low > 0


@pytest.mark.parametrize(("noise", "seed"), [(3.0, 0), (1.0, 1), (1.0, 0)], ids=["worse", "as good", "the same"])
def test_a_candidate_that_is_not_better_beyond_noise_is_rejected(
    case: MakeCase, evidence: MakeEvidence, quick_policy: Policy, noise: float, seed: int
) -> None:
    verdict = judge(quick_policy, case(evidence(noise, "b", seed=seed), evidence(1.0)))
    assert (verdict.reason, verdict.outcome) == (Reason.NOT_BETTER, Outcome.REJECTED)


def test_where_the_policy_asks_for_no_more_a_candidate_that_is_as_good_is_accepted(
    case: MakeCase, evidence: MakeEvidence, quick_policy: Policy
) -> None:
    policy = changed(quick_policy, net_benefit=None, champion={"comparison": "non_inferiority", "margin": 0.15})
    assert judge(policy, case(evidence(1.0, "b", seed=1), evidence(1.0))).reason is Reason.AS_GOOD_AS_CHAMPION
    assert judge(policy, case(evidence(0.5, "b"), evidence(3.0))).reason is Reason.BEATS_CHAMPION
    assert judge(policy, case(evidence(3.0, "b"), evidence(1.0))).reason is Reason.NOT_AS_GOOD


def test_the_champions_own_bundle_never_replaces_it(
    case: MakeCase, evidence: MakeEvidence, quick_policy: Policy
) -> None:
    """Else a policy of non-inferiority would promote the same bytes again and again."""
    policy = changed(quick_policy, champion={"comparison": "non_inferiority", "margin": 0.05})
    one = case(evidence(1.0), evidence(1.0))
    assert one.champion is not None
    again = replace(one, champion=replace(one.champion, bundle_sha256=one.event.bundle.sha256))
    assert judge(policy, one).accepted
    assert judge(policy, again).reason is Reason.NOT_AS_GOOD


def test_synthetic_never_replaces_real_however_good(
    case: MakeCase, evidence: MakeEvidence, quick_policy: Policy
) -> None:
    verdict = judge(quick_policy, case(evidence(0.1, "b"), evidence(3.0), synthetic=True, champion_synthetic=False))
    assert verdict.reason is Reason.SYNTHETIC_NEVER_REPLACES_REAL


def test_real_replaces_synthetic_when_it_discriminates(
    case: MakeCase, evidence: MakeEvidence, quick_policy: Policy
) -> None:
    """Even where it looks worse: the two were scored on different rows, of which the synthetic ones mean nothing."""
    better = case(evidence(1.0, "b", first_row=600), evidence(0.1), champion_synthetic=True)
    assert judge(quick_policy, better).reason is Reason.REAL_REPLACES_SYNTHETIC
    guessing = case(indifferent(evidence(1.0, "b")), evidence(0.1), champion_synthetic=True)
    assert judge(quick_policy, guessing).reason is Reason.NO_DISCRIMINATION


def test_too_few_common_rows_are_insufficient_evidence(
    case: MakeCase, evidence: MakeEvidence, quick_policy: Policy
) -> None:
    verdict = judge(quick_policy, case(evidence(0.1, "b", first_row=550), evidence(3.0)))
    assert (verdict.reason, verdict.common_rows) == (Reason.INSUFFICIENT_EVIDENCE, 50)
    assert verdict.outcome is Outcome.REJECTED


def test_rows_on_whose_outcome_the_two_disagree_are_not_paired(
    case: MakeCase, evidence: MakeEvidence, quick_policy: Policy
) -> None:
    champion = evidence(1.0)
    champion.label[:40] = ~champion.label[:40]
    assert judge(quick_policy, case(evidence(0.1, "b"), champion)).common_rows == 560


@pytest.mark.parametrize("label", [0, 1])
def test_labels_of_one_class_are_insufficient_evidence(
    case: MakeCase, evidence: MakeEvidence, quick_policy: Policy, label: int
) -> None:
    candidate = evidence(1.0)
    candidate.label[:] = bool(label)
    verdict = judge(quick_policy, case(candidate))
    assert (verdict.reason, verdict.auroc) == (Reason.INSUFFICIENT_EVIDENCE, None)


def test_many_rows_of_few_patients_are_insufficient_evidence(
    case: MakeCase, evidence: MakeEvidence, quick_policy: Policy
) -> None:
    candidate = evidence(1.0)
    candidate.patient[:] %= np.uint64(quick_policy.gates.evidence.min_patients_per_class - 1)
    assert judge(quick_policy, case(candidate)).reason is Reason.INSUFFICIENT_EVIDENCE


def test_no_evidence_at_all_is_insufficient(case: MakeCase, evidence: MakeEvidence, quick_policy: Policy) -> None:
    assert judge(quick_policy, case(evidence(1.0, rows=0))).reason is Reason.INSUFFICIENT_EVIDENCE


def test_evidence_that_cannot_be_used_is_a_rejection_with_its_reason(case: MakeCase, quick_policy: Policy) -> None:
    verdict = judge(quick_policy, case(EvidenceError("there is nothing at s3://b/e")))
    assert (verdict.reason, verdict.detail) == (Reason.BAD_EVIDENCE, "there is nothing at s3://b/e")
    assert gate(verdict, "calibration").status is Status.NOT_APPLICABLE


def test_a_champion_whose_evidence_is_lost_stays(case: MakeCase, evidence: MakeEvidence, quick_policy: Policy) -> None:
    one = case(evidence(0.1), evidence(1.0))
    assert one.champion is not None
    lost = replace(one, champion=replace(one.champion, evidence=None))
    verdict = judge(quick_policy, lost)
    assert (verdict.reason, verdict.outcome) == (Reason.INSUFFICIENT_EVIDENCE, Outcome.REJECTED)
    assert judge(changed(quick_policy, champion={"on_insufficient_evidence": "hold"}), lost).outcome is Outcome.HELD


def test_a_candidate_that_is_shown_to_be_miscalibrated_is_rejected(
    case: MakeCase, evidence: MakeEvidence, quick_policy: Policy
) -> None:
    """Twice the risk: as good an order, another size."""
    candidate = evidence(0.5, rows=3000)
    timid = replace(candidate, risk=candidate.risk / 2)
    verdict = judge(quick_policy, case(timid))
    assert verdict.reason is Reason.NOT_CALIBRATED
    assert judge(changed(quick_policy, calibration=None, net_benefit=None), case(timid)).accepted
    unseen = replace(timid, held_out=np.zeros(3000, dtype=np.bool_))
    assert gate(judge(quick_policy, case(unseen)), "calibration").status is Status.INSUFFICIENT


def test_calibration_is_judged_on_the_rows_that_the_map_did_not_see(
    case: MakeCase, evidence: MakeEvidence, quick_policy: Policy
) -> None:
    candidate = evidence(0.5, rows=6000)
    held_out = candidate.patient % np.uint64(2) == 1
    risk = np.where(held_out, candidate.risk, candidate.risk / 2)
    verdict = judge(quick_policy, case(replace(candidate, risk=risk, held_out=held_out)))
    assert gate(verdict, "calibration").figures["rows"] == held_out.sum()
    assert gate(verdict, "calibration").status is not Status.FAIL
    assert judge(quick_policy, case(replace(candidate, risk=risk))).reason is Reason.NOT_CALIBRATED


def test_a_candidate_that_helps_nobody_at_its_threshold_is_rejected(
    case: MakeCase, evidence: MakeEvidence, quick_policy: Policy
) -> None:
    """Nobody is ever above it, which is as good as following up nobody."""
    verdict = judge(quick_policy, case(evidence(1.0), threshold=0.99))
    assert verdict.reason is Reason.NO_NET_BENEFIT
    assert gate(verdict, "net_benefit").figures["net_benefit"] == 0.0


@pytest.mark.parametrize("threshold", [None, 1.0])
def test_without_a_threshold_nothing_is_known_of_the_net_benefit(
    case: MakeCase, evidence: MakeEvidence, quick_policy: Policy, threshold: float | None
) -> None:
    one = case(evidence(1.0), threshold=threshold)
    assert gate(judge(quick_policy, one), "net_benefit").status is Status.INSUFFICIENT
    held = judge(changed(quick_policy, net_benefit={"on_insufficient_evidence": "hold"}), one)
    assert (held.outcome, held.reason) == (Outcome.HELD, Reason.INSUFFICIENT_EVIDENCE)
    assert held.detail.startswith("net_benefit: ")


def by_sex(one: Evidence) -> Evidence:
    """Every other patient is a woman, and one in fifty rows is of a group of two patients."""
    code = (one.patient % np.uint64(2)).astype(np.uint8)
    code[one.patient < 2] = 2
    return replace(one, groups={"gender": Grouping(code, ("Female", "Male", "Other"))})


def test_a_candidate_that_is_worse_for_a_group_is_rejected_however_good_for_all(
    case: MakeCase, evidence: MakeEvidence, quick_policy: Policy
) -> None:
    champion = evidence(1.5, rows=4000)
    best = by_sex(evidence(0.3, "b", rows=4000))
    worst = evidence(9.0, "b", rows=4000)
    women = best.groups["gender"].code == 0
    harming = replace(best, risk=np.where(women, worst.risk, best.risk))
    policy = changed(quick_policy, champion={"comparison": "non_inferiority", "margin": 0.4})
    verdict = judge(policy, case(harming, champion))
    assert verdict.reason is Reason.HARMS_SUBGROUP
    assert "gender/Female" in verdict.detail
    assert "gender/Male" not in verdict.detail
    figures = gate(verdict, "subgroups").figures
    assert (figures["gender/Male/status"], figures["gender/Female/status"]) == ("pass", "fail")
    assert figures["comparisons"] == 4
    assert judge(changed(policy, subgroups=None), case(harming, champion)).accepted


def test_a_group_of_few_patients_is_counted_and_nothing_else(
    case: MakeCase, evidence: MakeEvidence, quick_policy: Policy
) -> None:
    verdict = judge(quick_policy, case(by_sex(evidence(0.5, "b")), evidence(3.0)))
    told = {name for name in gate(verdict, "subgroups").figures if name.startswith("gender/Other")}
    assert told == {"gender/Other/patients", "gender/Other/status"}


@pytest.mark.parametrize(
    ("then", "outcome"), [("accept", Outcome.ACCEPTED), ("reject", Outcome.REJECTED), ("hold", Outcome.HELD)]
)
def test_the_policy_says_what_follows_where_nothing_is_known_of_groups(
    case: MakeCase, evidence: MakeEvidence, quick_policy: Policy, then: str, outcome: Outcome
) -> None:
    """As of evidence from before it held groups."""
    one = case(evidence(0.5, "b"), evidence(3.0))
    assert judge(changed(quick_policy, subgroups={"on_insufficient_evidence": then}), one).outcome is outcome


@pytest.mark.parametrize(
    ("inspection", "reason"),
    [
        (Inspection(refusal="digest aa found, bb announced"), Reason.BAD_BUNDLE),
        (replace(GOOD, golden_error=1e-5), Reason.EXPORT_DIFFERS),
        (replace(GOOD, golden_error=None, row_us=None), Reason.INSUFFICIENT_EVIDENCE),
        (replace(GOOD, row_us=5000.0), Reason.TOO_SLOW),
        (replace(GOOD, size_bytes=2**26), Reason.TOO_LARGE),
    ],
)
def test_a_bundle_that_cannot_or_should_not_serve_is_rejected(
    case: MakeCase, evidence: MakeEvidence, quick_policy: Policy, inspection: Inspection, reason: Reason
) -> None:
    verdict = judge(quick_policy, replace(case(evidence(1.0)), inspection=inspection))
    assert (verdict.outcome, verdict.reason) == (Outcome.REJECTED, reason)


def test_old_data_and_few_batches_are_rejected(case: MakeCase, evidence: MakeEvidence, quick_policy: Policy) -> None:
    fresh = case(evidence(1.0))
    assert fresh.event.data_at is not None
    old = replace(fresh, judged_at=fresh.event.data_at + timedelta(days=366))
    assert judge(quick_policy, old).reason is Reason.STALE_DATA
    untold = replace(fresh, event=fresh.event.model_copy(update={"data_at": None}))
    assert gate(judge(quick_policy, untold), "freshness").status is Status.INSUFFICIENT
    assert judge(changed(quick_policy, batches={"min_batches": 2}), fresh).reason is Reason.TOO_FEW_BATCHES


def test_the_first_gate_that_blocks_gives_the_reason_and_the_others_are_judged_all_the_same(
    case: MakeCase, evidence: MakeEvidence, quick_policy: Policy
) -> None:
    spoiled = replace(case(indifferent(evidence(1.0))), inspection=replace(GOOD, row_us=1e6, size_bytes=2**26))
    verdict = judge(quick_policy, spoiled)
    assert verdict.reason is Reason.NO_DISCRIMINATION
    failed = {found.gate for found in verdict.gates if found.status is Status.FAIL}
    assert failed >= {"discrimination", "latency", "bundle_size"}


def test_every_gate_is_named_in_every_verdict(case: MakeCase, evidence: MakeEvidence, quick_policy: Policy) -> None:
    for one in (case(evidence(1.0)), case(EvidenceError("x")), case(evidence(0.5), evidence(1.0))):
        assert [found.gate for found in judge(quick_policy, one).gates] == list(FAILURES)
    assert set(Gates.model_fields) | {"bundle"} == set(FAILURES)


@given(data=st.data())
@settings(max_examples=40, deadline=None)
def test_a_verdict_is_whole_whatever_the_candidate_and_comes_back_from_its_document(
    case: MakeCase, evidence: MakeEvidence, quick_policy: Policy, data: st.DataObject
) -> None:
    """Extreme risks, all ties, one class, no rows: judged, never a crash; accepted only with no gate against it."""
    rows = data.draw(st.integers(0, 300))
    seed = data.draw(st.integers(0, 2**32 - 1))
    random = np.random.default_rng(seed)
    levels = np.array(data.draw(st.lists(st.sampled_from([0.0, 1e-300, 0.3, 0.5, 1 - 2**-53, 1.0]), min_size=1)))
    chosen, champion = by_sex(evidence(1.0, rows=rows)), evidence(1.0, "c", rows=rows)
    drawn = levels[random.integers(0, len(levels), rows)]
    one = case(
        replace(chosen, risk=drawn, label=random.random(rows) < data.draw(st.sampled_from([0.0, 0.3, 1.0]))),
        data.draw(st.sampled_from([None, champion])),
        threshold=data.draw(st.sampled_from([None, 0.0, 0.3, 1.0])),
    )
    verdict = judge(quick_policy, one)
    assert Verdict.from_document(verdict.document()) == verdict
    canonical(verdict.document())
    if verdict.accepted:
        assert all(found.status is not Status.FAIL for found in verdict.gates)
    assert judge(quick_policy, one) == verdict


def test_fifteen_thousand_rows_are_judged_in_seconds(case: MakeCase, evidence: MakeEvidence) -> None:
    """By the policy in force, with groups; 10 s is the floor."""
    one = case(by_sex(evidence(0.7, "b", rows=15_000)), evidence(3.0, rows=15_000))
    started = time.process_time()
    assert judge(load_policy(), one).accepted
    assert time.process_time() - started < 10.0
