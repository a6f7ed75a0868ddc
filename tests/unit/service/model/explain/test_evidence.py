"""What can fool the model is named with its unit; what was not measured is absent."""

from __future__ import annotations

from dataclasses import replace

import pytest

from feedwater_service.model import (
    Budget,
    ContainerUsage,
    Epoch,
    Evidence,
    Load,
    LoaderSettings,
    WorkerMemory,
)
from feedwater_service.model.explain.evidence import facts, pressure
from feedwater_service.model.fit.estimate import estimate
from feedwater_service.model.observed.group import group_of
from feedwater_service.model.simulator.cpu import Machine
from feedwater_service.model.simulator.simulate import Workload
from feedwater_service.model.types import Reads

MIB = 2**20
WORK = Workload(((0.01, 0.01),), ((0.0, 0.004),), receive_cpu_seconds=0.0005)


@pytest.fixture
def found(play_epoch, make_pod, settings_of):
    """Return the function that gives the evidence of an epoch, by name, with other epochs before it."""

    def find(*before: Epoch, map_style: bool = True, **changes: object) -> dict[str, Evidence]:
        epoch = replace(play_epoch(WORK, settings_of(2), Budget(8), 60, number=1), **changes)
        group = group_of(make_pod([*before, epoch], Budget(8), map_style=map_style), "train")
        assert group is not None
        return {e.name: e for e in facts(group, estimate(group.slowest, group.epoch), Machine(8.0))}

    return find


def test_absent_signals_stay_absent(found):
    """A plain epoch has none of what can fool the model, and no zero in its place."""
    names = set(found())
    assert not names & {
        "storage_read_ratio",
        "first_load_seconds",
        "stolen_cores",
        "load_cpu_growth_ratio",
        "worker_growth_bytes",
        "delivering_workers",
        "throttled_ratio",
        "cpu_pressure_ratio",
        "io_pressure_ratio",
        "memory_pressure_ratio",
    }


def test_a_cold_first_epoch_is_called_provisional(found):
    """48 of 64 MiB came from storage, and nothing is known of an epoch before."""
    fact = found(reads=Reads(64 * MIB, 48 * MIB))["storage_read_ratio"]
    assert fact.value == pytest.approx(0.75)
    assert fact.text.startswith("75% of what was read came from storage")
    assert "provisional" in fact.text


def test_an_epoch_as_cold_as_the_one_before_is_not_provisional(found, play_epoch, settings_of):
    """What the page cache did not hold twice it will not hold."""
    cold = Reads(64 * MIB, 64 * MIB)
    before = replace(play_epoch(WORK, settings_of(2), Budget(8), 60), reads=cold)
    assert "provisional" not in found(before, reads=cold)["storage_read_ratio"].text


def test_first_loads_of_workers_are_told_apart(found):
    """0.5 s for each worker's first batch, 20 ms for the others."""
    loads = [Load(w, 1000.0 + w, 0.5, 0.5, 0.0) for w in range(2)]
    loads += [Load(i % 2, 1002.0 + i, 0.02, 0.02, 0.0) for i in range(58)]
    fact = found(loads=loads)["first_load_seconds"]
    assert fact.value == pytest.approx(0.5)
    assert "500 ms, a later one 20 ms" in fact.text


def test_stolen_time_is_in_cores(found):
    """3 s were stolen in 10: 0.3 cores."""
    readings = (ContainerUsage(1000.0, steal_seconds=5.0), ContainerUsage(1010.0, steal_seconds=8.0))
    assert found(containers=readings)["stolen_cores"].value == pytest.approx(0.3)


def test_loads_that_become_dearer_together_are_told(found, play_epoch, settings_of):
    """10 ms of CPU time with 2 workers, 15 with 8."""
    dear = Workload(((0.01, 0.015),), ((0.0, 0.004),), receive_cpu_seconds=0.0005)
    fact = found(play_epoch(dear, settings_of(8), Budget(8), 60))["load_cpu_growth_ratio"]
    assert fact.value == pytest.approx(1.5)
    assert "with 8 workers" in fact.text


def test_memory_that_grows_is_told(found):
    """A worker of 20 MiB at the begin has 100 later."""
    readings = [WorkerMemory(0, 1000.5, pss_bytes=20 * MIB), WorkerMemory(0, 1001.0, pss_bytes=100 * MIB)]
    fact = found(memory=readings)["worker_growth_bytes"]
    assert fact.value == 80 * MIB
    assert "from 20 to 100 MiB" in fact.text


def test_workers_without_a_shard_are_told(found):
    """One of two workers of an IterableDataset delivered everything."""
    loads = [Load(0, 1000.0 + i, 0.01, 0.001, 0.0, 8, 1) for i in range(60)]
    fact = found(map_style=False, loads=loads, settings=LoaderSettings(2, 2))["delivering_workers"]
    assert (fact.value, fact.text) == (1, "1 of 2 workers delivered anything")


@pytest.mark.parametrize(
    ("field", "name", "what"),
    [
        ("cpu_pressure_seconds", "cpu_pressure_ratio", "a CPU"),
        ("io_pressure_seconds", "io_pressure_ratio", "storage"),
        ("memory_pressure_seconds", "memory_pressure_ratio", "memory"),
    ],
)
def test_pressure_is_evidence_from_a_tenth_of_the_time_on(found, field, name, what):
    """1.4 of 4 s are 35 %; 0.3 s are what happens anywhere."""

    def readings(seconds: float) -> tuple[ContainerUsage, ...]:
        return (ContainerUsage(1000.0, **{field: 7.0}), ContainerUsage(1004.0, **{field: 7.0 + seconds}))

    fact = found(containers=readings(1.4))[name]
    assert fact.value == pytest.approx(0.35)
    assert fact.text == f"some task waited for {what} 35% of the time (kernel pressure)"
    assert name not in found(containers=readings(0.3))


@pytest.mark.parametrize("totals", [(), (1.0,), (2.0, 1.0), (None, 1.0)])
def test_pressure_is_unknown_without_two_rising_totals(totals):
    """None read, one alone, a counter that began anew."""
    readings = [ContainerUsage(1000.0 + i, io_pressure_seconds=t) for i, t in enumerate(totals)]
    assert pressure(readings).storage is None
