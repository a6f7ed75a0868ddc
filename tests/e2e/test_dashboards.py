"""Every query of the dashboards returns data: a real Prometheus scrapes real sidecars of real trainings."""

from __future__ import annotations

import contextlib
import json
import re
import shutil
import subprocess
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from tests import ROOT
from tests.e2e.monitoring import prometheus
from tests.e2e.servers import tool, wait_for
from tests.e2e.trainings import training
from tests.support.processes import cgroup, limit_cores, sidecar

FILES = ROOT / "deploy/helm/feedwater/files"
DASHBOARDS = {name: FILES / f"dashboards/feedwater-{name}.json" for name in ("job", "cluster")}
RULES = FILES / "prometheus"
LINTER = ROOT / "deploy/monitoring/dashboards/.lint"
TRAINER = "tests.e2e.dashboard_trainer"
SCRAPE_SECONDS = 1
"""As `monitoring.prometheus` scrapes."""
TABLE_SECONDS = 60
DEADLINE_SECONDS = 240
"""For data: an epoch under changed settings, a whole minute, and workers' memory, which is read seldom."""

NVML = r"""
#include <string.h>
typedef struct { unsigned gpu, memory; } nvmlUtilization_t;
static int device;
int nvmlInit_v2(void) { return 0; }
int nvmlDeviceGetCount_v2(unsigned *count) { *count = 1; return 0; }
int nvmlDeviceGetHandleByIndex_v2(unsigned index, void **handle) { *handle = &device; return 0; }
int nvmlDeviceGetUUID(void *handle, char *uuid, unsigned length)
{
    strcpy(uuid, "GPU-feed0001-0000-0000-0000-0000000000aa");
    return 0;
}
int nvmlDeviceGetUtilizationRates(void *handle, nvmlUtilization_t *rates)
{
    rates->gpu = 37;
    return 0;
}
"""
"""A driver's library that knows the accelerator of the trainer, as `FakeDevice.uuid` names it."""

Series = dict[str, object]


@dataclass(frozen=True)
class Trainings:
    """A Prometheus that holds the trainings."""

    url: str
    started: float

    def ask(self, path: str, **parameters: str) -> list[Series]:
        """Return what the HTTP API answers."""
        url = f"{self.url}/api/v1/{path}?{urllib.parse.urlencode(parameters)}"
        try:
            with urllib.request.urlopen(url, timeout=30) as answer:
                found = json.load(answer)["data"]
        except urllib.error.HTTPError as error:
            raise AssertionError(f"{parameters}: {error.read().decode()}") from None
        result: list[Series] = found["result"] if isinstance(found, dict) else found
        return result


