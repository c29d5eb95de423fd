"""A past decision, derived again: from what the ledger kept and the evidence that it names. Pure but for `fetch`."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from enum import StrEnum
from typing import Any

from pydantic import ValidationError

from readmit_contracts.events import ArtifactRef, ModelRegistered, ModelVersion
from readmit_promoter.announcement import AnnouncementProblem, Identity
from readmit_promoter.canonical import Document, canonical, digest
from readmit_promoter.domain import Case, Champion, judge, refuse_unread
from readmit_promoter.errors import DocumentError, EvidenceError
from readmit_promoter.evidence import Evidence, read_evidence
from readmit_promoter.inspection import Inspection
from readmit_promoter.policy import Policy
from readmit_promoter.verdict import Outcome, Reason, Verdict

FORMAT = 1

#: The bytes of stored evidence; None when they are gone. Raises `Transient` when nobody can tell.
Fetch = Callable[[ArtifactRef], bytes | None]


class Match(StrEnum):
    """What came of a replay."""

    SAME = "same"
    DIFFERS = "differs"
    EVIDENCE_MISSING = "evidence_missing"


@dataclass(frozen=True, slots=True)
class Difference:
    """One entry that is not as it was kept. `gate` is None for what is said of the verdict as a whole."""

    gate: str | None
    entry: str
    kept: Any
    derived: Any


@dataclass(frozen=True, slots=True)
class Replay:
    """Whether the kept verdict follows from the kept inputs. `detail` says which evidence is missing."""

    match: Match
    differences: tuple[Difference, ...] = ()
    detail: str = ""


@dataclass(frozen=True, slots=True)
class Changed:
    """A gate that says something else under another policy; None where it was not known."""

    gate: str
    before: str | None
    now: str | None


@dataclass(frozen=True, slots=True)
class DryRun:
    """A past candidate under another policy, against the champion that it faced then.

    `outcome` and `reason` are None where evidence is missing.
    """

    decision_id: str
    model: ModelVersion
    outcome_before: Outcome
    outcome: Outcome | None
    reason: Reason | None
    detail: str
    changed: tuple[Changed, ...] = ()


@dataclass(frozen=True, slots=True)
class _Kept:
    event: ModelRegistered
    evidence_refusal: str | None
    champion: Champion | None  #: without its evidence
    champion_evidence_read: bool
    inspection: Inspection
    judged_at: datetime
    policy: Policy
    verdict: Verdict


@dataclass(frozen=True, slots=True)
class _Unread:
    """Kept of a candidate whose announcement could not be read."""

    event: Identity
    problems: tuple[AnnouncementProblem, ...]
    policy: Policy
    verdict: Verdict


class _Missing(Exception):  # noqa: N818  named for what is the case
    pass


def kept(policy: Policy, case: Case, verdict: Verdict) -> Document:
    """What the ledger keeps of a judgement: the inputs (evidence by digest), the whole policy, the verdict."""
    champion = case.champion
    return {
        "format": FORMAT,
        "case": {
            "event": case.event.model_dump(mode="json"),
            "evidence_refusal": str(case.evidence) if isinstance(case.evidence, EvidenceError) else None,
            "champion": None if champion is None else _champion_document(champion),
            "inspection": case.inspection.document(),
            "judged_at": case.judged_at.isoformat(),
        },
        "policy": policy.document(),
        "verdict": verdict.document(),
    }


def kept_unread(
    policy: Policy, identity: Identity, problems: Sequence[AnnouncementProblem], verdict: Verdict
) -> Document:
    """The same of a candidate whose announcement could not be read: whom it is about, and what was wrong."""
    return {
        "format": FORMAT,
        "case": {
            "event": identity.model_dump(mode="json", include=set(Identity.model_fields)),
            "announcement_problems": [each.model_dump() for each in problems],
        },
        "policy": policy.document(),
        "verdict": verdict.document(),
    }


def replay(document: Mapping[str, Any], fetch: Fetch) -> Replay:
    """Judge again by the kept policy and compare, byte for byte. Raises `DocumentError` for a damaged document."""
    known = _read(document)
    try:
        verdict = _judged(known, known.policy, fetch)
    except _Missing as missing:
        return Replay(Match.EVIDENCE_MISSING, detail=str(missing))
    derived, before = verdict.document(), dict(document["verdict"])
    # Of the policy as it was kept: since then, policies may have learned to say more.
    derived["policy_sha256"] = digest(document["policy"])
    if canonical(derived) == canonical(before):
        return Replay(Match.SAME)
    return Replay(Match.DIFFERS, tuple(_differences(before, derived)))


def dry_run(decisions: Iterable[tuple[str, Mapping[str, Any]]], policy: Policy, fetch: Fetch) -> Iterator[DryRun]:
    """What another policy says of past candidates, by decision id and document; one after the other.

    Each faces the champion that it faced then, also where the policy would have had another one by that time.
    """
    for decision_id, document in decisions:
        known = _read(document)
        before = known.verdict
        try:
            verdict = _judged(known, policy, fetch)
        except _Missing as missing:
            yield DryRun(decision_id, known.event.model, before.outcome, None, None, str(missing))
            continue
        yield DryRun(
            decision_id, known.event.model, before.outcome, verdict.outcome, verdict.reason, verdict.detail,
            tuple(_changed(before, verdict)),
        )  # fmt: skip


def _champion_document(champion: Champion) -> Document:
    return {
        "bundle_sha256": champion.bundle_sha256,
        "synthetic": champion.synthetic,
        "evidence": champion.reference.model_dump(mode="json"),
        "evidence_read": champion.evidence is not None,
    }


def _champion(document: Mapping[str, Any]) -> Champion:
    reference = ArtifactRef.model_validate(document["evidence"])
    return Champion(document["bundle_sha256"], document["synthetic"], reference, None)


def _judged(known: _Kept | _Unread, policy: Policy, fetch: Fetch) -> Verdict:
    """By a policy, from what was kept. Raises `_Missing`."""
    if isinstance(known, _Unread):
        return refuse_unread(policy, known.problems)
    return judge(policy, _case(known, fetch))


def _read(document: Mapping[str, Any]) -> _Kept | _Unread:
    try:
        if document["format"] != FORMAT:
            raise DocumentError(f"a decision of format {document['format']!r}; this program knows {FORMAT}")
        case = document["case"]
        policy, verdict = Policy.model_validate(document["policy"]), Verdict.from_document(document["verdict"])
        if "announcement_problems" in case:
            problems = tuple(AnnouncementProblem.model_validate(each) for each in case["announcement_problems"])
            return _Unread(Identity.model_validate(case["event"]), problems, policy, verdict)
        champion = case["champion"]
        return _Kept(
            event=ModelRegistered.model_validate(case["event"]),
            evidence_refusal=case["evidence_refusal"],
            champion=None if champion is None else _champion(champion),
            champion_evidence_read=champion is not None and champion["evidence_read"],
            inspection=Inspection.from_document(case["inspection"]),
            judged_at=datetime.fromisoformat(case["judged_at"]),
            policy=policy,
            verdict=verdict,
        )
    except (KeyError, TypeError, ValueError, ValidationError) as error:
        raise DocumentError(f"not the document of a decision: {error!r}") from error


def _case(known: _Kept, fetch: Fetch) -> Case:
    if known.evidence_refusal is None:
        evidence: Evidence | EvidenceError = _evidence(known.event.evidence, fetch)
    else:
        evidence = EvidenceError(known.evidence_refusal)
    champion = known.champion
    if champion is not None and known.champion_evidence_read:
        champion = replace(champion, evidence=_evidence(champion.reference, fetch))
    return Case(known.event, evidence, champion, known.inspection, known.judged_at)


def _evidence(reference: ArtifactRef, fetch: Fetch) -> Evidence:
    data = fetch(reference)
    if data is None:
        raise _Missing(f"there is nothing at {reference.uri}")
    try:
        return read_evidence(data, reference)
    except EvidenceError as error:
        raise _Missing(str(error)) from error


def _differences(before: Document, derived: Document) -> Iterator[Difference]:
    gates_before = {gate["gate"]: gate for gate in before["gates"]}
    gates_derived = {gate["gate"]: gate for gate in derived["gates"]}
    for gate in dict.fromkeys((*gates_before, *gates_derived)):
        yield from _entries(gate, gates_before.get(gate, {}), gates_derived.get(gate, {}))
    rest = [{key: value for key, value in whole.items() if key != "gates"} for whole in (before, derived)]
    yield from _entries(None, *rest)


def _entries(gate: str | None, before: Mapping[str, Any], derived: Mapping[str, Any]) -> Iterator[Difference]:
    for entry in dict.fromkeys((*before, *derived)):
        old, new = before.get(entry), derived.get(entry)
        if isinstance(old, Mapping) and isinstance(new, Mapping):
            names = [name for name in dict.fromkeys((*old, *new)) if old.get(name) != new.get(name)]
            yield from (Difference(gate, f"{entry}.{name}", old.get(name), new.get(name)) for name in names)
        elif old != new:
            yield Difference(gate, entry, old, new)


def _changed(before: Verdict, now: Verdict) -> Iterator[Changed]:
    old = {gate.gate: gate.status.value for gate in before.gates}
    new = {gate.gate: gate.status.value for gate in now.gates}
    for gate in dict.fromkeys((*old, *new)):
        if old.get(gate) != new.get(gate):
            yield Changed(gate, old.get(gate), new.get(gate))
