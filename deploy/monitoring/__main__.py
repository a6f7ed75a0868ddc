"""Write the dashboards as JSON: `python -m deploy.monitoring`, or `make monitoring`."""

from __future__ import annotations

from deploy.monitoring.dashboards import cluster, job
from deploy.monitoring.dashboards.files import write


def main() -> None:
    for dashboard in (job.dashboard(), cluster.dashboard()):
        print(write(dashboard))


if __name__ == "__main__":
    main()
