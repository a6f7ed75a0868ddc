"""What the sidecar says of an accelerator is what the accelerator did, whatever the host waited."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.support.processes import Sidecar, eventually, trainer_environment

TRAINER = "tests.integration.end_to_end.device_trainer"
LABELS = '{loader="train",rank="0"}'
DEADLINE_SECONDS = 15
BATCHES = 96
"""An epoch of these is sampled each sixth step."""


@contextmanager
def training(address: str, directory: Path, **asked: object) -> Iterator[dict[str, float]]:
    """Run a training of two epochs; yield what it says of the first while it still lives."""
    request = {"batches": BATCHES, "syncs": False, "host_seconds": 0.0, "has_events": True} | asked
    process = subprocess.Popen(
        [sys.executable, "-m", TRAINER, json.dumps(request)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env=trainer_environment(address, directory),
        text=True,
    )
    assert process.stdout is not None
    try:
        yield json.loads(process.stdout.readline())
    finally:
        process.communicate("", timeout=20)


SAMPLED = 0.25
"""Of the steps about one in six is sampled, so that one which a busy machine delays weighs as six."""


def figures(sidecar: Sidecar) -> dict[str, float]:
    """Return the samples of the loader, by short name."""
    found = re.findall(r"^feedwater_(\w+)(\{.*\}) (\S+)$", sidecar.metrics(), re.MULTILINE)
    return {name: float(value) for name, labels, value in found if labels == LABELS}


def ended(sidecar: Sidecar) -> dict[str, float]:
    """Return the figures when both epochs have ended."""
    eventually(lambda: figures(sidecar).get("epochs_total") == 2, DEADLINE_SECONDS)
    return figures(sidecar)


@pytest.mark.slow
def test_host_waits_while_the_device_is_busy(sidecar_process: Sidecar, tmp_path: Path) -> None:
    """Loads of 8 ms, steps of 12 ms queued ahead: the host waits nearly always, the device hardly ever."""
    with training(sidecar_process.address, tmp_path, load_seconds=0.008, step_seconds=0.012) as truth:
        found = ended(sidecar_process)
    assert truth["host_wait"] > 0.5 > 0.35 > truth["device_starvation"]
    assert found["host_wait_ratio"] > 0.5
    assert found["device_starvation_ratio"] == pytest.approx(truth["device_starvation"], abs=SAMPLED)
    assert "starvation_ratio" not in found
    assert "starved_seconds_total" not in found


def test_device_stands_still_while_the_host_waits(sidecar_process: Sidecar, tmp_path: Path) -> None:
    """Loads of 15 ms, steps of 5 ms: two thirds of the device's time are lost."""
    with training(
        sidecar_process.address, tmp_path, load_seconds=0.015, step_seconds=0.005, syncs=True
    ) as truth:
        found = ended(sidecar_process)
    assert truth["device_starvation"] > 0.4
    assert found["device_starvation_ratio"] == pytest.approx(truth["device_starvation"], abs=SAMPLED)
    idle, busy = found["device_idle_seconds_total"], found["device_busy_seconds_total"]
    # Scaled to all batches of both epochs, 15 ms each.
    assert idle + busy > 0.8 * 2 * BATCHES * 0.015
    assert 8 <= found["device_sampled_steps_total"] <= BATCHES


@pytest.mark.slow
def test_slow_host_is_no_starvation(sidecar_process: Sidecar, tmp_path: Path) -> None:
    """Loads of 1 ms, a host that needs 12 ms for a step of 3: it idles for 0.75, but not for a batch."""
    with training(
        sidecar_process.address, tmp_path, load_seconds=0.001, step_seconds=0.003, host_seconds=0.012
    ) as truth:
        found = ended(sidecar_process)
    assert truth["device_starvation"] < 0.4
    assert found["device_starvation_ratio"] == pytest.approx(truth["device_starvation"], abs=SAMPLED)


@pytest.mark.slow
def test_nothing_is_said_of_a_device_that_is_not_there(sidecar_process: Sidecar, tmp_path: Path) -> None:
    """Without a device its series are absent, and the host's wait is starvation."""
    with training(
        sidecar_process.address, tmp_path, load_seconds=0.006, step_seconds=0.001, has_events=False
    ):
        found = ended(sidecar_process)
    assert not [name for name in found if name.startswith("device_")]
    assert "starvation_ratio" in found
