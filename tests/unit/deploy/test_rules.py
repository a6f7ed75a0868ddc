"""Rules and alerts: complete, about metrics that exist, with cases and a runbook each."""

from __future__ import annotations

import re
from collections.abc import Iterator

import pytest
import yaml

from deploy.monitoring import alerts, rules
from feedwater_service.metrics.families import FAMILIES, Family
from tests import ROOT

RULES = ROOT / "deploy/helm/feedwater/files/prometheus"
RUNBOOKS = (ROOT / "docs/runbooks.md").read_text()

EXTERNAL = {
    "kube_pod_owner",
    "kube_pod_container_status_restarts_total",
    "kube_pod_container_status_last_terminated_reason",
}
"""Of kube-state-metrics."""
FROM_THE_SCRAPE = {"cluster", "namespace", "pod", "workload", "instance"}
DEVICE = {"feedwater_device_idle_seconds_total", "feedwater_device_busy_seconds_total"}
LEVELS = ("loader", "loader_verdict", "pod", "pod_workload", "workload", "namespace", "cluster")
SEVERITIES = {"info", "warning", "critical"}

Rule = dict[str, object]


def _rules(name: str) -> list[Rule]:
    groups = yaml.safe_load((RULES / name).read_text())["groups"]
    return [rule for group in groups for rule in group["rules"]]


RECORDED = {str(rule["record"]): str(rule["expr"]) for rule in _rules("feedwater.rules.yaml")}
ALERTS = {str(rule["alert"]): rule for rule in _rules("feedwater.alerts.yaml")}
CASES = [
    case
    for path in sorted((ROOT / "tests/e2e/rules").glob("*.yaml"))
    for case in yaml.safe_load(path.read_text())["tests"]
]


def _series(family: Family) -> list[str]:
    suffixes = {"counter": ("_total",), "gauge": ("",), "histogram": ("_bucket", "_sum", "_count")}
    return [family.name + suffix for suffix in suffixes[family.kind]]


METRICS = {name: set(family.labels) for family in FAMILIES for name in _series(family)}


def _names(expression: str) -> set[str]:
    """Return the series that an expression or a template names."""
    return set(re.findall(r"(?:\b[a-z_]+:feedwater_[a-z_0-9:]+|\b(?:feedwater|kube)_[a-z_]+)", expression))


def _sources(expression: str) -> set[str]:
    """Return the metrics that an expression is made of, recorded series resolved."""
    found: set[str] = set()
    for name in _names(expression):
        found |= _sources(RECORDED[name]) if name in RECORDED else {name}
    return found


def _annotations(alert: Rule) -> dict[str, str]:
    annotations = alert["annotations"]
    assert isinstance(annotations, dict)
    return annotations


def _cases(alert: str, kind: str) -> Iterator[list[list[object]]]:
    """Yield what the cases of a kind expect of an alert, moment after moment."""
    for case in CASES:
        checks = [c for c in case.get("alert_rule_test", ()) if c["alertname"] == alert]
        if checks and case["name"].startswith(kind):
            yield [check["exp_alerts"] for check in checks]


def _anchors() -> set[str]:
    headings = re.findall(r"^#+ (.+)$", RUNBOOKS, re.MULTILINE)
    return {re.sub(r"[^a-z0-9 -]", "", heading.lower()).replace(" ", "-") for heading in headings}


def test_rules_are_what_the_generator_makes() -> None:
    """Whoever changes a rule runs `make monitoring`; nobody edits the YAML."""
    assert (RULES / "feedwater.rules.yaml").read_text() == rules.rules_file(), "run: make monitoring"
    assert (RULES / "feedwater.alerts.yaml").read_text() == alerts.alerts_file(), "run: make monitoring"


def test_every_series_that_rules_name_exists() -> None:
    """Each name is in the service's table of metrics, recorded by a rule, or one of kube-state-metrics."""
    texts = [*RECORDED.values(), *(f"{a['expr']} {_annotations(a)['description']}" for a in ALERTS.values())]
    unknown = set().union(*map(_names, texts)) - METRICS.keys() - RECORDED.keys() - EXTERNAL
    assert not unknown


def test_recorded_series_are_named_by_level_metric_and_operations() -> None:
    """`level:metric:operations`, no counter's suffix on a rate, and each level states its labels by name."""
    for name in RECORDED:
        level, metric, operations = name.split(":")
        assert level in LEVELS
        assert metric.startswith("feedwater_")
        assert not metric.endswith("_total")
        assert operations


