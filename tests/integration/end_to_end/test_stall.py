"""A worker that never returns is told from a loop that does something else."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.support.processes import Sidecar, eventually, trainer_environment

TRAINER = "tests.integration.end_to_end.stall_trainer"
LABELS = '{loader="train",rank="0"}'
DEADLINE_SECONDS = 30
"""Reports come each two seconds; a busy machine takes a while to start three processes."""


@contextmanager
def halted(address: str, directory: Path, **asked: object) -> Iterator[None]:
    """Run a training up to its halt."""
    request = {"workers": 3, "halt": 100, "step_seconds": 0.005} | asked
    process = subprocess.Popen(
        [sys.executable, "-m", TRAINER, json.dumps(request)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env=trainer_environment(address, directory),
        text=True,
        start_new_session=True,
    )
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == "halts\n"
        yield
    finally:
        # A worker that sleeps for ever does not see that its trainer is gone.
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate()


def figure(sidecar: Sidecar, name: str) -> float | None:
    """Return one sample of the loader; None where there is none."""
    found = re.search(rf"^feedwater_{name}{re.escape(LABELS)} (\S+)$", sidecar.metrics(), re.MULTILINE)
    return float(found[1]) if found else None


@pytest.mark.parametrize(
    ("workers", "halt"),
    [
        pytest.param(1, 0, id="first-batch-of-one", marks=pytest.mark.slow),
        pytest.param(3, 0, id="first-batch", marks=pytest.mark.slow),
        pytest.param(3, 100, id="later"),
    ],
)
def test_a_hung_worker_stalls_the_loader(
    sidecar_process: Sidecar, tmp_path: Path, workers: int, halt: int
) -> None:
    """One sample never comes: seconds of stalling add up, report by report."""
    with halted(sidecar_process.address, tmp_path, where="worker", workers=workers, halt=halt):
        eventually(lambda: (figure(sidecar_process, "hung_seconds") or 0.0) > 2, DEADLINE_SECONDS)


@pytest.mark.parametrize(
    ("workers", "halt", "step_seconds"),
    [
        pytest.param(3, 1, 0.005, id="first-step", marks=pytest.mark.slow),
        pytest.param(3, 100, 0.005, id="later"),
        pytest.param(3, 100, 0.03, id="long-steps", marks=pytest.mark.slow),
        pytest.param(1, 100, 0.03, id="one-worker", marks=pytest.mark.slow),
        pytest.param(3, 199, 0.005, id="near-the-end", marks=pytest.mark.slow),
    ],
)
def test_a_loop_that_rests_does_not(
    sidecar_process: Sidecar, tmp_path: Path, workers: int, halt: int, step_seconds: float
) -> None:
    """The loop keeps a batch, of 200, for as long as three reports take: nothing is outstanding."""
    asked = {"where": "loop", "workers": workers, "halt": halt, "step_seconds": step_seconds}
    with halted(sidecar_process.address, tmp_path, **asked):
        before = figure(sidecar_process, "reports_total") or 0.0
        eventually(lambda: (figure(sidecar_process, "reports_total") or 0.0) >= before + 4, DEADLINE_SECONDS)
        assert figure(sidecar_process, "hung_seconds") == 0
