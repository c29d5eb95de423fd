"""The drift panel: the monitor's figures in words, and what stands there when it is away."""

from __future__ import annotations

from typing import Any

import pytest

from readmit_ui.drift import DRIFT
from readmit_ui.spanish import SPANISH
from readmit_ui.texts import ENGLISH, Texts

both = pytest.mark.parametrize("texts", [ENGLISH, SPANISH], ids=lambda texts: texts.language)


def figure(feature: str, psi: float, *, drifted: bool = False) -> dict[str, Any]:
    return {"feature": feature, "psi": psi, "threshold": 0.2, "drifted": drifted}


def document(state: str, **changed: Any) -> dict[str, Any]:
    """As the monitor answers."""
    return {
        "state": state, "min_rows": 500, "window_rows": 1234, "window_to": "2026-11-25T04:00:00Z",
        "reference_dataset_version": 7, "reference_rows": 69512,
        "figures": [figure("payer_code", 0.4123, drifted=True), *(figure(f"number_{n}", 0.01) for n in range(9))],
        "risk": None,
    } | changed  # fmt: skip


@both
def test_drift_names_state_window_reference_and_the_largest_features(texts: Texts) -> None:
    html = DRIFT.render(document("drifted", risk=figure("risk", 0.0345)), texts)
    for expected in (texts.drift_states["drifted"], "1234", "69512", "2026-11-25 04:00:00", texts.drift_risk, "0.035"):
        assert expected in html
    cells = f"<td>{texts.labels['payer_code']}</td><td>0.412</td><td>0.20</td><td>{texts.drift_states['drifted']}</td>"
    assert cells in html
    assert html.count("<tr>") == 1 + 5 + 1


@both
@pytest.mark.parametrize("state", ["no_predictions", "no_reference", "too_few", "stable", "drifted"])
def test_each_state_has_its_words_without_gaps(texts: Texts, state: str) -> None:
    html = DRIFT.render(document(state, figures=[]), texts)
    assert texts.drift_states[state] in html
    assert "{" not in html
    assert "<table>" not in html


@both
@pytest.mark.parametrize("answer", [None, [], "no", {}])
def test_a_monitor_that_is_away_or_answers_nonsense_is_said_to_be_away(texts: Texts, answer: Any) -> None:
    assert texts.away in DRIFT.render(answer, texts)


def test_a_monitor_of_another_version_is_no_error_and_is_escaped() -> None:
    html = DRIFT.render({"state": "<novel>", "figures": [{"feature": "<new>"}, None]}, ENGLISH)
    assert "&lt;novel&gt;" in html
    assert "<td>&lt;new&gt;</td><td></td><td></td>" in html
    assert ENGLISH.drift_states["stable"] in DRIFT.render({"state": "stable"}, ENGLISH)
