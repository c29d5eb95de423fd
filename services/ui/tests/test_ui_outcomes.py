"""The outcomes panel: what the monitor says of the champion in words, and what stands there when it is away."""

from __future__ import annotations

from typing import Any

import pytest

from readmit_ui.outcomes import OUTCOMES
from readmit_ui.spanish import SPANISH
from readmit_ui.texts import ENGLISH, Texts

both = pytest.mark.parametrize("texts", [ENGLISH, SPANISH], ids=lambda texts: texts.language)

FIGURES = [
    {"name": "auroc", "value": 0.5512, "low": 0.478, "high": 0.624, "reference": 0.668, "limit": 0.638,
     "degraded": True},
    {"name": "calibration_in_the_large", "value": -0.004, "low": -0.03, "high": 0.022, "reference": 0.0,
     "limit": -0.03, "degraded": False},
]  # fmt: skip


def document(state: str, **changed: Any) -> dict[str, Any]:
    """As the monitor answers."""
    return {
        "state": state, "min_rows": 500, "window_rows": 1742, "window_positives": 203, "intervened": 258,
        "window_to": "2026-12-21T17:00:00Z", "figures": FIGURES,
    } | changed  # fmt: skip


@both
def test_a_degraded_champion_is_shown_with_window_and_figures(texts: Texts) -> None:
    html = OUTCOMES.render(document("degraded"), texts)
    for expected in (texts.outcome_states["degraded"], "1742", "203", "258", "2026-12-21 17:00:00"):
        assert expected in html
    cells = f"<td>AUROC</td><td>0.551</td><td>0.478 … 0.624</td><td>0.638</td><td>{texts.outcome_states['degraded']}"
    assert cells in html
    assert f"<td>{texts.outcome_figures['calibration_in_the_large']}</td><td>-0.004</td>" in html
    assert html.count("<tr>") == 1 + 2


@both
@pytest.mark.parametrize("state", ["no_champion", "too_few", "sound", "degraded"])
def test_each_state_has_its_words_without_gaps(texts: Texts, state: str) -> None:
    html = OUTCOMES.render(document(state, figures=[]), texts)
    assert texts.outcome_states[state] in html
    assert "{" not in html
    assert "<table>" not in html


@both
@pytest.mark.parametrize("answer", [None, [], "no", {}])
def test_a_monitor_that_is_away_or_answers_nonsense_is_said_to_be_away(texts: Texts, answer: Any) -> None:
    assert texts.away in OUTCOMES.render(answer, texts)


def test_an_unknown_limit_is_empty_and_a_monitor_of_another_version_is_escaped() -> None:
    unknown = OUTCOMES.render(document("sound", figures=[FIGURES[0] | {"limit": None, "degraded": False}]), ENGLISH)
    assert f"0.624</td><td></td><td>{ENGLISH.outcome_states['sound']}" in unknown
    html = OUTCOMES.render({"state": "<novel>", "figures": [{"name": "<new>"}, None]}, ENGLISH)
    assert "&lt;novel&gt;" in html
    assert "<td>&lt;new&gt;</td><td></td>" in html
    assert ENGLISH.outcome_states["degraded"] in OUTCOMES.render({"state": "degraded"}, ENGLISH)
