"""Write rules, alerts and dashboards into the chart: `python -m deploy.monitoring`, or `make monitoring`."""

from __future__ import annotations

from pathlib import Path

from deploy.monitoring import alerts, rules
from deploy.monitoring.dashboards import cluster, files, job

CHART_FILES = Path(__file__).resolve().parents[1] / "helm/feedwater/files"
"""Inside the chart, since Helm packs nothing from outside: their only place."""


def generated() -> dict[Path, str]:
    """Return the text of every generated file, by its path below the chart's `files/`."""
    texts = {
        Path("prometheus/feedwater.rules.yaml"): rules.rules_file(),
        Path("prometheus/feedwater.alerts.yaml"): alerts.alerts_file(),
    }
    for dashboard in (job.dashboard(), cluster.dashboard()):
        texts[Path("dashboards") / files.name(dashboard)] = files.text(dashboard)
    return texts


def main() -> None:
    """Write the files."""
    for path, text in generated().items():
        (CHART_FILES / path).write_text(text)
        print(CHART_FILES / path)


if __name__ == "__main__":
    main()
