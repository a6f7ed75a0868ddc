"""What both dashboards share around their panels: variables, links, annotations, time."""

from __future__ import annotations

from grafana_foundation_sdk.builders.dashboard import (
    AnnotationQuery,
    Dashboard,
    DashboardLink,
    DatasourceVariable,
    QueryVariable,
    Row,
)
from grafana_foundation_sdk.models.dashboard import (
    DashboardCursorSync,
    DashboardLinkType,
    VariableOption,
    VariableRefresh,
    VariableSort,
)

from deploy.monitoring.dashboards.panels import SOURCE, Panel

TAG = "feedwater"
DOCS = "https://feedwater.example/docs"
"""A placeholder, as in the alerts: docs/dashboards.md says how to put your copy there."""
PODS = "pod_workload:feedwater_build_info:max"
"""One series for each pod that has a sidecar, with its workload."""


def framed(uid: str, title: str, description: str, other: DashboardLink, *, hours: int) -> Dashboard:
    """Return a dashboard without panels that shows so many hours, with a link to the other one."""
    return (
        Dashboard(title)
        .uid(uid)
        .description(description)
        .tags([TAG])
        .readonly()
        .timezone("browser")
        .time(f"now-{hours}h", "now")
        .refresh("30s")
        .tooltip(DashboardCursorSync.CROSSHAIR)
        .link(other)
        .link(_page("Runbooks", "doc", "What each alert and each verdict asks for", "runbooks.md"))
        .link(_page("Metrics", "info", "What each metric means", "metrics.md"))
        .with_variable(
            DatasourceVariable("datasource")
            .label("Data source")
            .description(
                "The Prometheus that scrapes the sidecars and evaluates Feedwater's recording rules."
            )
            .type("prometheus")
        )
    )


def to_dashboard(title: str, tooltip: str, uid: str, variables: tuple[str, ...]) -> DashboardLink:
    """Return a link that takes the time and these variables along.

    Not all of them: a choice of several namespaces means nothing where there can be one.
    """
    chosen = "&".join(f"${{{name}:queryparam}}" for name in variables)
    return (
        DashboardLink(title)
        .type(DashboardLinkType.LINK)
        .icon("dashboard")
        .tooltip(tooltip)
        .url(f"/d/{uid}?{chosen}")
        .keep_time(True)
        .placement("")
    )


def _page(title: str, icon: str, tooltip: str, page: str) -> DashboardLink:
    return (
        DashboardLink(title)
        .type(DashboardLinkType.LINK)
        .icon(icon)
        .tooltip(tooltip)
        .url(f"{DOCS}/{page}")
        .target_blank(True)
        .placement("")
    )


def one_of(name: str, label: str, description: str, query: str) -> QueryVariable:
    """Return a variable with one value."""
    return (
        QueryVariable(name)
        .label(label)
        .description(description)
        .datasource(SOURCE)
        .query(query)
        .definition(query)
        .refresh(VariableRefresh.ON_TIME_RANGE_CHANGED)
        .sort(VariableSort.NATURAL_ASC)
    )


def some_of(name: str, label: str, description: str, query: str, *, everything: str = "") -> QueryVariable:
    """Return a variable with any number of values, at first all: `everything`, or each of them by name."""
    variable = (
        one_of(name, label, description, query)
        .multi(True)
        .include_all(True)
        .current(VariableOption(selected=True, text=["All"], value=["$__all"]))
    )
    return variable.all_value(everything) if everything else variable


def cluster_variable() -> QueryVariable:
    """Return the choice of clusters: where targets have no such label, `All` is all there is."""
    return some_of(
        "cluster",
        "Cluster",
        "The label `cluster` of the targets, where one Prometheus serves several clusters.",
        f"label_values({PODS}, cluster)",
        # Matches the absent label, too.
        everything=".*",
    )


def marks(name: str, colour: str, expr: str, title: str, text: str) -> AnnotationQuery:
    """Return vertical lines in all graphs, where an expression has values."""
    return (
        AnnotationQuery()
        .name(name)
        .datasource(SOURCE)
        .enable(True)
        .icon_color(colour)
        .expr(expr)
        .step("60s")
        .title_format(title)
        .text_format(text)
    )


def folded(title: str, *panels: Panel) -> Row:
    """Return a row of panels that opens, and queries, on a click."""
    row = Row(title).collapsed(True)
    for panel in panels:
        row.with_panel(panel)
    return row
