"""The demo, as a stranger runs it, with fewer epochs."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from tests.support.processes import PATIENT, root_environment


@pytest.fixture(scope="module")
def shown() -> dict[str, dict[str, object]]:
    """Return what the short demo prints as JSON, by scenario."""
    done = subprocess.run(
        [sys.executable, "-m", "docs.examples.demo", "--short", "--json"],
        env=root_environment() | PATIENT,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return {one["scenario"]: one for one in json.loads(done.stdout)["scenarios"]}


@pytest.mark.real
@pytest.mark.timeout(400)
def test_demo_raises_the_workers_of_a_loader_that_waits_for_an_object_store(
    shown: dict[str, dict[str, object]],
) -> None:
    """From 1 worker, 20 to 40 ms a request: more workers than the 2 that two cores suggest."""
    workers = _workers(shown["object-store"])

    assert workers[0] == 1
    assert max(workers) > 2
    assert shown["object-store"]["same_samples"] is True


@pytest.mark.real
@pytest.mark.timeout(400)
def test_demo_lowers_the_workers_of_a_loader_under_a_cpu_limit(shown: dict[str, dict[str, object]]) -> None:
    """From 8 workers under a limit of one core: at most the 2 that a core more would take."""
    workers = _workers(shown["cpu-limit"])

    assert shown["cpu-limit"]["limit_cores"] == 1.0
    assert workers[0] == 8
    assert workers[-1] <= 2
    assert shown["cpu-limit"]["same_samples"] is True


def _workers(scenario: dict[str, object]) -> list[int]:
    runs = scenario["runs"]
    assert isinstance(runs, list)
    (with_feedwater,) = (run for run in runs if run["name"] == "with Feedwater")
    return [epoch["workers"] for epoch in with_feedwater["epochs"]]
