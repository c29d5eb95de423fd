"""What the judge says: the outcome, the reason, and each gate with its figures. Serialisable, and back."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from readmit_promoter.bootstrap import Interval
from readmit_promoter.canonical import Document
from readmit_promoter.errors import DocumentError

Figure = int | float | str


class Outcome(StrEnum):
    """What follows for the candidate."""

    ACCEPTED = "accepted"
    REJECTED = "rejected"
    HELD = "held"  #: a person decides: the policy says so where the evidence settles nothing


class Reason(StrEnum):
    """Why a candidate was accepted, rejected or held; closed, so that it can label a metric."""

    FIRST_CHAMPION = "first_champion"
    BEATS_CHAMPION = "beats_champion"
    AS_GOOD_AS_CHAMPION = "as_good_as_champion"
    REAL_REPLACES_SYNTHETIC = "real_replaces_synthetic"
    BAD_ANNOUNCEMENT = "bad_announcement"
    BAD_EVIDENCE = "bad_evidence"
    BAD_BUNDLE = "bad_bundle"
    INSUFFICIENT_EVIDENCE = "insufficient_evidence"
    SYNTHETIC_NEVER_REPLACES_REAL = "synthetic_never_replaces_real"
    NO_DISCRIMINATION = "no_discrimination"
    NOT_BETTER = "not_better_beyond_noise"
    NOT_AS_GOOD = "not_as_good_beyond_noise"
    NOT_CALIBRATED = "not_calibrated"
    NO_NET_BENEFIT = "no_net_benefit"
    HARMS_SUBGROUP = "harms_subgroup"
    EXPORT_DIFFERS = "export_differs"
    TOO_SLOW = "too_slow"
    TOO_LARGE = "too_large"
    STALE_DATA = "stale_data"
    TOO_FEW_BATCHES = "too_few_batches"


ACCEPTING = frozenset(
    {Reason.FIRST_CHAMPION, Reason.BEATS_CHAMPION, Reason.AS_GOOD_AS_CHAMPION, Reason.REAL_REPLACES_SYNTHETIC}
)


class Status(StrEnum):
    """What a gate found."""

    PASS = "pass"  # noqa: S105  no password
    FAIL = "fail"
    INSUFFICIENT = "insufficient_evidence"
    NOT_APPLICABLE = "not_applicable"


@dataclass(frozen=True, slots=True)
class GateResult:
    """One gate: what it found, on which figures, against which entries of the policy."""

    gate: str
    status: Status
    detail: str
    figures: Mapping[str, Figure]
    thresholds: Mapping[str, Any]

    def document(self) -> Document:
        """As plain JSON."""
        return {
            "gate": self.gate,
            "status": self.status.value,
            "detail": self.detail,
            "figures": dict(self.figures),
            "thresholds": dict(self.thresholds),
        }


@dataclass(frozen=True, slots=True)
class Verdict:
    """The judgement, whole. `auroc` and `difference` (AUROC less the champion's) are the gates' headlines."""

    outcome: Outcome
    reason: Reason
    detail: str
    gates: tuple[GateResult, ...]
    policy_version: str
    policy_sha256: str
    auroc: Interval | None = None
    difference: Interval | None = None
    common_rows: int | None = None

    @property
    def accepted(self) -> bool:
        """Whether the candidate becomes champion with nobody asked."""
        return self.outcome is Outcome.ACCEPTED

    def document(self) -> Document:
        """As plain JSON; `canonical` makes the same bytes of the same verdict anywhere."""
        return {
            "outcome": self.outcome.value,
            "reason": self.reason.value,
            "detail": self.detail,
            "gates": [gate.document() for gate in self.gates],
            "policy_version": self.policy_version,
            "policy_sha256": self.policy_sha256,
            "auroc": _interval_document(self.auroc),
            "difference": _interval_document(self.difference),
            "common_rows": self.common_rows,
        }

    @classmethod
    def from_document(cls, document: Mapping[str, Any]) -> Verdict:
        """What `document` wrote. Raises `DocumentError`."""
        try:
            return cls(
                outcome=Outcome(document["outcome"]),
                reason=Reason(document["reason"]),
                detail=document["detail"],
                gates=tuple(
                    GateResult(
                        gate["gate"], Status(gate["status"]), gate["detail"], gate["figures"], gate["thresholds"]
                    )
                    for gate in document["gates"]
                ),
                policy_version=document["policy_version"],
                policy_sha256=document["policy_sha256"],
                auroc=_interval(document["auroc"]),
                difference=_interval(document["difference"]),
                common_rows=document["common_rows"],
            )
        except (KeyError, TypeError, ValueError) as error:
            raise DocumentError(f"not the document of a verdict: {error!r}") from error


def _interval_document(interval: Interval | None) -> Document | None:
    if interval is None:
        return None
    return {"point": interval.point, "low": interval.low, "high": interval.high}


def _interval(document: Mapping[str, float] | None) -> Interval | None:
    return None if document is None else Interval(document["point"], document["low"], document["high"])
