"""The judgement: whether a candidate becomes champion. Pure, and re-derivable from what it names."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

import numpy as np

from readmit_contracts.events import ArtifactRef, ModelRegistered
from readmit_promoter import figures, gates
from readmit_promoter.announcement import AnnouncementProblem
from readmit_promoter.errors import EvidenceError
from readmit_promoter.evidence import Evidence
from readmit_promoter.figures import Common, Drawn, Own
from readmit_promoter.gates import result
from readmit_promoter.inspection import Inspection
from readmit_promoter.policy import ChampionGate, Gates, Policy
from readmit_promoter.subgroups import audit
from readmit_promoter.verdict import Figure, GateResult, Outcome, Reason, Status, Verdict

#: Every gate, in the order in which it is judged, and the reason of a rejection that it gives.
FAILURES: Mapping[str, Reason] = {
    "evidence": Reason.BAD_EVIDENCE,
    "bundle": Reason.BAD_BUNDLE,
    "provenance": Reason.SYNTHETIC_NEVER_REPLACES_REAL,
    "discrimination": Reason.NO_DISCRIMINATION,
    "champion": Reason.NOT_BETTER,
    "calibration": Reason.NOT_CALIBRATED,
    "net_benefit": Reason.NO_NET_BENEFIT,
    "subgroups": Reason.HARMS_SUBGROUP,
    "export_parity": Reason.EXPORT_DIFFERS,
    "latency": Reason.TOO_SLOW,
    "bundle_size": Reason.TOO_LARGE,
    "freshness": Reason.STALE_DATA,
    "batches": Reason.TOO_FEW_BATCHES,
}


@dataclass(frozen=True, slots=True, eq=False)
class Champion:
    """The present champion. `evidence` is what lies at `reference`, None where it can no longer be read."""

    bundle_sha256: str
    synthetic: bool
    reference: ArtifactRef
    evidence: Evidence | None


@dataclass(frozen=True, slots=True, eq=False)
class Case:
    """All that a judgement rests on. `evidence` is the candidate's, or why it cannot be used."""

    event: ModelRegistered
    evidence: Evidence | EvidenceError
    champion: Champion | None
    inspection: Inspection
    judged_at: datetime

    @property
    def is_same_kind(self) -> bool:
        """Whether there is a champion, real or synthetic as the candidate is."""
        return self.champion is not None and self.champion.synthetic == self.event.synthetic

    @property
    def kind(self) -> Reason | None:
        """Why the candidate is accepted where there is nobody to compare it with; None where there is."""
        if self.champion is None:
            return Reason.FIRST_CHAMPION
        return None if self.is_same_kind else Reason.REAL_REPLACES_SYNTHETIC

    @property
    def threshold(self) -> float | None:
        """From which risk on the candidate's users act; None where that is not told, or nobody ever would."""
        announced = self.event.validation.threshold
        return announced if announced is not None and announced < 1 else None


def judge(policy: Policy, case: Case) -> Verdict:
    """Judge one candidate; some seconds for 15,000 rows. The same arguments give the same verdict, to the bit.

    Every gate is judged, so that the whole picture is kept; the first that blocks gives the reason. Models of the same
    kind (real or synthetic) are compared on the rows that both have scored. A real candidate facing a synthetic
    champion shares no rows with it, so it has to convince on its own, like a first one.
    """
    first = _evidence(policy, case.evidence)
    own = common = None
    if isinstance(case.evidence, Evidence) and first.status is Status.PASS:
        own = figures.of_one(policy, case.evidence, case.threshold)
        if case.champion is not None and case.champion.evidence is not None and case.is_same_kind:
            common = figures.of_both(policy, case.champion.evidence, case.evidence, case.threshold)
    results = (
        first,
        gates.bundle(case.inspection),
        _provenance(policy, case),
        *_of_evidence(policy, case, own, common),
        *_of_bundle(policy.gates, case.inspection),
        *_of_data(policy.gates, case),
    )
    outcome, reason, detail = _concluded(policy, case, results)
    return Verdict(
        outcome, reason, detail, results, policy.version, policy.sha256,
        auroc=own.auroc if own else None,
        difference=common.drawn.difference if common and isinstance(common.drawn, Drawn) else None,
        common_rows=len(common.rows.label) if common else None,
    )  # fmt: skip


def refuse_unread(policy: Policy, problems: Sequence[AnnouncementProblem]) -> Verdict:
    """The verdict on a candidate whose announcement cannot be read: there is nothing to judge it by."""
    told = "; ".join(f"{each.field} is {each.value}, allowed: {each.allowed}" for each in problems)
    found = result("announcement", None, Status.FAIL, f"the announcement cannot be read: {told}")
    return Verdict(Outcome.REJECTED, Reason.BAD_ANNOUNCEMENT, found.detail, (found,), policy.version, policy.sha256)


def _concluded(policy: Policy, case: Case, results: tuple[GateResult, ...]) -> tuple[Outcome, Reason, str]:
    held = None
    for found in results:
        if found.status is Status.FAIL:
            return Outcome.REJECTED, _failure(policy, found.gate), found.detail
        if found.status is Status.INSUFFICIENT:
            then = found.thresholds.get("on_insufficient_evidence", "reject")
            detail = f"{found.gate}: {found.detail}"
            if then == "reject":
                return Outcome.REJECTED, Reason.INSUFFICIENT_EVIDENCE, detail
            held = held or (detail if then == "hold" else None)
    if held is not None:
        return Outcome.HELD, Reason.INSUFFICIENT_EVIDENCE, held
    by_name = {found.gate: found for found in results}
    if case.kind is not None:
        return Outcome.ACCEPTED, case.kind, by_name["discrimination"].detail
    against = by_name["champion"]
    better = float(against.figures.get("auroc_difference_low", 0.0)) > 0
    return Outcome.ACCEPTED, Reason.BEATS_CHAMPION if better else Reason.AS_GOOD_AS_CHAMPION, against.detail


