"""One decision, gate by gate: what the promoter's `GET /decisions/{id}` says, as HTML. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from html import escape
from typing import Any

from readmit_ui.rendering import state, table, when
from readmit_ui.tables import named
from readmit_ui.texts import Texts

_COLUMNS = ("gate", "status", "figures")


def choices(document: Any, texts: Texts) -> list[tuple[str, str]]:
    """Decisions of `GET /decisions` to choose from, as (label, id), newest first; none where it is away."""
    decisions = document.get("decisions") if isinstance(document, dict) else None
    return [
        (_label(each, texts), str(each["decision_id"]))
        for each in decisions or []
        if isinstance(each, dict) and "decision_id" in each
    ]


def gates(document: Any, texts: Texts) -> str:
    """The gates of one decision, each with what it found; nothing where there is no decision."""
    if not isinstance(document, dict):
        return ""
    decision: Mapping[str, Any] = document.get("decision") or {}
    verdict = _verdict(document)
    rows = [
        [
            texts.gates.get(str(gate.get("gate")), str(gate.get("gate", ""))),
            state(gate.get("status"), texts.states),
            str(gate.get("detail", "")),
        ]
        for gate in verdict.get("gates") or []
    ]
    intro = (
        f"<p><b>{escape(state(decision.get('outcome'), texts.states))}</b>"
        f" {escape(str(decision.get('detail') or decision.get('reason') or ''))}</p>"
    )
    head = [texts.columns[column] for column in _COLUMNS]
    return table(texts.tables["gates"], head, rows, texts, intro=intro)


def _label(decision: Mapping[str, Any], texts: Texts) -> str:
    outcome = state(decision.get("outcome"), texts.states)
    return f"{when(decision.get('decided_at'))} · {named(decision.get('candidate'), texts)} · {outcome}"


def _verdict(document: Mapping[str, Any]) -> Mapping[str, Any]:
    found: Any = document
    for name in ("judgement", "fact", "decision", "verdict"):
        found = found.get(name) if isinstance(found, dict) else None
    return found if isinstance(found, dict) else {}
