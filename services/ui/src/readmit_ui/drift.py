"""The drift panel of the loop: what the monitor's `GET /drift` says, as HTML. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from readmit_contracts.encounter import BY_KEY
from readmit_ui.rendering import figure, judgement, state, table
from readmit_ui.texts import Texts

_SHOWN = 5
_COLUMNS = ("feature", "psi", "threshold", "status")


@dataclass(frozen=True, slots=True)
class DriftPanel:
    """Stands among the tables: where it comes from, and how it is shown. Never an error, whatever the monitor says."""

    name: str = "drift"
    service: str = "monitor"
    path: str = "/drift"

    def render(self, document: Any, texts: Texts) -> str:
        """State, window and the largest indices; None means that the monitor is away."""
        title, head = texts.tables[self.name], [texts.columns[column] for column in _COLUMNS]
        if not isinstance(document, dict) or "state" not in document:
            return table(title, head, None, texts)
        return table(title, head, _rows(document, texts), texts, intro=_intro(document, texts))


DRIFT = DriftPanel()


def _intro(drift: Mapping[str, Any], texts: Texts) -> str:
    levels = {"drifted": "bad", "stable": "good"}
    return judgement(drift, levels, texts.drift_states, texts.drift_details)


def _rows(drift: Mapping[str, Any], texts: Texts) -> list[list[str]]:
    figures = [one for one in (drift.get("figures") or [])[:_SHOWN] if isinstance(one, dict)]
    if isinstance(drift.get("risk"), dict):
        figures.append(drift["risk"])
    return [
        [
            _label(str(one.get("feature", "")), texts),
            figure(one.get("psi"), 3),
            figure(one.get("threshold"), 2),
            state("drifted" if one.get("drifted") else "stable", texts.drift_states),
        ]
        for one in figures
    ]


def _label(feature: str, texts: Texts) -> str:
    column = BY_KEY.get(feature)
    return texts.label(column) if column else texts.drift_risk if feature == "risk" else feature
