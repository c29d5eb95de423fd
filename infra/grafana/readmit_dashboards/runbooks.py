"""Runbooks inside Grafana: `docs/runbooks.md` as a dashboard, one panel for each alert, so that links work anywhere."""

from __future__ import annotations

import re

from grafana_foundation_sdk.builders import text
from grafana_foundation_sdk.builders.dashboard import Dashboard
from grafana_foundation_sdk.models.text import TextMode

from readmit_dashboards.board import TAG
from readmit_dashboards.panels import RUNBOOKS_UID, runbook_url, stable_id

_LINK = re.compile(r"\[([^\]]+)\]\(([^)]+)\)")


def chapters(document: str) -> dict[str, str]:
    """Heading → text of every chapter of the second level, in order."""
    parts = re.split(r"^## +(.+)$", document, flags=re.MULTILINE)
    return {heading.strip(): body.strip() for heading, body in zip(parts[1::2], parts[2::2], strict=True)}


def runbooks(document: str) -> Dashboard:
    """The dashboard that panels and alerts point at."""
    found = chapters(document)
    dashboard = (
        Dashboard("Runbooks")
        .uid(RUNBOOKS_UID)
        .description(
            "One panel for each alert: what it means, where to look, what mends it. The same as docs/runbooks.md."
        )
        .tags([TAG])
        .readonly()
        .timezone("browser")
        .time("now-1h", "now")
    )
    anchors = {heading.lower(): heading for heading in found}
    for heading, body in found.items():
        dashboard = dashboard.with_panel(
            text.Panel()
            .id(stable_id(heading))
            .title(heading)
            .description(f"docs/runbooks.md#{heading.lower()}")
            .mode(TextMode.MARKDOWN)
            .content(_LINK.sub(lambda link: _inside_grafana(link, anchors), body))
            .span(12)
            .height(6)
        )
    return dashboard


def _inside_grafana(link: re.Match[str], anchors: dict[str, str]) -> str:
    """A link to another chapter leads to its panel; the text of any other stays, its file is not here."""
    words, target = link.groups()
    heading = anchors.get(target.removeprefix("#"))
    return words if heading is None else f"[{words}]({runbook_url(heading)})"
