"""The kinds of panels: what each is for, and how it looks the same everywhere."""

from __future__ import annotations

import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

from grafana_foundation_sdk.builders import bargauge, heatmap, statetimeline, table, timeseries
from grafana_foundation_sdk.builders import stat as stat_panel
from grafana_foundation_sdk.builders.common import (
    GraphThresholdsStyleConfig,
    ReduceDataOptions,
    ScaleDistributionConfig,
    StackingConfig,
    VizLegendOptions,
    VizTooltipOptions,
)
from grafana_foundation_sdk.builders.dashboard import DashboardLink, FieldColor
from grafana_foundation_sdk.builders.prometheus import Dataquery
from grafana_foundation_sdk.models.common import (
    BarGaugeDisplayMode,
    BigValueColorMode,
    BigValueGraphMode,
    BigValueTextMode,
    DataSourceRef,
    GraphDrawStyle,
    GraphThresholdsStyleMode,
    LegendDisplayMode,
    LegendPlacement,
    LineInterpolation,
    ScaleDistribution,
    SortOrder,
    StackingMode,
    TableAutoCellOptions,
    TooltipDisplayMode,
    VisibilityMode,
    VizOrientation,
)
from grafana_foundation_sdk.models.dashboard import (
    DashboardLinkType,
    DashboardSpecialValueMapOptions,
    DataTransformerConfig,
    DynamicConfigValue,
    FieldColorModeId,
    SpecialValueMap,
    SpecialValueMatch,
    ValueMap,
    ValueMapping,
    ValueMappingResult,
)
from grafana_foundation_sdk.models.prometheus import PromQueryFormat, QueryEditorMode

from readmit_dashboards.limits import NEUTRAL, Limits, thresholds

SOURCE = DataSourceRef(type_val="prometheus", uid="prometheus")
RUNBOOKS_UID = "readmit-runbooks"

