"""Dashboards: made by their generator, complete, about series that exist, and leading where they say."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterator
from urllib.parse import parse_qsl, urlsplit

import pytest
import yaml

from feedwater_service.metrics.collector import FAMILIES
from feedwater_service.model.types import Verdict
from tests import ROOT

FOLDER = ROOT / "deploy/helm/feedwater/files/dashboards"
RULES = ROOT / "deploy/helm/feedwater/files/prometheus"
LINTER = ROOT / "deploy/monitoring/dashboards/.lint"
DASHBOARDS = {path.stem: json.loads(path.read_text()) for path in sorted(FOLDER.glob("*.json"))}

FIRST_SCREEN = 22
"""Rows of the grid, of 38 pixels each, that a screen of 1080 shows beside the heads of browser and page."""
DEVICE = {"feedwater_device_idle_seconds_total", "feedwater_device_busy_seconds_total"}
WHOSE = {"feedwater_build_info", "kube_pod_owner"}
"""Say to which job a pod belongs, and nothing of what it does."""

Panel = dict[str, object]

needs_generator = pytest.mark.skipif(
    sys.version_info < (3, 11), reason="grafana-foundation-sdk needs Python 3.11"
)


def _panels(dashboard: dict[str, object]) -> list[Panel]:
    panels = dashboard["panels"]
    assert isinstance(panels, list)
    inside = [one for panel in panels for one in panel.get("panels", ())]
    return [panel for panel in panels if panel["type"] != "row"] + inside


PANELS = [
    pytest.param(panel, id=f"{name}: {panel['id']} {panel['title']}")
    for name, dashboard in DASHBOARDS.items()
    for panel in _panels(dashboard)
]


def _expressions(panel: Panel) -> list[str]:
    targets = panel["targets"]
    assert isinstance(targets, list)
    return [target["expr"] for target in targets]


def _variables(dashboard: dict[str, object]) -> dict[str, str]:
    """Return the queries of the variables, by name."""
    templating = dashboard["templating"]
    assert isinstance(templating, dict)
    return {one["name"]: str(one["query"]) for one in templating["list"]}


def _annotations(dashboard: dict[str, object]) -> list[str]:
    annotations = dashboard["annotations"]
    assert isinstance(annotations, dict)
    return [one["expr"] for one in annotations.get("list", ())]


def _queries(dashboard: dict[str, object]) -> list[str]:
    shown = [expr for panel in _panels(dashboard) for expr in _expressions(panel)]
    return [*shown, *_annotations(dashboard), *_variables(dashboard).values()]


def _recorded() -> dict[str, str]:
    groups = yaml.safe_load((RULES / "feedwater.rules.yaml").read_text())["groups"]
    return {rule["record"]: rule["expr"] for group in groups for rule in group["rules"]}


RECORDED = _recorded()


def _exported() -> set[str]:
    suffixes = {"counter": ("_total",), "gauge": ("",), "histogram": ("_bucket", "_sum", "_count")}
    return {family.name + suffix for family in FAMILIES for suffix in suffixes[family.kind]}


def _names(expression: str) -> set[str]:
    """Return the series that an expression names."""
    bare = re.sub(r'"[^"]*"', '""', expression)
    return set(re.findall(r"\b(?:[a-z_]+:)?(?:feedwater|process|kube)_[a-z_0-9:]+|\bALERTS\b", bare))


def _sources(expression: str) -> set[str]:
    """Return the metrics that an expression is made of, recorded series resolved."""
    found: set[str] = set()
    for name in _names(expression):
        found |= _sources(RECORDED[name]) if name in RECORDED else {name}
    return found


def _links(value: object) -> Iterator[str]:
    """Yield every URL in a dashboard, wherever it stands."""
    if isinstance(value, dict):
        if isinstance(value.get("url"), str):
            yield value["url"]
        for inner in value.values():
            yield from _links(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from _links(inner)


# The library would rather have schema v2, which older versions of Grafana cannot read.
@pytest.mark.filterwarnings("ignore:Prefer using dashboardv2:DeprecationWarning")
@needs_generator
def test_files_are_what_the_generator_makes() -> None:
    """Whoever changes a dashboard runs `make monitoring`; nobody edits the JSON."""
    from deploy.monitoring.dashboards import cluster, files, job

    made = {files.name(one): files.text(one) for one in (job.dashboard(), cluster.dashboard())}
    assert made == {path.name: path.read_text() for path in FOLDER.glob("*.json")}


def test_file_names_and_uids_are_the_ones_that_others_link_to() -> None:
    """The chart packages the files by name, and bookmarks hold the uids."""
    assert {name: one["uid"] for name, one in DASHBOARDS.items()} == {
        "feedwater-cluster": "feedwater-cluster",
        "feedwater-job": "feedwater-job",
    }


@pytest.mark.parametrize("panel", PANELS)
def test_panels_say_how_to_read_them(panel: Panel) -> None:
    """Each has a title, full sentences on how to read it, a unit, and a word for no data."""
    config = panel["fieldConfig"]
    assert isinstance(config, dict)
    assert panel["title"]
    assert re.fullmatch(r"[A-Z0-9/].{30,}\.", str(panel["description"]))
    assert config["defaults"]["unit"]
    assert config["defaults"]["noValue"]


@pytest.mark.parametrize("panel", PANELS)
def test_panels_ask_the_chosen_data_source(panel: Panel) -> None:
    """Panel and queries alike, and each query is of one kind: as of now, or over time."""
    chosen = {"type": "prometheus", "uid": "${datasource}"}
    targets = panel["targets"]
    assert isinstance(targets, list)
    assert targets
    assert panel["datasource"] == chosen
    for target in targets:
        assert target["datasource"] == chosen
        assert bool(target.get("instant")) != bool(target.get("range"))


@pytest.mark.parametrize("name", DASHBOARDS)
def test_queries_name_only_series_that_exist(name: str) -> None:
    """Metrics of docs/metrics.md, recorded series, alerts, and what each process says of itself."""
    page = (ROOT / "docs/metrics.md").read_text()
    assert "`process_*`" in page
    known = _exported() | RECORDED.keys() | {"ALERTS"}
    for query in filter(lambda one: one != "prometheus", _queries(DASHBOARDS[name])):
        names = _names(query)
        assert names, query
        unknown = {one for one in names - known if not one.startswith("process_")}
        assert not unknown, query


@pytest.mark.parametrize("name", DASHBOARDS)
def test_every_variable_is_used(name: str) -> None:
    """In a query of a panel, or in another variable's."""
    dashboard = DASHBOARDS[name]
    everything = json.dumps([dashboard["panels"], _queries(dashboard)])
    for variable in _variables(dashboard):
        assert re.search(rf"\$\{{?{variable}\b", everything), variable


