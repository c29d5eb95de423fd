"""The rollout panel of the loop: what the promoter's `GET /rollout` says, as HTML. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from html import escape
from typing import Any

from readmit_ui.rendering import figure, state, table, when
from readmit_ui.tables import named
from readmit_ui.texts import Texts

_COLUMNS = ("pod", "status", "after_s", "reason")
_LEVELS = {"converged": "good", "failed": "bad"}


@dataclass(frozen=True, slots=True)
class RolloutPanel:
    """Stands among the tables. Never an error, whatever the promoter says."""

    name: str = "rollout"
    service: str = "promoter"
    path: str = "/rollout"

    def render(self, document: Any, texts: Texts) -> str:
        """The newest promotion with its pods, and the trial; None means that the promoter is away."""
        title, head = texts.tables[self.name], [texts.columns[column] for column in _COLUMNS]
        if not isinstance(document, dict) or "promotion" not in document:
            return table(title, head, None, texts)
        promotion = document["promotion"] or {}
        intro = _promotion(promotion, texts) + _trial(document.get("trial") or {}, texts) + _queue(document, texts)
        return table(title, head, _pods(promotion, texts), texts, intro=intro)


ROLLOUT = RolloutPanel()


def _promotion(promotion: Mapping[str, Any], texts: Texts) -> str:
    if not promotion:
        return ""
    status = str(promotion.get("status", ""))
    times = " · ".join(
        texts.times[name].format(seconds=figure(promotion.get(f"{name}_s"), 2))
        for name in ("first", "median", "last")
        if promotion.get(f"{name}_s") is not None
    )
    what = (
        f"{texts.epoch.format(epoch=promotion.get('epoch', ''))}, {state(promotion.get('action'), texts.states)}:"
        f" {named(promotion.get('model'), texts)}, {when(promotion.get('promoted_at'))}"
    )
    return (
        f'<p><b class="rm-state {_LEVELS.get(status, "wait")}">{escape(state(status, texts.states))}</b> '
        f"{escape(what)}{escape(f' · {times}' if times else '')}</p>"
    )


def _trial(trial: Mapping[str, Any], texts: Texts) -> str:
    if not trial:
        return ""
    figures = trial.get("figures") or {}
    told = ", ".join(
        f"{texts.trial_figures[name]} {_number(figures[name])}"
        for name in texts.trial_figures
        if figures.get(name) is not None
    )
    stage = state(trial.get("stage"), texts.states)
    if trial.get("share"):
        stage += f" {trial['share']:.0%}"
    what = f"{named(trial.get('challenger'), texts)}, {stage}, {when(trial.get('began_at'))}. {told}"
    return f'<p><b class="rm-state wait">{escape(texts.states["on_trial"])}</b> {escape(what)}</p>'


def _queue(document: Mapping[str, Any], texts: Texts) -> str:
    frozen = f'<b class="rm-state wait">{escape(texts.frozen)}</b> ' if document.get("frozen") else ""
    waiting, unanswered = document.get("candidates_waiting"), document.get("candidates_unanswered")
    told = [texts.candidates_waiting.format(count=waiting)] if frozen or waiting else []
    if unanswered:
        told.append(texts.candidates_unanswered.format(count=unanswered))
    return f"<p>{frozen}{escape(' '.join(told))}</p>" if told else ""


def _pods(promotion: Mapping[str, Any], texts: Texts) -> list[list[str]]:
    rows = []
    for pod in promotion.get("pods") or []:
        refused = pod.get("refused")
        status = state("refused" if refused else "serving", texts.states)
        after = "" if refused else figure(pod.get("after_s"), 2)
        rows.append([str(pod.get("pod_id", "")), status, after, str(refused or "")])
    rows += [[str(pod), state("missing", texts.states), "", ""] for pod in promotion.get("missing") or []]
    return rows


def _number(value: object) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)
