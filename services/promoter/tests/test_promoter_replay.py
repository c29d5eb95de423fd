"""Past decisions, derived again from what is kept of them; and under another policy."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from readmit_contracts.events import ArtifactRef
from readmit_promoter.canonical import canonical, digest
from readmit_promoter.domain import Case, judge
from readmit_promoter.errors import DocumentError, EvidenceError
from readmit_promoter.evidence import read_evidence
from readmit_promoter.policy import Policy
from readmit_promoter.replay import Changed, Match, dry_run, kept, replay
from readmit_promoter.verdict import Outcome, Reason, Verdict

Arrays = dict[str, Any]
Document = dict[str, Any]
Shelf = dict[str, bytes]
SeeAgain = Callable[..., tuple[Document, Shelf]]


@pytest.fixture(scope="session")
def decided(
    case: Callable[..., Case],
    cohort: Callable[..., Arrays],
    packed: Callable[[Arrays], bytes],
    reference: Callable[[bytes], ArtifactRef],
    quick_policy: Policy,
) -> SeeAgain:
    """What is kept of a decision on a candidate against a champion, and the evidence by its digest."""

    def make(noise: float = 0.5, champion_noise: float = 3.0, **changes: Any) -> tuple[Document, Shelf]:
        arrays = cohort(noise)
        arrays |= {"gender": (arrays["patient"] % 2).astype(np.uint8), "gender_names": np.array(["Female", "Male"])}
        shelf, read, refs = {}, [], []
        for data in (packed(arrays), packed(cohort(champion_noise))):
            refs.append(reference(data))
            shelf[refs[-1].sha256] = data
            read.append(read_evidence(data, refs[-1]))
        one = case(*read)
        assert one.champion is not None
        one = replace(
            one,
            event=one.event.model_copy(update={"evidence": refs[0]}),
            champion=replace(one.champion, reference=refs[1]),
        )
        one = replace(one, **changes)
        document = kept(quick_policy, one, judge(quick_policy, one))
        return json.loads(canonical(document)), shelf

    return make


def fetching(shelf: Shelf) -> Callable[[ArtifactRef], bytes | None]:
    return lambda ref: shelf.get(ref.sha256)


def test_a_decision_follows_from_what_was_kept_of_it(decided: SeeAgain) -> None:
    for noise, champion_noise in ((0.5, 3.0), (3.0, 0.5)):
        document, shelf = decided(noise, champion_noise)
        assert replay(document, fetching(shelf)).match is Match.SAME


def test_a_decision_by_a_policy_that_could_not_say_as_much_as_one_of_today_follows_all_the_same(
    decided: SeeAgain,
) -> None:
    document, shelf = decided()
    del document["policy"]["rollout"]["reactions"]["degradation"]
    document["verdict"]["policy_sha256"] = digest(document["policy"])
    assert replay(document, fetching(shelf)).match is Match.SAME


def test_a_decision_is_the_same_bytes_on_a_machine_with_other_instructions(decided: SeeAgain, tmp_path: Path) -> None:
    """As far as one machine can play another: numpy without its vector code, and a BLAS for an old processor."""
    document, shelf = decided()
    (tmp_path / "decision.json").write_bytes(canonical(document))
    for sha256, data in shelf.items():
        (tmp_path / sha256).write_bytes(data)
    program = (
        "import json, sys, pathlib; from readmit_promoter.replay import replay\n"
        "folder = pathlib.Path(sys.argv[1]); document = json.loads((folder / 'decision.json').read_bytes())\n"
        "print(replay(document, lambda ref: (folder / ref.sha256).read_bytes()))"
    )
    features = np.lib.introspect.opt_func_info(signature="float64")  # names what this processor's code is chosen by
    chosen = {found["current"] for function in features.values() for found in function.values()}
    disabled = " ".join(sorted(name for name in chosen if name and not name.startswith("baseline")))
    elsewhere = os.environ | {"NPY_DISABLE_CPU_FEATURES": disabled, "OPENBLAS_CORETYPE": "Prescott"}
    command = [sys.executable, "-c", program, str(tmp_path)]
    ran = subprocess.run(command, env=elsewhere, capture_output=True, text=True, check=True)
    assert "SAME" in ran.stdout


def test_evidence_that_is_gone_or_altered_is_missing(decided: SeeAgain) -> None:
    document, shelf = decided()
    for sha256 in shelf:
        gone = replay(document, fetching({key: data for key, data in shelf.items() if key != sha256}))
        assert (gone.match, "there is nothing at" in gone.detail) == (Match.EVIDENCE_MISSING, True)
        altered = replay(document, fetching(shelf | {sha256: shelf[sha256] + b"x"}))
        assert (altered.match, "are not those of digest" in altered.detail) == (Match.EVIDENCE_MISSING, True)


def test_what_could_not_be_judged_then_is_judged_as_then(decided: SeeAgain) -> None:
    document, _ = decided(evidence=EvidenceError("there is nothing at s3://bucket/x"), champion=None)
    assert document["verdict"]["reason"] == "bad_evidence"
    assert replay(document, fetching({})).match is Match.SAME


def leaves(document: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    if isinstance(document, dict):
        return [leaf for key, value in document.items() for leaf in leaves(value, (*path, key))]
    if isinstance(document, list):
        return [leaf for key, value in enumerate(document) for leaf in leaves(value, (*path, key))]
    return [path]


def altered(document: Document, path: tuple[Any, ...]) -> Document:
    copy: Document = json.loads(canonical(document))
    place = copy
    for key in path[:-1]:
        place = place[key]
    value = place[path[-1]]
    if isinstance(value, bool) or value is None:
        place[path[-1]] = not value
    else:
        place[path[-1]] = value + 1 if isinstance(value, int | float) else f"{value}x"
    return copy


@given(data=st.data())
@settings(max_examples=150, deadline=None)
def test_whatever_is_altered_in_a_verdict_is_found_and_named(decided: SeeAgain, data: st.DataObject) -> None:
    document, shelf = decided()
    path = data.draw(st.sampled_from(leaves(document["verdict"])))
    try:
        found = replay(altered(document, ("verdict", *path)), fetching(shelf))
    except DocumentError:
        return  # no outcome, reason or status of this name
    assert found.match is Match.DIFFERS
    gate = document["verdict"]["gates"][path[1]]["gate"] if path[0] == "gates" else None
    if gate is None or path[2] != "gate":
        assert {difference.gate for difference in found.differences} == {gate}
    assert found.differences


def test_the_figure_that_differs_is_told_as_it_was_and_as_it_is(decided: SeeAgain) -> None:
    document, shelf = decided()
    position = next(at for at, gate in enumerate(document["verdict"]["gates"]) if gate["gate"] == "champion")
    figures = document["verdict"]["gates"][position]["figures"]
    true = figures["auroc_difference"]
    figures["auroc_difference"] = 0.5
    [difference] = replay(document, fetching(shelf)).differences
    assert (difference.gate, difference.entry) == ("champion", "figures.auroc_difference")
    assert (difference.kept, difference.derived) == (0.5, true)


def test_a_policy_that_was_altered_afterwards_no_longer_gives_the_verdict(decided: SeeAgain) -> None:
    document, shelf = decided()
    document["policy"]["gates"]["latency"]["max_microseconds"] = 3.0
    found = replay(document, fetching(shelf))
    assert {(difference.gate, difference.entry) for difference in found.differences} >= {
        ("latency", "status"),
        (None, "policy_sha256"),
        (None, "outcome"),
    }


@given(data=st.data())
@settings(max_examples=200, deadline=None)
def test_a_damaged_document_is_refused_or_judged_but_never_a_crash(decided: SeeAgain, data: st.DataObject) -> None:
    document, shelf = decided()
    path = data.draw(st.sampled_from([path for path in leaves(document) if path[0] != "policy"]))
    try:
        replay(altered(document, path), fetching(shelf))
    except DocumentError:
        return


@pytest.mark.parametrize("document", [{}, {"format": 2}, {"format": 1, "case": 3}, {"format": 1, "case": {}}])
def test_a_document_of_something_else_is_told(document: Document) -> None:
    with pytest.raises(DocumentError):
        replay(document, fetching({}))


def test_a_dry_run_tells_what_another_policy_would_have_decided(decided: SeeAgain, quick_policy: Policy) -> None:
    better, shelf = decided(0.5, 3.0)
    worse, others = decided(3.0, 0.5)
    gone, _ = decided(1.0, 2.0)
    strict = quick_policy.document() | {"version": "strict"}
    strict["gates"]["latency"]["max_microseconds"] = 1
    strict["gates"]["batches"] = None
    told = list(
        dry_run([("1", better), ("2", worse), ("3", gone)], Policy.model_validate(strict), fetching(shelf | others))
    )
    assert [(run.decision_id, run.outcome_before, run.outcome) for run in told] == [
        ("1", Outcome.ACCEPTED, Outcome.REJECTED),
        ("2", Outcome.REJECTED, Outcome.REJECTED),
        ("3", Outcome.ACCEPTED, None),
    ]
    assert (told[0].reason, told[1].reason) == (Reason.TOO_SLOW, Reason.NOT_BETTER)
    assert told[0].changed == (Changed("latency", "pass", "fail"), Changed("batches", "pass", "not_applicable"))
    assert "there is nothing at" in told[2].detail


def test_under_the_same_policy_a_dry_run_changes_nothing(decided: SeeAgain, quick_policy: Policy) -> None:
    document, shelf = decided()
    [run] = dry_run([("1", document)], quick_policy, fetching(shelf))
    assert (run.outcome, run.changed) == (run.outcome_before, ())


def test_the_time_of_judgement_is_part_of_what_is_kept(
    decided: SeeAgain, case: Callable[..., Case], evidence: Callable[..., Any]
) -> None:
    later = case(evidence(1.0)).judged_at + timedelta(days=400)
    document, shelf = decided(judged_at=later)
    assert document["verdict"]["reason"] == "stale_data"
    assert replay(document, fetching(shelf)).match is Match.SAME


def test_a_verdict_of_something_else_is_told() -> None:
    with pytest.raises(DocumentError, match="not the document of a verdict"):
        Verdict.from_document({"outcome": "accepted"})