@pytest.mark.parametrize("name", DASHBOARDS)
def test_queries_use_only_variables_that_exist(name: str) -> None:
    """Those of the dashboard, and Grafana's own."""
    own = {"__rate_interval", "__range"}
    for query in _queries(DASHBOARDS[name]):
        assert set(re.findall(r"\$\{?([a-z_]\w*)", query)) <= _variables(DASHBOARDS[name]).keys() | own


@pytest.mark.parametrize("name", DASHBOARDS)
def test_every_query_is_limited_to_what_was_chosen(name: str) -> None:
    """Each series but `process_*`, which is joined with one that is, is matched by cluster and namespace."""
    for panel in _panels(DASHBOARDS[name]):
        for query in _expressions(panel):
            selectors = re.findall(r"\b(?:feedwater_\w+|\w+:feedwater_[\w:]+|ALERTS)\{([^}]*)\}", query)
            assert selectors, query
            for matchers in selectors:
                assert 'cluster=~"$cluster"' in matchers
                assert re.search(r'namespace=~?"\$namespace', matchers)


@pytest.mark.parametrize("name", DASHBOARDS)
def test_panels_lie_side_by_side(name: str) -> None:
    """None reaches over the edge or over another, and each has a number of its own."""
    panels = _panels(DASHBOARDS[name])
    taken: set[tuple[int, int]] = set()
    for panel in panels:
        place = panel["gridPos"]
        assert isinstance(place, dict)
        assert place["x"] + place["w"] <= 24
        cells = {(place["x"] + x, place["y"] + y) for x in range(place["w"]) for y in range(place["h"])}
        assert not cells & taken, panel["title"]
        taken |= cells
    assert len({panel["id"] for panel in panels}) == len(panels)


@pytest.mark.parametrize(
    ("name", "titles"),
    [
        ("feedwater-job", {"What to set", "Verdicts", "Wait against step", "Starvation", "Workers"}),
        ("feedwater-cluster", {"Ten jobs worth fixing: accelerators", "GPUs idle by namespace", "Alerts"}),
    ],
)
def test_first_screen_holds_what_matters(name: str, titles: set[str]) -> None:
    """Without scrolling at 1080 pixels: the figures, what to do, and what happens."""
    found = set()
    for panel in DASHBOARDS[name]["panels"]:
        if panel["type"] != "row" and panel["gridPos"]["y"] + panel["gridPos"]["h"] <= FIRST_SCREEN:
            found.add(panel["title"])
    assert titles <= found


