"""A dashboard: rows of panels, variables, links to its neighbours, marks for promotions and for alerts that page."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from grafana_foundation_sdk.builders.dashboard import AnnotationQuery, Dashboard, DashboardLink, QueryVariable
from grafana_foundation_sdk.builders.dashboard import Row as RowPanel
from grafana_foundation_sdk.models.dashboard import (
    DashboardCursorSync,
    DashboardLinkType,
    VariableOption,
    VariableRefresh,
    VariableSort,
)

from readmit_dashboards.panels import SOURCE, Panel

TAG = "readmit"


@dataclass(frozen=True, slots=True)
class Row:
    """Panels under one heading; they wrap at 24 columns."""

    title: str
    panels: tuple[Panel, ...]


def board(
    uid: str, title: str, description: str, rows: Sequence[Row], variables: Sequence[QueryVariable] = ()
) -> Dashboard:
    """A dashboard of the last hour, read every 15 s as Prometheus does."""
    dashboard = (
        Dashboard(title)
        .uid(uid)
        .description(description)
        .tags([TAG])
        .readonly()
        .timezone("browser")
        .time("now-1h", "now")
        .refresh("15s")
        .tooltip(DashboardCursorSync.CROSSHAIR)
        .links([_neighbours()])
        .variables(list(variables))
        .annotations([_promotions(), _pages()])
    )
    for number, row in enumerate(rows, 1):
        # Row ids are above every panel's, see `stable_id`.
        dashboard = dashboard.with_row(RowPanel(row.title).id(200_000 + number))
        for panel in row.panels:
            dashboard = dashboard.with_panel(panel)
    return dashboard


def chosen(name: str, label: str, query: str, description: str) -> QueryVariable:
    """A variable to choose one, several or all of a label's values with."""
    return (
        QueryVariable(name)
        .label(label)
        .description(description)
        .datasource(SOURCE)
        .query({"query": query, "refId": "variable"})
        .definition(query)
        .refresh(VariableRefresh.ON_TIME_RANGE_CHANGED)
        .sort(VariableSort.NATURAL_ASC)
        .multi(True)
        .include_all(True)
        .all_value(".*")
        .current(VariableOption(selected=True, text=["All"], value=["$__all"]))
    )


def _neighbours() -> DashboardLink:
    return (
        DashboardLink("Readmit")
        .type(DashboardLinkType.DASHBOARDS)
        .tags([TAG])
        .as_dropdown(False)
        .keep_time(True)
        .include_vars(False)
        .target_blank(False)
        .icon("external link")
        .tooltip("")
    )


def _promotions() -> AnnotationQuery:
    return (
        AnnotationQuery()
        .name("Promotions")
        .datasource(SOURCE)
        .enable(True)
        .hide(False)
        .icon_color("purple")
        .expr("(changes(champion_epoch[1m]) > 0) * on (instance) group_right () champion_info")
        .step("15s")
        .title_format("A new champion")
        .text_format("{{family}} {{name}} version {{version}}")
        .tag_keys("family,version")
    )


def _pages() -> AnnotationQuery:
    return (
        AnnotationQuery()
        .name("Pages")
        .datasource(SOURCE)
        .enable(True)
        .hide(False)
        .icon_color("red")
        .expr('ALERTS{alertstate="firing", severity="page"}')
        .step("15s")
        .title_format("{{alertname}}")
        .text_format("{{job}} {{instance}} {{topic}}")
        .tag_keys("alertname")
    )
