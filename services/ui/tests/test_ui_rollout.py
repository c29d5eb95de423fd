"""The newest promotion, the trial, and the gates of a decision; and what the page tells the promoter."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import httpx
import pytest

from readmit_ui.clients import Services
from readmit_ui.gates import choices, gates
from readmit_ui.rollout import ROLLOUT
from readmit_ui.spanish import SPANISH
from readmit_ui.texts import ENGLISH, Texts

MODEL = {"name": "diabetes_readmission_lightgbm", "version": "3", "family": "lightgbm"}
AT = "2026-11-28T12:00:00Z"
DOCUMENT: dict[str, Any] = {
    "promotion": {
        "epoch": 4, "action": "rollback", "model": MODEL, "promoted_at": AT, "status": "converging", "why": "w",
        "pods": [{"pod_id": "pod-1", "after_s": 0.4567, "refused": None},
                 {"pod_id": "pod-2", "after_s": 0.9, "refused": "<digest>"}],
        "missing": ["pod-3"], "first_s": 0.4567, "median_s": 0.4567, "last_s": None,
    },
    "trial": {"stage": "canary", "share": 0.1, "challenger": MODEL, "began_at": AT, "refusing": {}, "why": "w",
              "figures": {"answers": 31, "mean_risk_difference": -0.00123, "mean_score_ms": None}},
    "frozen": True, "candidates_waiting": 2, "candidates_unanswered": 3,
}  # fmt: skip
DECISION = {
    "decision": {"outcome": "waiting_for_approval", "detail": "<look>"},
    "judgement": {"fact": {"decision": {"verdict": {"gates": [
        {"gate": "champion", "status": "pass", "detail": "AUROC +0.0100"},
        {"gate": "calibration", "status": "insufficient_evidence", "detail": "slope 1.1"},
        {"gate": "of_tomorrow", "status": "fail", "detail": "unheard of"},
    ]}}}},
    "followed_by": [],
}  # fmt: skip


def test_the_rollout_shows_each_pod_with_its_time_and_the_trial_with_its_figures() -> None:
    html = ROLLOUT.render(DOCUMENT, ENGLISH)
    for words in (
        "on its way to the pods", "epoch 4, rollback: LightGBM v3, 2026-11-28 12:00:00", "first pod 0.46 s",
        "<td>pod-1</td><td>serving</td><td>0.46</td>",
        "<td>pod-2</td><td>refused</td><td></td><td>&lt;digest&gt;</td>",
        "<td>pod-3</td><td>not heard of yet</td>",
        "on trial</b> LightGBM v3, canary 10%", "answers of both 31, mean difference of risk -0.00123",
        "Promotions are frozen", "2 candidates wait", "3 candidates wait for a person",
    ):  # fmt: skip
        assert words in html, words
    assert "last" not in html, "nobody has been the last one yet"
    assert "en camino a los pods" in ROLLOUT.render(DOCUMENT, SPANISH)


def test_before_the_first_promotion_there_is_nothing_yet_and_a_promoter_that_is_away_is_said_to_be() -> None:
    nothing = {"promotion": None, "trial": None, "frozen": False, "candidates_waiting": 0}
    assert ENGLISH.nothing_yet in ROLLOUT.render(nothing, ENGLISH)
    for document in (None, [], {"detail": "x"}):
        assert ENGLISH.away in ROLLOUT.render(document, ENGLISH)


@pytest.mark.parametrize("texts", [ENGLISH, SPANISH], ids=lambda texts: texts.language)
def test_every_outcome_of_the_promoter_has_a_word(texts: Texts) -> None:
    for outcome in (
        "rejected", "promoted", "on_trial", "trial_failed", "waiting_for_approval", "refused", "superseded", "accepted",
        "held", "pass", "fail", "insufficient_evidence", "not_applicable", "converging", "converged", "failed",
    ):  # fmt: skip
        assert outcome in texts.states, outcome


def test_a_decision_shows_its_gates_and_one_that_is_new_to_the_page_as_it_came() -> None:
    html = gates(DECISION, ENGLISH)
    for words in (
        "waits for an approval", "&lt;look&gt;", "<td>Against the champion</td><td>passed</td><td>AUROC +0.0100</td>",
        "<td>Calibration</td><td>insufficient evidence</td>", "<td>of_tomorrow</td><td>failed</td>",
    ):  # fmt: skip
        assert words in html, words
    assert gates(None, ENGLISH) == ""
    assert gates({"judgement": {"fact": None}}, ENGLISH)


def test_decisions_are_offered_by_candidate_and_outcome() -> None:
    one = {"decision_id": "4c16", "decided_at": AT, "candidate": MODEL, "outcome": "on_trial"}
    assert choices({"decisions": [one, {"no": "id"}]}, ENGLISH) == [
        ("2026-11-28 12:00:00 · LightGBM v3 · on trial", "4c16")
    ]
    assert choices(None, ENGLISH) == []


@pytest.mark.parametrize(
    ("status", "body", "told"),
    [(200, {}, None), (409, {"detail": "not now"}, "not now"), (500, [], ""), (422, {"detail": [{"msg": "x"}]}, "")],
)
async def test_a_command_carries_key_and_reason_to_the_promoter_alone(
    services_that: Callable[..., Services], status: int, body: Any, told: str | None
) -> None:
    seen: list[httpx.Request] = []

    def answer(request: httpx.Request) -> httpx.Response:
        seen.append(request)
        return httpx.Response(status, json=body)

    services = replace(services_that(answer), promoter_api_key="s3cret")
    assert await services.command("/rollback", "alerts doubled") == told
    await services.get("trainer", "/jobs")
    assert json.loads(seen[0].content) == {"reason": "alerts doubled"}
    assert [request.headers.get("x-api-key") for request in seen] == ["s3cret", None]
    assert "s3cret" not in repr(services)


async def test_a_promoter_that_is_away_did_nothing(services_that: Callable[..., Services]) -> None:
    def away(request: httpx.Request) -> httpx.Response:
        raise httpx.ConnectError("away", request=request)

    assert await services_that(away).command("/rollback", "alerts doubled") == ""
