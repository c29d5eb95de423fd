"""The judgement: whether a candidate becomes champion. Pure, and re-derivable from the evidence that it names."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from enum import StrEnum
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from readmit_promoter.discrimination import Interval, interval, rank
from readmit_promoter.evidence import Evidence


class Reason(StrEnum):
    """Why a candidate was promoted or rejected; closed, so that it can label a metric."""

    FIRST_CHAMPION = "first_champion"
    BEATS_CHAMPION = "beats_champion"
    REAL_REPLACES_SYNTHETIC = "real_replaces_synthetic"
    NOT_BETTER = "not_better_beyond_noise"
    NO_DISCRIMINATION = "no_discrimination"
    SYNTHETIC_NEVER_REPLACES_REAL = "synthetic_never_replaces_real"
    INSUFFICIENT_EVIDENCE = "insufficient_evidence"
    BAD_EVIDENCE = "bad_evidence"


_PROMOTING = frozenset({Reason.FIRST_CHAMPION, Reason.BEATS_CHAMPION, Reason.REAL_REPLACES_SYNTHETIC})


@dataclass(frozen=True, slots=True)
class Policy:
    """What a promotion takes. Recorded with every decision."""

    min_rows: int = 500  #: rows to judge on; for a comparison, rows that both models have scored
    min_patients_per_class: int = 30  #: so that no resample can lose a whole class
    resamples: int = 1000
    error_rate: float = 0.05  #: how often a candidate that is no better may win


@dataclass(frozen=True, slots=True, eq=False)
class Contender:
    """A model before the judge. `evidence` is None where the champion's can no longer be read."""

    evidence: Evidence | None
    synthetic: bool


@dataclass(frozen=True, slots=True)
class Verdict:
    """The judgement and the figures that it rests on. Intervals: see `discrimination.interval`."""

    reason: Reason
    detail: str
    auroc: Interval | None = None
    difference: Interval | None = None
    common_rows: int | None = None

    @property
    def outcome(self) -> Literal["promoted", "rejected"]:
        """As the ledger and the metrics call it."""
        return "promoted" if self.promoted else "rejected"

    @property
    def promoted(self) -> bool:
        """Whether the candidate becomes champion."""
        return self.reason in _PROMOTING


@dataclass(frozen=True, slots=True, eq=False)
class _Paired:
    patient: NDArray[np.uint64]
    label: NDArray[np.bool_]
    champion_risk: NDArray[np.float64]
    candidate_risk: NDArray[np.float64]


def decide(champion: Contender | None, candidate: Evidence, *, synthetic: bool, policy: Policy) -> Verdict:
    """Judge one candidate against the present champion.

    Models of the same kind (real or synthetic) are compared on the rows that both have scored. A real candidate
    facing a synthetic champion has no row in common with it, so it has to discriminate on its own, like a first one.
    """
    if lack := _lack(candidate.patient, candidate.label, policy):
        return Verdict(Reason.INSUFFICIENT_EVIDENCE, f"the evidence has {lack}")
    own = interval(
        (rank(candidate.label, candidate.risk),), candidate.patient,
        resamples=policy.resamples, error_rate=policy.error_rate, seed=_seed(candidate.sha256),
    )  # fmt: skip
    if champion is not None and synthetic and not champion.synthetic:
        detail = "a model of generated data never replaces one of real data"
        return Verdict(Reason.SYNTHETIC_NEVER_REPLACES_REAL, detail, auroc=own)
    if champion is None or (champion.synthetic and not synthetic):
        return _alone(own, Reason.FIRST_CHAMPION if champion is None else Reason.REAL_REPLACES_SYNTHETIC)
    if champion.evidence is None:
        return Verdict(Reason.INSUFFICIENT_EVIDENCE, "the champion's evidence cannot be read", auroc=own)
    return _against(champion.evidence, candidate, own, policy)


def _alone(own: Interval, reason: Reason) -> Verdict:
    if own.low > 0.5:
        return Verdict(reason, f"AUROC {own.point:.4f}, lower end {own.low:.4f} above chance", auroc=own)
    detail = f"AUROC {own.point:.4f}, lower end {own.low:.4f} not above chance"
    return Verdict(Reason.NO_DISCRIMINATION, detail, auroc=own)


def _against(champion: Evidence, candidate: Evidence, own: Interval, policy: Policy) -> Verdict:
    pairs = _pair(champion, candidate)
    rows = len(pairs.label)
    if lack := _lack(pairs.patient, pairs.label, policy):
        detail = f"the rows in common with the champion have {lack}"
        return Verdict(Reason.INSUFFICIENT_EVIDENCE, detail, auroc=own, common_rows=rows)
    difference = interval(
        (rank(pairs.label, pairs.candidate_risk), rank(pairs.label, pairs.champion_risk)), pairs.patient,
        resamples=policy.resamples, error_rate=policy.error_rate, seed=_seed(champion.sha256, candidate.sha256),
    )  # fmt: skip
    reason = Reason.BEATS_CHAMPION if difference.low > 0 else Reason.NOT_BETTER
    detail = (
        f"AUROC {difference.point:+.4f} against the champion "
        f"({difference.low:+.4f} to {difference.high:+.4f}) on {rows} common rows"
    )
    return Verdict(reason, detail, auroc=own, difference=difference, common_rows=rows)


def _pair(champion: Evidence, candidate: Evidence) -> _Paired:
    """The rows that both have scored and on whose patient and outcome they agree, in the order of the row keys."""
    _, left, right = np.intersect1d(champion.row, candidate.row, assume_unique=True, return_indices=True)
    agree = (champion.label[left] == candidate.label[right]) & (champion.patient[left] == candidate.patient[right])
    left, right = left[agree], right[agree]
    return _Paired(candidate.patient[right], candidate.label[right], champion.risk[left], candidate.risk[right])


def _lack(patient: NDArray[np.uint64], label: NDArray[np.bool_], policy: Policy) -> str | None:
    """What the rows lack to be judged on; None when they suffice."""
    if len(label) < policy.min_rows:
        return f"{len(label)} rows, fewer than {policy.min_rows}"
    for name, rows in (("with", label), ("without", ~label)):
        patients = len(np.unique(patient[rows]))
        if patients < policy.min_patients_per_class:
            return f"{patients} patients {name} the event, fewer than {policy.min_patients_per_class}"
    return None


def _seed(*digests: str) -> int:
    return int.from_bytes(hashlib.sha256("\n".join(digests).encode()).digest())
