"""Write the dashboards as JSON: `python -m dashboards` in deploy/grafana, or `make dashboards`."""

from __future__ import annotations

from dashboards import cluster, job
from dashboards.files import write


def main() -> None:
    for dashboard in (job.dashboard(), cluster.dashboard()):
        print(write(dashboard))


if __name__ == "__main__":
    main()
