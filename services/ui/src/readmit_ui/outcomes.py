"""The outcomes panel of the loop: what the monitor's `GET /performance` says of the champion, as HTML. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from readmit_ui.rendering import figure, judgement, state, table
from readmit_ui.texts import Texts

_COLUMNS = ("figure", "in_service", "interval", "limit", "status")
_LEVELS = {"degraded": "bad", "sound": "good"}


@dataclass(frozen=True, slots=True)
class OutcomesPanel:
    """Stands among the tables: where it comes from, and how it is shown. Never an error, whatever the monitor says."""

    name: str = "outcomes"
    service: str = "monitor"
    path: str = "/performance"

    def render(self, document: Any, texts: Texts) -> str:
        """State, window, and each figure with its interval; None means that the monitor is away."""
        title, head = texts.tables[self.name], [texts.columns[column] for column in _COLUMNS]
        if not isinstance(document, dict) or "state" not in document:
            return table(title, head, None, texts)
        intro = judgement(document, _LEVELS, texts.outcome_states, texts.outcome_details)
        return table(title, head, _rows(document, texts), texts, intro=intro)


OUTCOMES = OutcomesPanel()


def _rows(performance: Mapping[str, Any], texts: Texts) -> list[list[str]]:
    return [
        [
            state(str(one.get("name", "")), texts.outcome_figures),
            figure(one.get("value"), 3),
            f"{figure(one.get('low'), 3)} … {figure(one.get('high'), 3)}",
            figure(one.get("limit"), 3),
            state("degraded" if one.get("degraded") else "sound", texts.outcome_states),
        ]
        for one in performance.get("figures") or []
        if isinstance(one, dict)
    ]
