"""How long does `helm template` take for the whole chart?

Timed: the command from start to end, with rules, alerts, dashboards and policies all rendered, Helm 3 and
Helm 4 in turn. The size of what comes out is beside it. A Helm that is not here is left out.

    python -m tests.benchmarks.helm_template --json tests/benchmarks/results/helm_template.json
"""

from __future__ import annotations

import os
import shutil
import subprocess
import time

from tests import ROOT
from tests.support.benchmark import Options, Row, log, options, publish, quiet, row

RUNS = 9
HELMS = ("helm3", "helm4")
EVERYTHING = (
    *("--kube-version", "1.36"),
    *("--set", "injection.render=always,podMonitor.render=always,prometheusRule.render=always"),
    *("--set", "manifest.render=always,prepull.enabled=true,networkPolicy.enabled=true"),
)


def measure_all(chosen: Options) -> list[Row]:
    """Measure each Helm that is here."""
    found = {name: _path(name) for name in HELMS}
    for name in [name for name, path in found.items() if path is None]:
        log(f"{name}: left out, it is not here: bash .ci/run real")
    here = [(name, path) for name, path in found.items() if path is not None]
    runs = 1 if chosen.quick else RUNS
    sizes = {name: _render(path)[1] for name, path in here}
    with quiet(chosen):
        taken = [[_render(path)[0] for _, path in here] for _ in range(runs)]
    return [
        row(f"{name} template", "s", seconds, bar="<= 2", note=f"{sizes[name] / 1e3:.0f} kB of YAML")
        for (name, _), seconds in zip(here, zip(*taken, strict=True), strict=True)
    ]


def _path(name: str) -> str | None:
    return shutil.which(name, path=f"{ROOT / '.cache/tools'}:{os.environ['PATH']}")


def _render(helm: str) -> tuple[float, int]:
    """Return seconds and bytes."""
    command = [helm, "template", "feedwater", str(ROOT / "deploy/helm/feedwater"), *EVERYTHING]
    began = time.perf_counter()
    done = subprocess.run(command, check=True, capture_output=True)
    return time.perf_counter() - began, len(done.stdout)


if __name__ == "__main__":
    chosen_options = options(__doc__)
    publish(__doc__, measure_all(chosen_options), chosen_options)
