"""What the evidence says: every figure that the gates judge by, drawn once on the same resamples of patients."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from readmit_promoter import calibration, discrimination, net_benefit
from readmit_promoter.bootstrap import Distribution, Interval, Keys, Labels, Statistic, bootstrap
from readmit_promoter.evidence import Evidence, Grouping
from readmit_promoter.policy import EvidenceGate, Policy
from readmit_promoter.subgroups import Compared, Plan, plan


@dataclass(frozen=True, slots=True, eq=False)
class Own:
    """The candidate alone. `unseen`: rows that its calibration was not fitted on, all where that is not told."""

    evidence: Evidence
    unseen: Labels
    drawn: Mapping[str, Distribution]
    auroc: Interval


@dataclass(frozen=True, slots=True, eq=False)
class Drawn:
    """Candidate and champion on the rows that both have scored, once there are enough of them.

    `groups` is None where the policy does not ask for them.
    """

    distributions: Mapping[str, Distribution]
    difference: Interval
    groups: Plan | None


@dataclass(frozen=True, slots=True, eq=False)
class Common:
    """The rows that both models have scored; what they say, or what they lack."""

    rows: Compared
    drawn: Drawn | str


def of_one(policy: Policy, evidence: Evidence, threshold: float | None) -> Own:
    """Draw the figures of the candidate alone."""
    unseen = np.ones(len(evidence.label), dtype=np.bool_) if evidence.held_out is None else evidence.held_out
    statistics: list[Statistic] = [discrimination.own(evidence.label, evidence.risk)]
    if policy.gates.calibration is not None:
        statistics.append(calibration.calibration(evidence.label, evidence.risk, unseen))
    if policy.gates.net_benefit is not None and threshold is not None:
        statistics.append(net_benefit.over_default(evidence.label, evidence.risk, threshold))
    resamples = policy.bootstrap.resamples
    drawn = bootstrap(statistics, evidence.patient, resamples=resamples, seed=_seed(evidence.sha256))
    return Own(evidence, unseen, drawn, _certain(drawn["auroc"], policy))


def of_both(policy: Policy, champion: Evidence, candidate: Evidence, threshold: float | None) -> Common:
    """Draw the figures of the candidate against the champion."""
    rows = _pair(champion, candidate)
    if lacking := lack(rows.patient, rows.label, policy.gates.evidence):
        return Common(rows, f"the rows in common with the champion have {lacking}")
    statistics = [discrimination.difference(rows.label, rows.candidate, rows.champion)]
    if policy.gates.net_benefit is not None and threshold is not None:
        statistics.append(net_benefit.difference(rows.label, rows.candidate, rows.champion, threshold))
    groups = None if policy.gates.subgroups is None else plan(rows, policy.gates.subgroups)
    if groups is not None:
        statistics.extend(groups.statistics.values())
    seed = _seed(champion.sha256, candidate.sha256)
    drawn = bootstrap(statistics, rows.patient, resamples=policy.bootstrap.resamples, seed=seed)
    return Common(rows, Drawn(drawn, _certain(drawn["auroc_difference"], policy), groups))


def lack(patient: Keys, label: Labels, gate: EvidenceGate) -> str | None:
    """What the rows lack to be judged on; None when they suffice."""
    if len(label) < gate.min_rows:
        return f"{len(label)} rows, fewer than {gate.min_rows}"
    for name, rows in (("with", label), ("without", ~label)):
        patients = len(np.unique(patient[rows]))
        if patients < gate.min_patients_per_class:
            return f"{patients} patients {name} the event, fewer than {gate.min_patients_per_class}"
    return None


def _pair(champion: Evidence, candidate: Evidence) -> Compared:
    """The rows that both have scored and on whose patient and outcome they agree, in the order of the row keys."""
    _, left, right = np.intersect1d(champion.row, candidate.row, assume_unique=True, return_indices=True)
    agree = (champion.label[left] == candidate.label[right]) & (champion.patient[left] == candidate.patient[right])
    left, right = left[agree], right[agree]
    groups = {name: Grouping(group.code[right], group.names) for name, group in candidate.groups.items()}
    return Compared(
        candidate.patient[right], candidate.label[right], candidate.risk[right], champion.risk[left], groups
    )


def _certain(drawn: Distribution, policy: Policy) -> Interval:
    """An AUROC is defined on every resample, and the policy has resamples enough for its error rate."""
    interval = drawn.interval(policy.bootstrap.error_rate)
    if interval is None:
        raise ArithmeticError("an AUROC without an interval")
    return interval


def _seed(*digests: str) -> int:
    return int.from_bytes(hashlib.sha256("\n".join(digests).encode()).digest())
