"""Answers and troubles as HTML. Pure; everything that came from outside is escaped."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import datetime
from html import escape
from typing import Any

from readmit_contracts.encounter import BY_KEY, Column, Kind, normalise_name
from readmit_contracts.events import MODEL_STREAM
from readmit_contracts.prediction import Explanation, FieldError, FieldWarning, Prediction, ServingModel
from readmit_ui.clients import Trouble
from readmit_ui.reasons import reasons
from readmit_ui.texts import Texts


def header(texts: Texts, languages: Iterable[Texts]) -> str:
    """Title, warning and the switch of language."""
    links = " · ".join(
        f"<b>{escape(other.name)}</b>"
        if other is texts
        else f'<a href="../{other.language}/" lang="{other.language}">{escape(other.name)}</a>'
        for other in languages
    )
    return (
        f'<header class="rm-header"><div><h1>{escape(texts.title)}</h1><p>{escape(texts.subtitle)}</p></div>'
        f'<nav>{links}</nav></header><p class="rm-caution" role="note">{escape(texts.not_clinical)}</p>'
    )


def serving(health: Any, texts: Texts) -> str:
    """One line about the model in service, from `GET /health` (None when inference is away)."""
    if not isinstance(health, dict):
        return _notice("bad", *texts.troubles["unreachable"])
    if not health.get("model"):
        return _notice("wait", *texts.troubles["no_model"])
    model = ServingModel.model_validate(health["model"])
    return _synthetic(model, texts) + f'<p class="rm-serving">{escape(texts.serving_now)}: {_model(model, texts)}</p>'


def answer(prediction: Prediction | Trouble, texts: Texts) -> str:
    """The result panel."""
    if isinstance(prediction, Trouble):
        return _trouble(prediction, texts)
    high = prediction.readmitted_within_30_days
    percent, threshold = f"{prediction.risk:.1%}", f"{prediction.threshold:.1%}"
    return (
        f"{_synthetic(prediction.model, texts)}"
        f'<section class="rm-result {"high" if high else "low"}" aria-live="polite">'
        f'<p class="rm-what">{escape(texts.risk)}</p><p class="rm-risk">{percent}</p>'
        f'<div class="rm-bar"><i style="width:{percent}"></i><b style="left:{threshold}"></b></div>'
        f'<p class="rm-threshold">{escape(texts.threshold.format(threshold=threshold))}</p>'
        f'<p class="rm-verdict">{escape(texts.verdict_high if high else texts.verdict_low)}</p>'
        f'<p class="rm-model">{escape(texts.answered_by)}: {_model(prediction.model, texts)}</p>'
        f"{_warnings(prediction.warnings, texts)}</section>"
    )


def why(prediction: Prediction | Trouble, explanation: Explanation | None, texts: Texts) -> str:
    """The panel below the result; nothing where there is no explanation of this very answer."""
    if explanation is None or isinstance(prediction, Trouble) or explanation.model.sha256 != prediction.model.sha256:
        return ""
    return reasons(explanation, texts)


def waiting(texts: Texts) -> str:
    """The result panel before the first answer."""
    return f'<section class="rm-result idle"><p>{escape(texts.empty_result)}</p></section>'


def _trouble(trouble: Trouble, texts: Texts) -> str:
    title, advice = texts.troubles[trouble.kind]
    level = "wait" if trouble.kind in {"no_model", "overloaded", "rate_limited"} else "bad"
    errors = trouble.problem.errors if trouble.problem else []
    lines = [f"<li><b>{escape(_name(e.field, texts))}</b>: {escape(_explained(e, texts))}</li>" for e in errors]
    said = trouble.problem.detail if trouble.problem and trouble.kind in {"refused", "failed"} and not errors else ""
    return _notice(level, title, f"{advice} {said}".strip(), "".join(lines))


def _explained(error: FieldError, texts: Texts) -> str:
    column = BY_KEY.get(normalise_name(error.field))
    if column is None:
        return f"{error.problem}; {error.allowed}"
    allowed = _allowed(column, texts)
    if error.value is None:
        return f"{texts.field_missing}: {allowed}"
    return f"{texts.field_wrong.format(value=error.value)}: {allowed}"


def _allowed(column: Column, texts: Texts) -> str:
    match column.kind:
        case Kind.COUNT | Kind.IDENTIFIER:
            return texts.allowed_number.format(low=column.low, high=column.high)
        case Kind.CODE:
            return texts.allowed_codes
        case Kind.CLOSED:
            values = ", ".join(texts.value(column.key, value) for value in column.allowed)
            return texts.allowed_values.format(values=values)
        case Kind.OPEN:
            return texts.allowed_text
        case Kind.DIAGNOSIS:
            return texts.allowed_diagnosis


def _warnings(warnings: list[FieldWarning], texts: Texts) -> str:
    if not warnings:
        return ""
    lines = []
    for warning in warnings:
        column = BY_KEY.get(normalise_name(warning.field))
        message = warning.message
        if column is not None and column.kind is Kind.COUNT:
            message = texts.warning_capped.format(usual=column.usual_high)
        elif column is not None:
            message = texts.warning_unseen
        lines.append(
            f"<li><b>{escape(_name(warning.field, texts))}</b> ({escape(str(warning.value))}): {escape(message)}</li>"
        )
    return f'<div class="rm-warnings"><p>{escape(texts.warnings)}</p><ul>{"".join(lines)}</ul></div>'


def _name(field: str, texts: Texts) -> str:
    column = BY_KEY.get(normalise_name(field))
    return field if column is None else texts.label(column)


def _model(model: ServingModel, texts: Texts) -> str:
    family = model.name.removeprefix(f"{MODEL_STREAM}_")
    parts = (
        texts.version.format(version=model.version),
        texts.epoch.format(epoch=model.epoch),
        texts.digest.format(digest=model.sha256[:8]),
    )
    return (
        f'<b title="{escape(model.name)}">{escape(texts.families.get(family, model.name))}</b> '
        f'<span title="{model.sha256}">{escape(" · ".join(parts))}</span>'
    )


def _synthetic(model: ServingModel, texts: Texts) -> str:
    return f'<p class="rm-synthetic" role="alert">{escape(texts.synthetic_banner)}</p>' if model.synthetic else ""


def _notice(level: str, title: str, detail: str, items: str = "") -> str:
    listed = f"<ul>{items}</ul>" if items else ""
    return (
        f'<section class="rm-notice {level}" role="alert"><h3>{escape(title)}</h3><p>{escape(detail)}</p>{listed}'
        "</section>"
    )


def table(title: str, head: Iterable[str], rows: list[list[str]] | None, texts: Texts, intro: str = "") -> str:
    """A titled table of text below `intro` (HTML); `rows` None means that its service is away."""
    if rows is None:
        body = f'<p class="rm-away">{escape(texts.away)}</p>'
    elif not rows:
        body = "" if intro else f"<p>{escape(texts.nothing_yet)}</p>"
    else:
        names = "".join(f"<th>{escape(name)}</th>" for name in head)
        lines = "".join("<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in row) + "</tr>" for row in rows)
        body = f'<div class="rm-scroll"><table><thead><tr>{names}</tr></thead><tbody>{lines}</tbody></table></div>'
    return f'<section class="rm-table"><h3>{escape(title)}</h3>{intro}{body}</section>'


def said(text: str, *, done: bool) -> str:
    """What came of a command."""
    return f'<p role="status"><b class="rm-state {"good" if done else "bad"}">{escape(text)}</b></p>'


def state(value: object, words: Mapping[str, str]) -> str:
    """A status in the page's language; one that is new to this page as it came."""
    return words.get(str(value), str(value))


def figure(value: object, decimals: int) -> str:
    """A number with so many decimals; anything else is empty."""
    return f"{value:.{decimals}f}" if isinstance(value, int | float) else ""


def when(value: object) -> str:
    """A moment, to the second; what is none is empty."""
    try:
        return datetime.fromisoformat(str(value)).strftime("%Y-%m-%d %H:%M:%S")
    except ValueError:
        return ""


def judgement(
    document: Mapping[str, Any], levels: Mapping[str, str], states: Mapping[str, str], details: Mapping[str, str]
) -> str:
    """The state of a judgement of the monitor, and its sentence, filled in from the document."""
    name = str(document["state"])
    known = {key: "" if value is None else value for key, value in document.items()}
    known |= {"window_to": when(document.get("window_to"))}
    try:
        detail = details.get(name, "").format(**known)
    except KeyError:  # a monitor of another version
        detail = ""
    level = levels.get(name, "wait")
    return f'<p><b class="rm-state {level}">{escape(state(name, states))}</b> {escape(detail)}</p>'