def test_ratios_are_made_of_sums() -> None:
    """No rule sums or averages a ratio: a rank that computes little must not weigh as much as others."""
    for name, expression in RECORDED.items():
        assert "avg" not in expression, name
        if name.split(":")[0] in ("workload", "namespace", "cluster"):
            assert not re.search(r"\b(sum|max)\b[^/]*[:_]ratio", expression), name


@pytest.mark.parametrize("level", ["pod", "workload", "namespace", "cluster"])
@pytest.mark.parametrize(
    "series",
    [
        "feedwater_starvation:ratio_rate10m",
        "feedwater_device_starvation:ratio_rate10m",
        "feedwater_device_idle_seconds:rate1h",
        "feedwater_last_startup_seconds:max",
        "feedwater_num_workers:sum",
        "feedwater_recommended_num_workers:sum",
        "feedwater_surplus_workers:sum",
        "feedwater_prediction_error:ratio",
    ],
)
def test_every_level_has_every_figure(level: str, series: str) -> None:
    """What is known of a pod is known of its workload, its namespace and its cluster."""
    assert f"{level}:{series}" in RECORDED


@pytest.mark.parametrize("alert", ALERTS)
def test_alerts_are_complete(alert: str) -> None:
    """Each has for, keep_firing_for, severity, a summary in a full sentence, a description.

    None has a `runbook_url`: where the runbooks lie is known to the chart's user alone.
    """
    rule = ALERTS[alert]
    labels, annotations = rule["labels"], _annotations(rule)
    assert isinstance(labels, dict)
    assert {"expr", "for", "keep_firing_for"} <= rule.keys()
    assert labels["severity"] in SEVERITIES
    assert re.match(r"[A-Z/]", annotations["summary"])
    assert annotations["summary"].endswith(".")
    assert annotations["description"].endswith((".", "{{ end }}"))
    assert set(annotations) == {"summary", "description"}


@pytest.mark.parametrize("alert", ALERTS)
def test_alerts_have_a_runbook(alert: str) -> None:
    """Its name is the anchor of a heading of docs/runbooks.md, with all that one looks for at night."""
    assert alert.lower() in _anchors()
    section = RUNBOOKS.partition(f"\n## {alert}\n")[2].partition("\n## ")[0]
    for part in ("**Means.**", "**How bad.**", "**Look at.**", "**Do.**", "**Ignore it**"):
        assert part in section, part


@pytest.mark.parametrize("alert", ALERTS)
def test_alerts_are_tested_both_ways(alert: str) -> None:
    """Cases fire, nearly fire, and resolve."""
    assert any(expected[-1] for expected in _cases(alert, "firing"))
    near = list(_cases(alert, "near miss"))
    assert near
    assert not any(any(expected) for expected in near)
    assert any(expected[0] and not expected[-1] for expected in _cases(alert, "resolving"))


def test_cases_use_metrics_as_they_are() -> None:
    """Input series have the names and the labels that the sidecar serves."""
    for case in CASES:
        for text in (one["series"] for one in case["input_series"]):
            name, _, matchers = text.partition("{")
            labels = set(re.findall(r"(\w+)=\"", matchers)) - FROM_THE_SCRAPE
            if name.startswith("kube_"):
                assert name in EXTERNAL
            elif name == "feedwater_build_info":
                assert labels <= METRICS[name]
            else:
                assert labels == METRICS[name], text


def test_starvation_is_never_a_page() -> None:
    """Only a loader that hangs is worth waking somebody for."""
    critical = {name for name, rule in ALERTS.items() if rule["labels"] == {"severity": "critical"}}
    assert critical == {"FeedwaterLoaderHung"}
    for name in ("FeedwaterStarved", "FeedwaterDeviceStarved"):
        assert ALERTS[name]["labels"] == {"severity": "warning"}


def test_gpu_figures_come_from_devices_alone() -> None:
    """Neither the alert of a starved device nor GPU-hours look at what the host waits."""
    for name in ("FeedwaterDeviceStarved", "FeedwaterGpuHoursLost"):
        sources = _sources(str(ALERTS[name]["expr"])) - {"feedwater_build_info", "kube_pod_owner"}
        assert sources == DEVICE


def test_host_starvation_is_read_where_it_is_starvation() -> None:
    """The alert of a starved host looks at the counter that is absent on CUDA, never at the wait itself."""
    sources = _sources(str(ALERTS["FeedwaterStarved"]["expr"]))
    assert sources == {"feedwater_starved_seconds_total", "feedwater_step_seconds_sum"}