def test_gpu_figures_come_from_devices_alone() -> None:
    """No panel about GPUs or accelerators ranks or counts by what the host waits."""
    about = re.compile(r"GPU-hours lost|GPUs idle.*|Starvation, GPUs|Ten jobs worth fixing: accelerators")
    found = [
        panel for one in DASHBOARDS.values() for panel in _panels(one) if about.fullmatch(str(panel["title"]))
    ]
    assert len(found) == 7
    for panel in found:
        assert _sources(_expressions(panel)[0]) - WHOSE <= DEVICE, panel["title"]


def test_host_wait_is_called_host_wait() -> None:
    """The wait itself is shown as wait; as starvation only the series that are absent on CUDA."""
    for dashboard in DASHBOARDS.values():
        for panel in _panels(dashboard):
            title = str(panel["title"])
            used = set().union(*map(_sources, _expressions(panel)))
            if "feedwater_host_wait_ratio" in used:
                assert title == "Host wait"
            if any(name.startswith("feedwater_wait_seconds") for name in used):
                assert title in ("Wait against step", "Slowest of a hundred")


def test_every_verdict_has_a_name_and_a_colour() -> None:
    """In the timeline by its number, in the tables by its name."""
    verdicts = {verdict.value for verdict in Verdict}
    timelines = [one for one in _panels(DASHBOARDS["feedwater-job"]) if one["type"] == "state-timeline"]
    (timeline,) = timelines
    mapping = timeline["fieldConfig"]["defaults"]["mappings"][0]["options"]  # type: ignore[index]
    (query,) = _expressions(timeline)
    numbers = dict(re.findall(r'(\d+) \* [^"]*(?:"[^"]*"[^"]*){4}verdict="(\w+)"', query))
    assert {name: mapping[number]["text"] for number, name in numbers.items()} == {v: v for v in verdicts}
    assert all(one["color"] for one in mapping.values())


@pytest.mark.parametrize("name", DASHBOARDS)
def test_links_lead_somewhere(name: str) -> None:
    """To pages of the documentation, or to a dashboard that has the variables that are set."""
    links = set(_links(DASHBOARDS[name]))
    assert len(links) >= 4
    for url in links:
        path = urlsplit(url).path
        if url.startswith("https://feedwater.example/"):
            assert (ROOT / path.lstrip("/")).is_file(), url
        else:
            variables = _variables(DASHBOARDS[path.removeprefix("/d/")])
            query = urlsplit(url).query
            given = {key.removeprefix("var-") for key, _ in parse_qsl(query) if key.startswith("var-")}
            given |= set(re.findall(r"\$\{(\w+):queryparam\}", query))
            assert given
            assert given <= variables.keys(), url


def test_every_alert_leads_to_its_runbook() -> None:
    """The table's mapping has each alert, and makes of it the anchor of its section."""
    groups = yaml.safe_load((RULES / "feedwater.alerts.yaml").read_text())["groups"]
    alerts = {rule["alert"] for group in groups for rule in group["rules"]}
    headings = re.findall(r"^## (Feedwater\w+)$", (ROOT / "docs/runbooks.md").read_text(), re.MULTILINE)
    (panel,) = (one for one in _panels(DASHBOARDS["feedwater-cluster"]) if one["title"] == "Alerts")
    config = panel["fieldConfig"]
    assert isinstance(config, dict)
    (column,) = (one for one in config["overrides"] if one["matcher"]["options"] == "Runbook")
    looks = {one["id"]: one["value"] for one in column["properties"]}
    mapping = looks["mappings"][0]["options"]
    assert {name: one["text"] for name, one in mapping.items()} == {name: name.lower() for name in headings}
    assert mapping.keys() == alerts
    assert looks["links"][0]["url"].endswith("/docs/runbooks.md#${__value.text}")


def test_rules_of_the_linter_are_left_out_for_a_reason() -> None:
    """Each exclusion says why, in a sentence."""
    excluded = yaml.safe_load(LINTER.read_text())["exclusions"]
    assert excluded
    for rule in excluded.values():
        assert len(rule["reason"].split()) >= 8
