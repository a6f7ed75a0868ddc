"""What the sidecar says of a training is what happened in it."""

from __future__ import annotations

import contextlib
import re
import time
from collections.abc import Callable

import pytest

from tests.support.processes import Sidecar, watch_state

LABELS = '{loader="train",rank="0"}'
DEADLINE_SECONDS = 15


def figures(text: str) -> dict[str, float]:
    """Return the samples of an exposition, by name and labels."""
    return {name: float(value) for name, value in re.findall(r"^(\w\S*) (\S+)$", text, re.MULTILINE)}


def eventually(read: Callable[[], object], wanted: object) -> object:
    """Return what ``read`` gives as soon as it is ``wanted``, or when time is up."""
    until = time.monotonic() + DEADLINE_SECONDS
    found = None
    while found != wanted and time.monotonic() < until:
        # A busy machine may not answer in time.
        with contextlib.suppress(OSError):
            found = read()
        time.sleep(0.1)
    return found


def test_metrics_agree_with_the_training(sidecar_process: Sidecar, train) -> None:
    """Three epochs of 50 batches under two workers: 150 batches, 3 epochs, 2 workers, nothing dropped."""
    with train(sidecar_process.address, mode="observe", workers=2, epochs=3) as training:

        def read(name: str) -> float:
            return figures(sidecar_process.metrics()).get(f"feedwater_{name}{LABELS}", -1)

        assert eventually(lambda: read("epochs_total"), 3) == 3
        assert read("batches_total") == sum(training.batches) == 150
        assert read("num_workers") == 2
        assert read("wait_seconds_count") == 150
        found = figures(sidecar_process.metrics())
        spent = found[f"feedwater_wait_seconds_sum{LABELS}"] + found[f"feedwater_step_seconds_sum{LABELS}"]
    assert spent <= sum(training.seconds)
    assert [v for k, v in found.items() if k.startswith("feedwater_dropped_batches_total")] == [0] * 5


@pytest.mark.slow
def test_every_load_of_the_workers_is_counted(sidecar_process: Sidecar, train) -> None:
    """Each of 150 batches was loaded once, by a worker, and took at least the 24 ms that it sleeps."""
    with train(sidecar_process.address, mode="observe", workers=2, epochs=3):
        name = f"feedwater_load_seconds_count{LABELS}"
        assert eventually(lambda: figures(sidecar_process.metrics()).get(name), 150) == 150
        found = figures(sidecar_process.metrics())
    assert found[f"feedwater_load_seconds_sum{LABELS}"] >= 150 * 0.024
    assert found[f"feedwater_load_cpu_seconds_sum{LABELS}"] < 150 * 0.012


@pytest.mark.slow
def test_epochs_agree_with_the_training(sidecar_process: Sidecar, train) -> None:
    """Each epoch has its batches and the workers that it ran with, also across a change."""
    with train(sidecar_process.address, workers=1, epochs=4) as training:

        def epochs() -> list[tuple[int, int]]:
            loaders = watch_state(sidecar_process.address)
            return [(e.batches, e.settings.num_workers) for loader in loaders for e in loader.epochs]

        truth = list(zip(training.batches, training.workers, strict=True))
        assert eventually(epochs, truth) == truth


@pytest.mark.slow
def test_off_is_not_even_registered(sidecar_process: Sidecar, train) -> None:
    """Nothing of a loader whose mode is off reaches the sidecar."""
    with train(sidecar_process.address, mode="off", workers=0, epochs=2, samples=40):
        assert watch_state(sidecar_process.address) == []