Panel = stat_panel.Panel | timeseries.Panel | heatmap.Panel | bargauge.Panel | table.Panel | statetimeline.Panel
P = TypeVar(
    "P",
    stat_panel.Panel, timeseries.Panel, heatmap.Panel, bargauge.Panel, table.Panel, statetimeline.Panel,
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Query:
    """One expression and how its series are called (`{{label}}` stands for a label's value)."""

    expr: str
    legend: str = ""


@dataclass(frozen=True, slots=True)
class About:
    """What every panel says of itself."""

    title: str
    shows: str  #: what it shows, and what to do about it
    unit: str  #: Grafana's name of a unit
    runbooks: tuple[str, ...] = ()  #: alerts whose chapters help


def stable_id(name: str) -> int:
    """A number that depends on the name alone, so that links to a panel outlive new neighbours."""
    return 1 + zlib.crc32(name.encode()) % 100_000


def runbook_url(alert: str) -> str:
    """Address, inside Grafana, of an alert's chapter."""
    return f"/d/{RUNBOOKS_UID}/runbooks?viewPanel=panel-{stable_id(alert)}"


def figure(
    about: About, query: Query, *, limits: Limits = NEUTRAL, width: int = 3, decimals: int | None = None,
    words: Mapping[str, str] | None = None, none: str = "none", named: bool = False,
) -> stat_panel.Panel:  # fmt: skip
    """One number, now; `words` puts some values into words, `named` shows the legend instead of the value."""
    panel = (
        _dressed(stat_panel.Panel(), about, limits, width=width, height=4)
        .with_target(_target(query, instant=True))
        .reduce_options(ReduceDataOptions().calcs(["lastNotNull"]).values(False))
        .color_mode(BigValueColorMode.VALUE)
        .graph_mode(BigValueGraphMode.NONE)
        .text_mode(BigValueTextMode.NAME if named else BigValueTextMode.VALUE)
        .mappings(_mappings(words or {}, none))
        .no_value(none)
    )
    return panel if decimals is None else panel.decimals(decimals)


def lines(
    about: About, *queries: Query, limits: Limits = NEUTRAL, width: int = 8, height: int = 8, steps: bool = False,
    stacked: bool = False, logarithmic: bool = False, minimum: float | None = 0, maximum: float | None = None,
    bands: Mapping[str, str] | None = None,
) -> timeseries.Panel:  # fmt: skip
    """Figures over time. Limits are drawn as dashed lines; `bands` fills from an upper series down to a lower one."""
    panel = (
        _dressed(timeseries.Panel(), about, limits, width=width, height=height)
        .targets([_target(query, ref=ref) for query, ref in _lettered(queries)])
        .color_scheme(FieldColor().mode(FieldColorModeId.PALETTE_CLASSIC_BY_NAME))
        .draw_style(GraphDrawStyle.LINE)
        .line_width(1)
        .fill_opacity(20 if stacked else 0)
        .show_points(VisibilityMode.NEVER)
        .span_nulls(False)
        .line_interpolation(LineInterpolation.STEP_AFTER if steps else LineInterpolation.LINEAR)
        .thresholds_style(GraphThresholdsStyleConfig().mode(_drawn(limits)))
        .legend(_legend())
        .tooltip(VizTooltipOptions().mode(TooltipDisplayMode.MULTI).sort(SortOrder.DESCENDING))
    )
    if stacked:
        panel = panel.stacking(StackingConfig().mode(StackingMode.NORMAL).group("A"))
    if logarithmic:
        panel = panel.scale_distribution(ScaleDistributionConfig().type(ScaleDistribution.LOG).log(10))
    elif minimum is not None:
        panel = panel.min(minimum)
    if maximum is not None:
        panel = panel.max(maximum)
    for upper, lower in (bands or {}).items():
        panel = panel.override_by_name(
            upper, [DynamicConfigValue("custom.fillBelowTo", lower), DynamicConfigValue("custom.fillOpacity", 15)]
        )
    return panel


def counts(
    about: About, *queries: Query, limits: Limits = NEUTRAL, width: int = 8, height: int = 8
) -> timeseries.Panel:
    """How often things happened, as stacked bars."""
    return (
        lines(about, *queries, limits=limits, width=width, height=height, stacked=True)
        .draw_style(GraphDrawStyle.BARS)
        .fill_opacity(70)
        .interval("1m")
    )


def ranking(
    about: About,
    query: Query,
    *,
    limits: Limits = NEUTRAL,
    width: int = 8,
    height: int = 8,
    decimals: int | None = None,
) -> bargauge.Panel:
    """The present values of several things, longest bar first if the query sorts them."""
    panel = (
        _dressed(bargauge.Panel(), about, limits, width=width, height=height)
        .with_target(_target(query, instant=True))
        .reduce_options(ReduceDataOptions().calcs(["lastNotNull"]).values(False))
        .orientation(VizOrientation.HORIZONTAL)
        .display_mode(BarGaugeDisplayMode.BASIC)
        .min(0)
        .no_value("none")
    )
    return panel if decimals is None else panel.decimals(decimals)


def states(
    about: About, query: Query, words: Mapping[str, tuple[str, str]], *, limits: Limits = NEUTRAL, width: int = 12,
    height: int = 8,
) -> statetimeline.Panel:  # fmt: skip
    """What state each thing was in over time; `words` is value → (word, colour)."""
    results = {value: ValueMappingResult(text=word, color=colour) for value, (word, colour) in words.items()}
    return (
        _dressed(statetimeline.Panel(), about, limits, width=width, height=height)
        .with_target(_target(query))
        .mappings([ValueMap(options=results)])
        .color_scheme(FieldColor().mode(FieldColorModeId.THRESHOLDS))
        .merge_values(True)
        .show_value(VisibilityMode.NEVER if words else VisibilityMode.ALWAYS)
        .row_height(0.9)
        .line_width(0)
        .fill_opacity(80)
        .legend(VizLegendOptions().show_legend(False).display_mode(LegendDisplayMode.LIST).calcs([]).placement(
            LegendPlacement.BOTTOM))
        .tooltip(VizTooltipOptions().mode(TooltipDisplayMode.SINGLE).sort(SortOrder.NONE))
    )  # fmt: skip


def rows(
    about: About, query: Query, columns: Mapping[str, str], *, hidden: Sequence[str] = (), limits: Limits = NEUTRAL,
    width: int = 12, height: int = 8,
) -> table.Panel:  # fmt: skip
    """The present series as a table: `columns` is label → heading, in order; `Value` is the value itself."""
    organised = {
        "excludeByName": dict.fromkeys(("Time", *hidden), True),
        "indexByName": {label: position for position, label in enumerate(columns)},
        "renameByName": dict(columns),
    }
    return (
        _dressed(table.Panel(), about, limits, width=width, height=height)
        .with_target(_target(query, instant=True, form=PromQueryFormat.TABLE))
        .with_transformation(DataTransformerConfig(id_val="organize", options=organised))
        .cell_options(TableAutoCellOptions())
        .show_header(True)
        .no_value("none")
    )


def density(about: About, query: Query, *, width: int = 12, height: int = 8) -> heatmap.Panel:
    """How the observations of a histogram were spread over time; the query sums buckets by `le`."""
    return (
        _dressed(heatmap.Panel(), about, NEUTRAL, width=width, height=height)
        .with_target(_target(query, form=PromQueryFormat.HEATMAP))
        .calculate(False)
        .color(heatmap.HeatmapColorOptions().scheme("Turbo").steps(64).exponent(0.5).fill("dark-orange").reverse(False))
        .y_axis(heatmap.YAxisConfig().unit(about.unit))
        .show_value(VisibilityMode.NEVER)
        .cell_gap(1)
        .tooltip(heatmap.HeatmapTooltip().mode(TooltipDisplayMode.SINGLE).show_color_scale(True))
        .show_legend()
    )


def _dressed(panel: P, about: About, limits: Limits, *, width: int, height: int) -> P:
    return (
        panel.id(stable_id(about.title))
        .title(about.title)
        .description(about.shows)
        .unit(about.unit)
        .datasource(SOURCE)
        .thresholds(thresholds(limits))
        .span(width)
        .height(height)
        .links([_runbook(alert) for alert in about.runbooks])
    )


def _runbook(alert: str) -> DashboardLink:
    link = DashboardLink(f"Runbook: {alert}").type(DashboardLinkType.LINK).url(runbook_url(alert))
    return link.tooltip(f"docs/runbooks.md#{alert.lower()}").icon("doc").target_blank(True).tags([])


def _target(
    query: Query, *, ref: str = "A", instant: bool = False, form: PromQueryFormat = PromQueryFormat.TIME_SERIES
) -> Dataquery:
    target = (
        Dataquery()
        .ref_id(ref)
        .datasource(SOURCE)
        .expr(query.expr)
        .legend_format(query.legend or "__auto")
        .format(form)
        .editor_mode(QueryEditorMode.CODE)
    )
    return target.instant() if instant else target.range()


def _lettered(queries: Sequence[Query]) -> list[tuple[Query, str]]:
    return [(query, chr(ord("A") + position)) for position, query in enumerate(queries)]


def _legend() -> VizLegendOptions:
    return (
        VizLegendOptions()
        .show_legend(True)
        .display_mode(LegendDisplayMode.LIST)
        .placement(LegendPlacement.BOTTOM)
        .calcs([])
    )


def _drawn(limits: Limits) -> GraphThresholdsStyleMode:
    return GraphThresholdsStyleMode.DASHED if len(limits) > 1 else GraphThresholdsStyleMode.OFF


def _mappings(words: Mapping[str, str], none: str) -> list[ValueMapping]:
    mappings: list[ValueMapping] = [
        SpecialValueMap(
            options=DashboardSpecialValueMapOptions(
                match=SpecialValueMatch.NULL_AND_NAN, result=ValueMappingResult(text=none)
            )
        )
    ]
    if words:
        mappings.append(ValueMap(options={value: ValueMappingResult(text=word) for value, word in words.items()}))
    return mappings
