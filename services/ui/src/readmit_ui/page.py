"""The page in one language, built with Gradio: controls here, words in `texts`, HTML in `rendering`."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Sequence
from typing import Any
from urllib.parse import quote

import gradio as gr

from readmit_contracts.encounter import Group, Kind
from readmit_ui import gates, rendering
from readmit_ui.clients import Services
from readmit_ui.drift import DRIFT, DriftPanel
from readmit_ui.form import GROUPS, Control, Field, Value, encounter_of, fields, is_common
from readmit_ui.outcomes import OUTCOMES, OutcomesPanel
from readmit_ui.rollout import ROLLOUT, RolloutPanel
from readmit_ui.tables import DECISIONS_PATH, TABLES, Table
from readmit_ui.texts import Texts

#: Fields whose names or values need the room of two, besides code tables and open vocabularies.
_WIDE = {"max_glu_serum", "a1cresult", "change", "diabetesmed"}

#: What the loop's tab shows, from top to bottom: nearest to the patient first.
_PANELS: tuple[Table | DriftPanel | OutcomesPanel | RolloutPanel, ...] = (
    ROLLOUT, TABLES[0], DRIFT, OUTCOMES, *TABLES[1:],
)  # fmt: skip

#: As the promoter takes them.
_SHORTEST_REASON = 3

#: For every event: no veil over the page, not in the public API, not one at a time.
_QUIET: dict[str, Any] = {"show_progress": "hidden", "api_visibility": "private", "concurrency_limit": 32}


def build_page(texts: Texts, languages: Sequence[Texts], services: Services, refresh_s: float) -> gr.Blocks:
    """The whole page. Nothing of what a person enters is kept."""
    with gr.Blocks(title=texts.title, analytics_enabled=False) as blocks:
        gr.HTML(rendering.header(texts, languages), padding=False)
        with gr.Tabs():
            with gr.Tab(texts.tab_patient) as patient_tab:
                serving = _patient_tab(texts, services)
            with gr.Tab(texts.tab_loop) as loop_tab:
                timer = _loop_tab(loop_tab, texts, services, refresh_s)

        async def show_serving() -> str:
            return rendering.serving(await services.get("inference", "/health"), texts)

        patient_tab.select(lambda: gr.Timer(active=False), None, timer, **_QUIET)
        gr.on([blocks.load, gr.Timer(refresh_s).tick], show_serving, None, serving, **_QUIET)
    page: gr.Blocks = blocks
    return page


def _patient_tab(texts: Texts, services: Services) -> gr.HTML:
    serving = gr.HTML(padding=False)
    form = fields(texts)
    controls: dict[str, Any] = {}
    with gr.Row():
        with gr.Column(scale=5, min_width=320):
            for group in GROUPS:
                _group(group, [field for field in form if field.column.group is group], controls, texts)
        with gr.Column(scale=3, min_width=300, elem_classes="rm-side"):
            button = gr.Button(texts.button, variant="primary", size="lg", elem_id="predict")
            result = gr.HTML(rendering.waiting(texts), elem_id="result", padding=False)

    async def predict(*values: Value) -> str:
        encounter = encounter_of(form, values)
        answer, explanation = await asyncio.gather(services.predict(encounter), services.explain(encounter))
        return rendering.answer(answer, texts) + rendering.why(answer, explanation, texts)

    inputs = [controls[field.column.key] for field in form]
    button.click(predict, inputs, result, **(_QUIET | {"show_progress": "minimal"}))
    return serving


def _group(group: Group, members: list[Field], controls: dict[str, Any], texts: Texts) -> None:
    if group is Group.HISTORY:
        with gr.Accordion(texts.groups[group], open=False, elem_id="history"):
            gr.HTML(f'<p class="rm-serving">{texts.history_note}</p>', padding=False)
            _rows(members, controls)
        return
    with gr.Column(elem_classes="rm-group"):
        gr.HTML(f"<h3>{texts.groups[group]}</h3>", padding=False)
        _rows((field for field in members if is_common(field)), controls)
        rare = [field for field in members if not is_common(field)]
        if rare:
            with gr.Accordion(texts.other_drugs, open=False):
                _rows(rare, controls)


def _rows(members: Iterable[Field], controls: dict[str, Any]) -> None:
    with gr.Row(elem_classes="rm-fields"):
        for field in members:
            controls[field.column.key] = _control(field)


def _control(field: Field) -> Any:
    shared: dict[str, Any] = {
        "label": field.label,
        "value": field.value,
        "elem_classes": "rm-wide" if _is_wide(field) else None,
        "elem_id": f"field-{field.column.key}",
    }
    match field.control:
        case Control.CHOICE:
            return gr.Dropdown(choices=list(field.choices), **shared)
        case Control.CHOICE_OR_TEXT:
            return gr.Dropdown(choices=list(field.choices), allow_custom_value=True, **shared)
        case Control.NUMBER:
            return gr.Number(**shared)
        case Control.TEXT:
            return gr.Textbox(max_lines=1, placeholder=field.hint, **shared)


def _is_wide(field: Field) -> bool:
    return field.column.kind in {Kind.CODE, Kind.OPEN} or field.column.key in _WIDE


def _loop_tab(tab: gr.Tab, texts: Texts, services: Services, refresh_s: float) -> gr.Timer:
    """Refreshed by the button, and by the timer that comes back while the tab is open."""
    with gr.Row(equal_height=True):
        words = texts.refreshes_itself.format(seconds=f"{refresh_s:g}")
        gr.HTML(f'<p class="rm-serving">{words}</p>', padding=False)
        button = gr.Button(texts.refresh, size="sm", scale=0, min_width=120)
    shown = {panel.name: gr.HTML(elem_id=f"table-{panel.name}", padding=False) for panel in _PANELS}
    timer = gr.Timer(refresh_s, active=False)
    with gr.Column(elem_id="decision"):
        chosen = gr.Dropdown(choices=[], label=texts.decision, elem_id="chosen-decision")
        shown_gates = gr.HTML(elem_id="table-gates", padding=False)
        _commands(chosen, texts, services)

    async def refresh() -> list[str]:
        documents = await asyncio.gather(*(services.get(panel.service, panel.path) for panel in _PANELS))
        return [panel.render(document, texts) for panel, document in zip(_PANELS, documents, strict=True)]

    async def refresh_choices(decision_id: str | None) -> gr.Dropdown:
        offered = gates.choices(await services.get("promoter", DECISIONS_PATH), texts)
        known = {value for _, value in offered}
        kept = decision_id if decision_id in known else next(iter(offered), ("", None))[1]
        return gr.Dropdown(choices=offered, value=kept)

    async def show_gates(decision_id: str | None) -> str:
        if decision_id is None:
            return ""
        return gates.gates(await services.get("promoter", f"/decisions/{quote(decision_id, safe='')}"), texts)

    occasions = [button.click, timer.tick, tab.select]
    gr.on(occasions, refresh, None, list(shown.values()), **_QUIET)
    choosing = gr.on(occasions, refresh_choices, chosen, chosen, **_QUIET)
    choosing.then(show_gates, chosen, shown_gates, **_QUIET)
    chosen.input(show_gates, chosen, shown_gates, **_QUIET)
    tab.select(lambda: gr.Timer(active=True), None, timer, **_QUIET)
    return timer


def _commands(chosen: gr.Dropdown, texts: Texts, services: Services) -> None:
    """Buttons that change something, each with a reason; only where the page has a key for them."""
    if services.promoter_api_key is None:
        return
    with gr.Row(equal_height=True, elem_id="commands"):
        reason = gr.Textbox(label=texts.why, max_lines=1, max_length=1000, elem_id="why")
        approve = gr.Button(texts.approve, size="sm", scale=0, min_width=140, elem_id="approve")
        rollback = gr.Button(texts.rollback, variant="stop", size="sm", scale=0, min_width=140, elem_id="rollback")
    said = gr.HTML(elem_id="said", padding=False)

    async def tell(path: str, why: str) -> str:
        if len(why.strip()) < _SHORTEST_REASON:
            return rendering.said(texts.why_missing, done=False)
        problem = await services.command(path, why)
        if problem is None:
            return rendering.said(texts.command_done, done=True)
        return rendering.said(problem or texts.away, done=False)

    async def on_approve(decision_id: str | None, why: str) -> str:
        if decision_id is None:
            return rendering.said(texts.nothing_yet, done=False)
        return await tell(f"/decisions/{quote(decision_id, safe='')}/approve", why)

    async def on_rollback(why: str) -> str:
        return await tell("/rollback", why)

    approve.click(on_approve, [chosen, reason], said, **_QUIET)
    rollback.click(on_rollback, reason, said, **_QUIET)
