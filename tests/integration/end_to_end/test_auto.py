"""The loop is closed: what is measured in training changes the training, and only for the better."""

from __future__ import annotations

import pytest

from tests.support.processes import Sidecar, cgroup, limit_cores, watch_state

NOBODY = "unix:/run/feedwater-nobody/api.sock"


def test_blocked_loader_gets_more_workers_and_trains_faster(raised) -> None:
    """One worker, 24 ms of sleep a batch, 1 ms a step: within 4 epochs more workers and higher throughput.

    Two workers would double it; half of that is asked for, so that start-up and a busy machine do not matter.
    """
    assert raised.workers[0] == 1
    assert raised.workers[4] >= 2, raised.errors.read_text()
    assert max(raised.rate(3), raised.rate(4)) > 1.5 * raised.rate(0), raised


@pytest.mark.slow
def test_persistent_workers_are_rebuilt_with_more(sidecar_process: Sidecar, train) -> None:
    """PyTorch ignores a new count on persistent workers; through Feedwater it still takes effect."""
    with train(sidecar_process.address, workers=2, epochs=5, persistent=True, load_seconds=0.012) as training:
        pass
    assert training.workers[4] > 2, training.errors.read_text()
    assert max(training.rate(3), training.rate(4)) > 1.3 * training.rate(0), training


def test_changed_workers_leave_samples_and_order_alone(raised, train) -> None:
    """The same samples in the same order as the unwatched run, batch by batch, across a change of workers."""
    with train(NOBODY, watched=False, workers=1, epochs=5) as unwatched:
        pass
    assert raised.workers != unwatched.workers, raised.errors.read_text()
    assert raised.samples == unwatched.samples


@pytest.mark.slow
@pytest.mark.cgroup
def test_cpu_bound_loader_at_its_quota_is_not_raised(sidecar_process: Sidecar, train) -> None:
    """One core of quota, 16 ms of CPU a batch, 8 workers: more workers can only make it worse."""
    with cgroup("cpu") as group:
        limit_cores(group, 1)
        with train(
            sidecar_process.address,
            group=group,
            workers=8,
            kind="cpu",
            load_seconds=0.004,
            samples=240,
            epochs=4,
        ) as training:
            (loader,) = watch_state(sidecar_process.address)
    assert max(training.workers) == 8, training.errors.read_text()
    assert loader.limits.cpu_quota_cores == pytest.approx(1)


@pytest.mark.slow
def test_tiny_dataset_keeps_its_setting(sidecar_process: Sidecar, train) -> None:
    """Three batches an epoch are too few to conclude from: nothing changes in 6 epochs."""
    with train(sidecar_process.address, workers=0, samples=12, epochs=6) as training:
        pass
    assert training.workers == [0] * 6


@pytest.mark.slow
def test_fed_trainer_keeps_its_setting(sidecar_process: Sidecar, train) -> None:
    """Two workers deliver a batch every 4 ms to steps of 30 ms: nothing is to be gained by more."""
    with train(
        sidecar_process.address, workers=2, load_seconds=0.002, step_seconds=0.03, epochs=4
    ) as training:
        pass
    assert max(training.workers) == 2


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["observe", "advise", "off"])
def test_other_modes_change_nothing(sidecar_process: Sidecar, train, mode: str) -> None:
    """A starved loader with one worker keeps it in every mode but auto."""
    with train(sidecar_process.address, mode=mode, workers=1, epochs=4, samples=120) as training:
        pass
    assert training.workers == [1] * 4
    assert training.workers_after == 1


@pytest.mark.slow
def test_absent_sidecar_leaves_training_as_configured(train) -> None:
    """Nobody listens: the user's workers, the user's samples, and one line that says so."""
    with train(NOBODY, watched=False, workers=2, epochs=3, samples=80) as unwatched:
        pass
    with train(NOBODY, workers=2, epochs=3, samples=80) as training:
        pass
    assert training.workers == [2] * 3
    assert training.samples == unwatched.samples
    assert len(training.errors.read_text().splitlines()) <= 1, training.errors.read_text()
