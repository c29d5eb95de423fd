"""Why the model gives this risk, as HTML: the fields that moved it most, as bars to either side. Pure."""

from __future__ import annotations

from html import escape

from readmit_contracts.encounter import Kind, normalise_name
from readmit_contracts.history import HISTORY, INPUTS_BY_KEY
from readmit_contracts.prediction import Contribution, Explanation
from readmit_ui.texts import Texts

#: Fields that are shown; the others are summed up in one line.
_SHOWN = 8


def reasons(explanation: Explanation, texts: Texts) -> str:
    """The fields with the largest contributions, then all others as one: the bars sum to what moved the risk."""
    shown, rest = explanation.contributions[:_SHOWN], explanation.contributions[_SHOWN:]
    most = max((abs(one.contribution) for one in shown), default=0.0) or 1.0
    lines = [_line(label(one.field, texts), _value(one, texts), one.contribution, most) for one in shown]
    others = sum(one.contribution for one in rest)
    if rest:
        lines.append(_line(texts.other_fields.format(count=len(rest)), "", others, most))
    return (
        f'<section class="rm-reasons"><h3>{escape(texts.reasons)}</h3>'
        f'<p class="rm-serving">{escape(texts.reasons_note)}</p><table>{"".join(lines)}</table></section>'
    )


def label(field: str, texts: Texts) -> str:
    """What a field of an explanation is called: a field of the form, what is counted from some, or a difference."""
    if field in texts.counted:
        return texts.counted[field]
    column = INPUTS_BY_KEY.get(normalise_name(field.removeprefix(f"{HISTORY}.")))
    if column is not None:
        return texts.label(column)
    left, minus, right = field.partition("-")
    known = [INPUTS_BY_KEY.get(normalise_name(part)) for part in (left, right)]
    if minus and all(known):
        return " - ".join(texts.label(column) for column in known if column is not None)
    return field


def _value(one: Contribution, texts: Texts) -> str:
    column = INPUTS_BY_KEY.get(normalise_name(one.field.removeprefix(f"{HISTORY}.")))
    if one.value is None:
        return texts.unknown
    if column is not None and column.kind is Kind.CODE and isinstance(one.value, int):
        return texts.code(column.key, one.value)
    if column is not None and column.kind in {Kind.CLOSED, Kind.OPEN}:
        return texts.value(column.key, str(one.value))
    return str(one.value)


def _line(name: str, value: str, contribution: float, most: float) -> str:
    width = f"{min(1.0, abs(contribution) / most) / 2:.1%}"  # of both sides
    side = "more" if contribution > 0 else "less"
    return (
        f'<tr class="{side}"><th>{escape(name)}<small>{escape(value)}</small></th>'
        f'<td><i><b style="width:{width}"></b></i></td><td>{contribution:+.2f}</td></tr>'
    )