@dataclass
class Grafana:
    """What Grafana does with a dashboard: chooses values of variables, and puts them into queries."""

    trainings: Trainings
    values: dict[str, str] = field(default_factory=dict)

    def choose(self, variable: dict[str, object]) -> list[str]:
        """Choose all values of a variable, or the first where only one may be; return those there are."""
        asked = re.fullmatch(r"label_values\((.+), (\w+)\)", str(variable["query"]))
        assert asked, variable["query"]
        selector, label = self.filled(asked[1]), asked[2]
        options = sorted(map(str, self.trainings.ask(f"label/{label}/values", **{"match[]": selector})))
        if not variable.get("includeAll"):
            self.values[str(variable["name"])] = options[0] if options else ""
        else:
            each = "(" + "|".join(map(_escaped, options)) + ")"
            self.values[str(variable["name"])] = str(variable.get("allValue") or each)
        return options

    def filled(self, query: str) -> str:
        """Return a query without variables, those of Grafana's own included."""
        # https://grafana.com/docs/grafana/latest/datasources/prometheus/template-variables
        step = self._step()
        own = {
            "__interval": f"{step}s",
            "__rate_interval": f"{max(step + SCRAPE_SECONDS, 4 * SCRAPE_SECONDS)}s",
            "__range": f"{self._seconds()}s",
        }
        # `$1` is label_replace's own.
        return re.sub(r"\$([a-z_]\w*)", lambda name: (own | self.values)[name[1]], query)

    def asked(self, query: str, *, is_instant: bool) -> list[Series]:
        """Return the series that a query gives, those that are no number in all places left out."""
        now = time.time()
        if is_instant:
            found = self.trainings.ask("query", query=self.filled(query), time=f"{now}")
        else:
            found = self.trainings.ask(
                "query_range",
                query=self.filled(query),
                start=f"{self.trainings.started}",
                end=f"{now}",
                step=f"{self._step()}",
            )
        return [series for series in found if _has_number(series)]

    def _seconds(self) -> int:
        return int(time.time() - self.trainings.started) + 1

    def _step(self) -> int:
        """A point for each two pixels of a panel, and no finer than the scrape."""
        return max(SCRAPE_SECONDS, self._seconds() // 300)


@dataclass(frozen=True)
class Query:
    """A query of a panel or an annotation."""

    panel: str
    expr: str
    is_instant: bool
    labels: frozenset[str]
    """Those that the names of its series are made of."""


def _escaped(value: str) -> str:
    """Return a value as Grafana puts it into a regular expression within a string."""
    return re.sub(r"[\\$^*{}\[\]'+?.()|]", r"\\\\\g<0>", value)


def _has_number(series: Series) -> bool:
    points = series.get("values") or [series["value"]]
    assert isinstance(points, list)
    return any(value != "NaN" for _, value in points)


def _loaded(name: str) -> dict[str, object]:
    loaded: dict[str, object] = json.loads(DASHBOARDS[name].read_text())
    return loaded


def _panels(dashboard: dict[str, object]) -> Iterator[dict[str, object]]:
    panels = dashboard["panels"]
    assert isinstance(panels, list)
    for panel in panels:
        if panel["type"] == "row":
            yield from panel["panels"]
        else:
            yield panel


def _queries(dashboard: dict[str, object]) -> list[Query]:
    found = []
    for panel in _panels(dashboard):
        targets = panel["targets"]
        assert isinstance(targets, list)
        found += [
            Query(str(panel["title"]), one["expr"], bool(one.get("instant")), _labels(one)) for one in targets
        ]
    annotations = dashboard["annotations"]
    assert isinstance(annotations, dict)
    for one in annotations.get("list", ()):
        if one.get("expr"):
            found.append(Query(f"annotation {one['name']}", one["expr"], False, frozenset()))
    return found


def _label_columns(dashboard: dict[str, object]) -> dict[str, set[str]]:
    """Return the labels that each table shows, by its title."""
    columns = {}
    for panel in _panels(dashboard):
        for step in panel.get("transformations", ()):  # type: ignore[attr-defined]
            if step["id"] == "filterFieldsByName":
                names = set(step["options"]["include"]["names"])
                columns[str(panel["title"])] = {name for name in names if not name.startswith("Value")}
    return columns


def _labels_of(found: list[Series]) -> set[str]:
    return set().union(*(series["metric"] for series in found))  # type: ignore[arg-type]


def _labels(target: dict[str, object]) -> frozenset[str]:
    return frozenset(re.findall(r"\{\{(\w+)\}\}", str(target.get("legendFormat", ""))))


@pytest.fixture(scope="module")
def trainings(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Trainings]:
    """Three trainings in two jobs, each with its sidecar, and a Prometheus that scrapes and rolls up.

    Of job `resnet` one pod computes on a CPU under a limit, one on an accelerator; both wait for batches.
    Job `wide` has far more workers than it needs.
    """
    directory = tmp_path_factory.mktemp("dashboards")
    library = _compiled(directory)
    with contextlib.ExitStack() as stack:
        host, device, wide = (stack.enter_context(sidecar()) for _ in range(3))
        targets = {
            f"127.0.0.1:{at.http_port()}": {"cluster": "east", "namespace": "ml", **labels}
            for at, labels in (
                (host, {"pod": "resnet-0", "workload": "resnet"}),
                (device, {"pod": "resnet-1", "workload": "resnet"}),
                # Without the label, the pod is its own workload.
                (wide, {"pod": "wide-0"}),
            )
        }
        rules = [RULES / "feedwater.rules.yaml", _alerts_at_once(directory)]
        # First, so that it sees each counter rise.
        server = stack.enter_context(prometheus(directory, targets, rules=rules))
        started = time.time()
        group = stack.enter_context(cgroup("cpu"))
        limit_cores(group, 1)
        starved = {"mode": "auto", "workers": 1, "load_seconds": 0.03, "step_seconds": 0.01, "batches": 80}
        stack.enter_context(training(TRAINER, starved | {"has_device": False}, host, group=group))
        on_device = starved | {"mode": "advise", "has_device": True}
        stack.enter_context(training(TRAINER, on_device, device, LD_LIBRARY_PATH=library))
        fed = {"mode": "advise", "workers": 6, "load_seconds": 0.002, "step_seconds": 0.03, "batches": 80}
        stack.enter_context(training(TRAINER, fed | {"has_device": False}, wide))
        yield Trainings(server.url, started)


def _alerts_at_once(directory: Path) -> Path:
    """Write the alerts without their patience, so that a run of minutes fires what a job of hours would."""
    written = directory / "alerts.yaml"
    alerts = (RULES / "feedwater.alerts.yaml").read_text()
    written.write_text(re.sub(r"\bfor: \w+", "for: 0s", alerts))
    return written


def _compiled(directory: Path) -> str:
    compiler = shutil.which("cc")
    assert compiler, "cc is missing: apt-get install gcc libc6-dev"
    (directory / "nvml.c").write_text(NVML)
    library = directory / "libnvidia-ml.so.1"
    subprocess.run([compiler, "-shared", "-fPIC", "-o", str(library), str(directory / "nvml.c")], check=True)
    return str(directory)


def _variables(dashboard: dict[str, object]) -> list[dict[str, object]]:
    templating = dashboard["templating"]
    assert isinstance(templating, dict)
    return [variable for variable in templating["list"] if variable["type"] == "query"]


def _until_answered(grafana: Grafana, dashboard: dict[str, object]) -> dict[Query, list[Series]]:
    """Return what each query gives, as soon as all give something.

    Raises:
        AssertionError: Some never did; with their names.
    """
    until = time.monotonic() + DEADLINE_SECONDS
    open_, answered = _queries(dashboard), {}
    while True:
        missing = [
            str(variable["name"]) for variable in _variables(dashboard) if not grafana.choose(variable)
        ]
        if not missing:
            for query in open_:
                if found := grafana.asked(query.expr, is_instant=query.is_instant):
                    answered[query] = found
            open_ = [query for query in open_ if query not in answered]
            if not open_:
                return answered
            missing = [f"{query.panel}: {grafana.filled(query.expr)}" for query in open_]
        assert time.monotonic() < until, "no data for:\n" + "\n".join(missing)
        time.sleep(2)


@pytest.mark.real
@pytest.mark.cgroup
@pytest.mark.timeout(600)
@pytest.mark.parametrize("name", DASHBOARDS)
def test_every_query_returns_data(trainings: Trainings, name: str) -> None:
    """All of panels, tables, annotations and variables; and series have the labels that name them."""
    dashboard = _loaded(name)
    grafana = Grafana(trainings)
    answered = _until_answered(grafana, dashboard)
    assert len(answered) == len(set(_queries(dashboard)))
    for query, found in answered.items():
        assert query.labels <= _labels_of(found), query.panel
    for title, columns in _label_columns(dashboard).items():
        shown = [_labels_of(found) for query, found in answered.items() if query.panel == title]
        assert columns <= set().union(*shown), title
    assert grafana.values["cluster"] == ".*"


@pytest.mark.real
@pytest.mark.cgroup
@pytest.mark.timeout(600)
def test_tables_name_the_jobs_that_they_are_about(trainings: Trainings) -> None:
    """Accelerators idle in `resnet` alone; `wide` has workers to spare, and `resnet` has too few.

    What is recommended after one epoch on a busy machine may be taken back after the next.
    """
    dashboard, grafana = _loaded("cluster"), Grafana(trainings)

    def workloads(panel: str) -> set[object]:
        return {
            series["metric"]["workload"]  # type: ignore[index]
            for query, found in _until_answered(grafana, dashboard).items()
            if query.panel == panel
            for series in found
        }

    wait_for(lambda: workloads("Ten jobs worth fixing: accelerators") == {"resnet"}, seconds=TABLE_SECONDS)
    wait_for(lambda: workloads("Over-provisioned jobs") == {"wide-0"}, seconds=TABLE_SECONDS)
    wait_for(lambda: "resnet" in workloads("Ten jobs worth fixing: trainers on CPUs"), seconds=TABLE_SECONDS)


@pytest.mark.real
@pytest.mark.parametrize("name", DASHBOARDS)
def test_dashboards_pass_the_linter(name: str) -> None:
    """Grafana's own linter finds nothing but what `.lint` excludes with a reason."""
    done = subprocess.run(
        [tool("dashboard-linter"), "lint", "--strict", "--config", str(LINTER), str(DASHBOARDS[name])],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stdout + done.stderr
