"""What the committed dashboards ask Prometheus for, as Prometheus would see it."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

DASHBOARDS = Path(__file__).parents[1] / "infra/grafana/dashboards"

#: What Grafana puts in place of its variables: everything is chosen, and the last hour is shown.
_CHOSEN = {"job": ".*", "instance": ".*", "feature": ".*", "__rate_interval": "1m", "__range": "1h"}


def dashboards() -> dict[str, dict[str, Any]]:
    """File name without ending → model of every committed dashboard."""
    return {path.stem: json.loads(path.read_text(encoding="utf-8")) for path in sorted(DASHBOARDS.glob("*.json"))}


def panels(dashboard: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Its panels but for the headings of rows."""
    return (panel for panel in dashboard["panels"] if panel["type"] != "row")


def panel_queries() -> list[tuple[str, str, str]]:
    """(dashboard's uid, panel's title, expression with its variables put in) of every query of every panel."""
    return [
        (dashboard["uid"], panel["title"], substituted(target["expr"]))
        for dashboard in dashboards().values()
        for panel in panels(dashboard)
        for target in panel.get("targets", [])
    ]


def annotation_queries() -> list[tuple[str, str, str]]:
    """The same for marks on the time axis; these find nothing where nothing happened."""
    return [
        (dashboard["uid"], annotation["name"], substituted(annotation["expr"]))
        for dashboard in dashboards().values()
        for annotation in dashboard["annotations"].get("list", [])
    ]


def substituted(expr: str) -> str:
    """The expression with Grafana's variables put in. Raises KeyError for one that is not known here."""
    return re.sub(r"\$(\w+)", lambda variable: _CHOSEN[variable[1]], expr)
