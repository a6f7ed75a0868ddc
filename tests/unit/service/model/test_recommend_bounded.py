"""The model's work is bounded for every epoch that a client can report."""

from __future__ import annotations

from contextvars import copy_context

import pytest

from feedwater_service.model import Budget, Epoch, Load, Loader, LoaderSettings, Pod, Policy, recommend
from feedwater_service.model.numbers import grids
from feedwater_service.model.simulator.cpu import Machine
from feedwater_service.model.simulator.engine import BEFORE_EVENTS, SimulationLimitError
from feedwater_service.model.simulator.simulate import Workload, simulate

WORKERS = LoaderSettings(2, 2)
MAX_CHECKS = 500
"""Each stands for 4,096 events at most. An honest epoch has about 60 simulations."""


def pod(
    seconds: float,
    cpu_seconds: float,
    settings: LoaderSettings = WORKERS,
    quota: float | None = 2.0,
    batch_bytes: int = 100_000,
) -> Pod:
    """Return a pod of one loader with 200 equal loads by two workers, on 4 CPUs under a quota."""
    count = 200
    loads = [
        Load(i % 2, 1000.0 + i * seconds / 2, seconds, cpu_seconds, 0.0, batch_bytes, 2) for i in range(count)
    ]
    waits, steps = [seconds / 2] * count, [0.01] * count
    epoch = Epoch(0, settings, 1000.0, 0.05, waits, steps, loads=loads, batches=count)
    budget = Budget(4, quota, memory_bytes=8 << 30, shm_bytes=1 << 30)
    return Pod(budget, (Loader("train", 0, settings, (epoch,), batches_per_epoch=count),))


def checks(asked: Pod) -> int:
    """Return how often the model looked at its limits for one recommendation."""
    count = 0

    def check() -> None:
        nonlocal count
        count += 1
        assert count <= MAX_CHECKS

    def run() -> None:
        BEFORE_EVENTS.set(check)
        recommend(asked, "train", Policy())

    copy_context().run(run)
    return count


@pytest.mark.parametrize("quota", [None, 2.0])
@pytest.mark.parametrize("cpu_share", [0.0, 0.001, 1.0])
@pytest.mark.parametrize("seconds", [0.0, 300.0, 1e7])
def test_loads_of_any_length_take_bounded_work(seconds: float, cpu_share: float, quota: float | None) -> None:
    """Loads of nothing, of whole shards, of four months: at most ten times the work for loads of 60 ms."""
    assert checks(pod(seconds, seconds * cpu_share, quota=quota)) <= 10 * checks(pod(0.06, 0.03, quota=quota))


@pytest.mark.parametrize(
    ("settings", "batch_bytes"),
    [
        (LoaderSettings(2, 1_000_000), 100_000),
        (LoaderSettings(2, 1 << 53), 100_000),
        (LoaderSettings(4096, 2), 100_000),
        (WORKERS, 1 << 53),
    ],
)
def test_absurd_settings_and_batches_take_bounded_work(settings: LoaderSettings, batch_bytes: int) -> None:
    """A prefetch factor of a million, 4,096 workers, batches of petabytes: the model answers."""
    assert checks(pod(0.05, 0.01, settings, batch_bytes=batch_bytes)) <= MAX_CHECKS


def test_quota_is_given_evenly_where_a_batch_takes_hundreds_of_its_periods() -> None:
    """400 loads of 300 s on a quota of 400 cores last 1.2 million periods, which are not all simulated."""
    work = Workload(((0.0, 300.0),), ((0.0, 0.01),))
    machine = Machine(400.0, 400.0)
    count = 0

    def check() -> None:
        nonlocal count
        count += 1

    def run() -> float:
        BEFORE_EVENTS.set(check)
        return simulate(work, LoaderSettings(1, 2), machine, 400).seconds

    assert copy_context().run(run) == pytest.approx(400 * 300.0, rel=0.01)
    assert count <= grids.PERIODS_PER_BATCH * 400 / grids.EVENTS_PER_CHECK + 4


def test_caller_ends_the_model_by_raising() -> None:
    """What `BEFORE_EVENTS` raises ends the model within 4,096 events."""

    def refuse() -> None:
        raise SimulationLimitError("no time left")

    def run() -> None:
        BEFORE_EVENTS.set(refuse)
        recommend(pod(0.06, 0.03), "train", Policy())

    with pytest.raises(SimulationLimitError, match="no time left"):
        copy_context().run(run)
