"""How panels look: one function for each kind, so that all of a kind look alike."""

from __future__ import annotations

from dataclasses import dataclass, field

from grafana_foundation_sdk.builders import stat, statetimeline, table, timeseries
from grafana_foundation_sdk.builders.common import (
    GraphThresholdsStyleConfig,
    ReduceDataOptions,
    StackingConfig,
    VizLegendOptions,
    VizTooltipOptions,
)
from grafana_foundation_sdk.builders.dashboard import FieldColor, ThresholdsConfig
from grafana_foundation_sdk.builders.prometheus import Dataquery
from grafana_foundation_sdk.cog.builder import Builder
from grafana_foundation_sdk.models import dashboard
from grafana_foundation_sdk.models.common import (
    BigValueColorMode,
    BigValueGraphMode,
    DataSourceRef,
    GraphDrawStyle,
    GraphThresholdsStyleMode,
    LegendDisplayMode,
    LegendPlacement,
    SortOrder,
    StackingMode,
    TableCellHeight,
    TooltipDisplayMode,
    VisibilityMode,
)
from grafana_foundation_sdk.models.dashboard import (
    DataTransformerConfig,
    DynamicConfigValue,
    FieldColorModeId,
    Threshold,
    ThresholdsMode,
    ValueMap,
)
from grafana_foundation_sdk.models.prometheus import PromQueryFormat

SOURCE = DataSourceRef(type_val="prometheus", uid="${datasource}")

LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
"""Names of a panel's queries, as Grafana gives them."""

Panel = Builder[dashboard.Panel]

Links = list[dict[str, object]]


@dataclass(frozen=True)
class Line:
    """A query of a panel with the name of its series, and how they are drawn."""

    expr: str
    legend: str = ""
    style: dict[str, object] | None = None


@dataclass(frozen=True)
class Column:
    """A column of a table: a label, or the value of a query; with both, a label that only this query has."""

    title: str
    width: int | None = None
    """None takes what the others leave."""
    label: str = ""
    expr: str = ""
    look: dict[str, object] = field(default_factory=dict)
    links: Links = field(default_factory=list)


DASHED: dict[str, object] = {"custom.lineStyle": {"fill": "dash", "dash": [8, 6]}}
DOTTED: dict[str, object] = {"custom.lineStyle": {"fill": "dot", "dash": [0, 5]}}
"""For what is advised or predicted, beside what is, which is drawn solid."""

SHARE: dict[str, object] = {"unit": "percentunit", "decimals": 0}
COLOURED: dict[str, object] = {"custom.cellOptions": {"type": "color-text"}}
ADVISED: dict[str, object] = {**COLOURED, "color": {"mode": "fixed", "fixedColor": "blue"}}
"""How cells of a table look: shares of a whole, values with colours of their own, and what to set."""


def levels(
    yellow: float | None = None, orange: float | None = None, red: float | None = None
) -> ThresholdsConfig:
    """Return green up to the first of these, then the colour of the last one reached."""
    steps = [Threshold(value=None, color="green")]
    for value, color in ((yellow, "#EAB839"), (orange, "orange"), (red, "red")):
        if value is not None:
            steps.append(Threshold(value=value, color=color))
    return ThresholdsConfig().mode(ThresholdsMode.ABSOLUTE).steps(steps)


NEUTRAL = ThresholdsConfig().mode(ThresholdsMode.ABSOLUTE).steps([Threshold(value=None, color="text")])
"""For figures that are neither good nor bad."""


def figure(
    title: str,
    description: str,
    lines: list[Line],
    unit: str,
    *,
    thresholds: ThresholdsConfig = NEUTRAL,
    decimals: int | None = None,
    no_value: str = "none",
) -> stat.Panel:
    """Return a figure in large type, as of now."""
    panel = (
        stat.Panel()
        .title(title)
        .description(description)
        .datasource(SOURCE)
        .unit(unit)
        .thresholds(thresholds)
        .color_scheme(FieldColor().mode(FieldColorModeId.THRESHOLDS))
        .color_mode(BigValueColorMode.VALUE)
        .graph_mode(BigValueGraphMode.NONE)
        .reduce_options(ReduceDataOptions().calcs(["lastNotNull"]))
        .no_value(no_value)
        .height(4)
        .span(3)
    )
    if decimals is not None:
        panel.decimals(decimals)
    for letter, line in zip(LETTERS, lines, strict=False):
        panel.with_target(_query(letter, line.expr).instant().legend_format(line.legend or title))
    return panel


def _query(letter: str, expr: str) -> Dataquery:
    return Dataquery().ref_id(letter).expr(expr).datasource(SOURCE)