def _failure(policy: Policy, gate: str) -> Reason:
    if gate == "champion" and policy.gates.champion.comparison == "non_inferiority":
        return Reason.NOT_AS_GOOD
    return FAILURES[gate]


def _evidence(policy: Policy, evidence: Evidence | EvidenceError) -> GateResult:
    gate = policy.gates.evidence
    if isinstance(evidence, EvidenceError):
        return result("evidence", gate, Status.FAIL, str(evidence))
    rows = len(evidence.label)
    counted: dict[str, Figure] = {"rows": rows, "patients": len(np.unique(evidence.patient))}
    if lacking := figures.lack(evidence.patient, evidence.label, gate):
        return result("evidence", gate, Status.INSUFFICIENT, f"the evidence has {lacking}", counted)
    return result("evidence", gate, Status.PASS, f"{rows} rows", counted)


def _provenance(policy: Policy, case: Case) -> GateResult:
    gate = policy.gates.provenance
    if case.event.synthetic and case.champion is not None and not case.champion.synthetic:
        return result("provenance", gate, Status.FAIL, "a model of generated data never replaces one of real data")
    return result("provenance", gate, Status.PASS, "generated data" if case.event.synthetic else "real data")


def _of_evidence(policy: Policy, case: Case, own: Own | None, common: Common | None) -> Iterator[GateResult]:
    """The gates that judge by predictions."""
    if own is None:
        for name in ("discrimination", "champion", "calibration", "net_benefit", "subgroups"):
            yield result(name, getattr(policy.gates, name), Status.NOT_APPLICABLE, "there is nothing to judge by")
        return
    yield gates.discrimination(policy.gates.discrimination, own.auroc)
    yield _champion(policy.gates.champion, case, common)
    yield _calibration(policy, own)
    yield _net_benefit(policy, case, own, common)
    yield _subgroups(policy, case, common)


def _champion(gate: ChampionGate, case: Case, common: Common | None) -> GateResult:
    if case.champion is not None and case.champion.bundle_sha256 == case.event.bundle.sha256:
        return result("champion", gate, Status.FAIL, "it is the champion's own bundle, registered again")
    if common is None or isinstance(common.drawn, str):
        return result("champion", gate, *_no_comparison(case, common))
    return gates.champion(gate, common.drawn.difference, len(common.rows.label))


def _calibration(policy: Policy, own: Own) -> GateResult:
    gate = policy.gates.calibration
    if gate is None:
        return _left_out("calibration")
    return gates.calibration(
        gate, own.drawn, policy.bootstrap.error_rate, int(own.unseen.sum()), held_out=own.evidence.held_out is not None
    )


def _net_benefit(policy: Policy, case: Case, own: Own, common: Common | None) -> GateResult:
    gate, threshold = policy.gates.net_benefit, case.threshold
    if gate is None:
        return _left_out("net_benefit")
    if threshold is None:
        return result("net_benefit", gate, Status.INSUFFICIENT, "no threshold below 1 was announced")
    paired = None
    if common is None or isinstance(common.drawn, str):
        status, why = _no_comparison(case, common)
        if status is Status.INSUFFICIENT:
            return result("net_benefit", gate, status, why)
    else:
        paired = common.drawn.distributions
    return gates.net_benefit(gate, own.drawn, paired, policy.bootstrap.error_rate, threshold)


def _subgroups(policy: Policy, case: Case, common: Common | None) -> GateResult:
    gate = policy.gates.subgroups
    if gate is None:
        return _left_out("subgroups")
    if common is None or isinstance(common.drawn, str) or common.drawn.groups is None:
        return result("subgroups", gate, *_no_comparison(case, common))
    groups, drawn = common.drawn.groups, common.drawn.distributions
    return gates.subgroups(gate, audit(groups, drawn, gate, policy.bootstrap.error_rate))


def _no_comparison(case: Case, common: Common | None) -> tuple[Status, str]:
    """Why candidate and champion are not compared, and whether they should have been."""
    if case.champion is None:
        return Status.NOT_APPLICABLE, "there is no champion"
    if not case.is_same_kind:
        return Status.NOT_APPLICABLE, "models of real and of generated data share no rows"
    if common is not None and isinstance(common.drawn, str):
        return Status.INSUFFICIENT, common.drawn
    return Status.INSUFFICIENT, "the champion's evidence cannot be read"


def _of_bundle(named: Gates, inspection: Inspection) -> Iterator[GateResult]:
    """The gates that judge by what was measured of the bundle."""
    for name in ("export_parity", "latency", "bundle_size"):
        gate = getattr(named, name)
        if gate is None:
            yield _left_out(name)
        elif inspection.refusal is not None:
            yield result(name, gate, Status.NOT_APPLICABLE, "the bundle was refused")
        else:
            judged: GateResult = getattr(gates, name)(gate, inspection)
            yield judged


def _of_data(named: Gates, case: Case) -> Iterator[GateResult]:
    """The gates that judge by what the candidate was trained on."""
    if named.freshness is None:
        yield _left_out("freshness")
    else:
        since = case.event.data_at
        yield gates.freshness(named.freshness, None if since is None else case.judged_at - since)
    yield _left_out("batches") if named.batches is None else gates.batches(named.batches, case.event.batch)


def _left_out(name: str) -> GateResult:
    return result(name, None, Status.NOT_APPLICABLE, "the policy leaves it out")