def graph(
    title: str,
    description: str,
    lines: list[Line],
    unit: str,
    *,
    width: int = 8,
    thresholds: ThresholdsConfig | None = None,
    axis: str = "",
    minimum: float | None = 0,
    maximum: float | None = None,
    is_stacked: bool = False,
    is_count: bool = False,
    no_value: str = "No data in this time range",
) -> timeseries.Panel:
    """Return lines over time, with thresholds as dashed levels.

    Parts of a whole are stacked, as areas; so are counts, the events in each interval, as bars.
    """
    panel = (
        timeseries.Panel()
        .title(title)
        .description(description)
        .datasource(SOURCE)
        .unit(unit)
        .color_scheme(FieldColor().mode(FieldColorModeId.PALETTE_CLASSIC_BY_NAME))
        .line_width(2)
        .fill_opacity(40 if is_stacked else 80 if is_count else 0)
        .show_points(VisibilityMode.AUTO)
        .span_nulls(False)
        .axis_label(axis)
        .legend(_legend())
        .tooltip(VizTooltipOptions().mode(TooltipDisplayMode.MULTI).sort(SortOrder.DESCENDING))
        .no_value(no_value)
        .height(8)
        .span(width)
    )
    if is_stacked or is_count:
        panel.stacking(StackingConfig().mode(StackingMode.NORMAL).group("A"))
    if is_count:
        panel.draw_style(GraphDrawStyle.BARS).line_width(0)
    _scale(panel, minimum, maximum, thresholds)
    _draw(panel, lines)
    return panel


def _scale(
    panel: timeseries.Panel,
    minimum: float | None,
    maximum: float | None,
    thresholds: ThresholdsConfig | None,
) -> None:
    if minimum is not None:
        panel.min(minimum)
    if maximum is not None:
        panel.max(maximum)
    if thresholds is not None:
        panel.thresholds(thresholds)
        panel.thresholds_style(GraphThresholdsStyleConfig().mode(GraphThresholdsStyleMode.DASHED))


def _draw(panel: timeseries.Panel, lines: list[Line]) -> None:
    for letter, line in zip(LETTERS, lines, strict=False):
        panel.with_target(_query(letter, line.expr).range().legend_format(line.legend))
        if line.style:
            panel.override_by_query(letter, _properties(line.style))


def timeline(
    title: str, description: str, line: Line, mapping: ValueMap, *, width: int
) -> statetimeline.Panel:
    """Return which state held when, in words and colours."""
    return (
        statetimeline.Panel()
        .title(title)
        .description(description)
        .datasource(SOURCE)
        .unit("none")
        .mappings([mapping])
        .color_scheme(FieldColor().mode(FieldColorModeId.THRESHOLDS))
        .thresholds(NEUTRAL)
        .merge_values(True)
        .show_value(VisibilityMode.AUTO)
        .row_height(0.85)
        .fill_opacity(70)
        .legend(VizLegendOptions().show_legend(False).display_mode(LegendDisplayMode.LIST))
        .tooltip(VizTooltipOptions().mode(TooltipDisplayMode.SINGLE))
        .no_value("No verdict yet: it comes with the first epoch's end")
        .height(8)
        .span(width)
        .with_target(_query("A", line.expr).range().legend_format(line.legend))
    )


def rows_of(
    title: str,
    description: str,
    columns: list[Column],
    *,
    sort_by: str,
    no_value: str,
    is_ascending: bool = False,
    width: int = 24,
    height: int = 8,
) -> table.Panel:
    """Return a table: the queries' results joined by the labels that they share, as of now."""
    panel = (
        table.Panel()
        .title(title)
        .description(description)
        .datasource(SOURCE)
        .unit("none")
        .thresholds(NEUTRAL)
        .color_scheme(FieldColor().mode(FieldColorModeId.THRESHOLDS))
        .no_value(no_value)
        .cell_height(TableCellHeight.SM)
        .show_header(True)
        .height(height)
        .span(width)
    )
    _fill(panel, columns)
    order = {"sort": [{"field": sort_by, "desc": not is_ascending}]}
    panel.with_transformation(DataTransformerConfig(id_val="sortBy", options=order))
    return panel


def _fill(panel: table.Panel, columns: list[Column]) -> None:
    """Add the columns' queries, what makes one table of them, and how the cells look."""
    asking = [column for column in columns if column.expr]
    for letter, column in zip(LETTERS, asking, strict=False):
        panel.with_target(_query(letter, column.expr).instant().format(PromQueryFormat.TABLE))
    for column in columns:
        panel.override_by_name(column.title, _properties(_cell(column)))
    for name, options in _joined(columns, asking).items():
        panel.with_transformation(DataTransformerConfig(id_val=name, options=options))


def _joined(columns: list[Column], asking: list[Column]) -> dict[str, dict[str, object]]:
    """Return the transformations that make one table of the queries' results."""
    # Grafana numbers the values only where there are several.
    values = ["Value"] if len(asking) == 1 else [f"Value #{letter}" for letter in LETTERS]
    value_of = {column.title: value for column, value in zip(asking, values, strict=False)}
    titles = {column.label or value_of[column.title]: column.title for column in columns}
    return {
        "merge": {},
        "filterFieldsByName": {"include": {"names": list(titles)}},
        "organize": {
            "renameByName": titles,
            "indexByName": {name: place for place, name in enumerate(titles)},
        },
    }


def _cell(column: Column) -> dict[str, object]:
    width = {} if column.width is None else {"custom.width": column.width}
    links = {"links": column.links} if column.links else {}
    return {**width, **column.look, **links}


def _properties(values: dict[str, object]) -> list[DynamicConfigValue]:
    return [DynamicConfigValue(id_val=name, value=value) for name, value in values.items()]


def _legend() -> VizLegendOptions:
    return (
        VizLegendOptions()
        .show_legend(True)
        .display_mode(LegendDisplayMode.LIST)
        .placement(LegendPlacement.BOTTOM)
        .calcs(["lastNotNull"])
    )
