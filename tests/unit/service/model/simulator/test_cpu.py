"""CPU time: shared evenly, and under a quota drained from a bucket."""

from __future__ import annotations

import pytest

from feedwater_service.model import Budget
from feedwater_service.model.simulator.cpu import NEVER, CpuScheduler, Machine, machine_of


def run(cpu: CpuScheduler, bursts: list[tuple[int, float]]) -> dict[int, float]:
    """Start bursts at once; return when each thread was through."""
    for thread, seconds in bursts:
        cpu.start(thread, seconds)
    ends: dict[int, float] = {}
    while len(ends) < len(bursts):
        thread = cpu.run(NEVER)
        if thread >= 0:
            ends[thread] = cpu.now
    return ends


def test_scheduler_runs_as_many_threads_at_full_speed_as_there_are_cpus():
    """Two threads of 1 s on 2 CPUs are both through after 1 s."""
    assert run(CpuScheduler(Machine(2.0)), [(0, 1.0), (1, 1.0)]) == {0: 1.0, 1: 1.0}


def test_scheduler_shares_evenly_beyond():
    """Threads of 1, 1, 2 s on 2 CPUs run at 2/3 until the short ones end at 1.5 s; then 1 s is left."""
    ends = run(CpuScheduler(Machine(2.0)), [(0, 1.0), (1, 1.0), (2, 2.0)])
    assert ends == pytest.approx({0: 1.5, 1: 1.5, 2: 2.5})


def test_scheduler_freezes_until_the_refill_when_the_bucket_is_empty():
    """Half a core is 50 ms per 100 ms: 120 ms of work run 50, wait 50, run 50, wait 50, run 20: 220 ms."""
    cpu = CpuScheduler(Machine(2.0, 0.5))
    assert run(cpu, [(0, 0.12)])[0] == pytest.approx(0.22)
    assert cpu.frozen_seconds == pytest.approx(0.1)


def test_scheduler_drains_the_bucket_faster_with_two_threads():
    """One core's quota on 2 CPUs is gone after 50 ms: two threads of 60 ms end 10 ms into the next period."""
    ends = run(CpuScheduler(Machine(2.0, 1.0)), [(0, 0.06), (1, 0.06)])
    assert ends == pytest.approx({0: 0.11, 1: 0.11})


def test_nothing_is_through_while_cores_are_frozen():
    """Half a core's 50 ms are used up: a burst of no work waits for the refill, whoever else wakes before."""
    cpu = CpuScheduler(Machine(2.0, 0.5))
    cpu.start(0, 0.06)
    assert cpu.run(NEVER) == -1
    cpu.start(1, 0.0)
    assert (cpu.run(0.08), cpu.now) == (-1, 0.08)
    assert (cpu.run(NEVER), cpu.now) == (1, pytest.approx(0.1))


@pytest.mark.parametrize("now", [1e7, 1e9, 1e12])
@pytest.mark.parametrize("quota", [None, 0.5])
def test_scheduler_ends_bursts_however_late_it_is(now: float, quota: float | None):
    """At times where a nanosecond added to a float is lost, three bursts end within 100 events."""
    cpu = CpuScheduler(Machine(2.0, quota))
    cpu.run(now + 0.07)
    for thread, seconds in enumerate((0.013, 0.0170001, 1e-7)):
        cpu.start(thread, seconds)
    ended = [-1 if cpu.is_idle else cpu.run(NEVER) for _ in range(100)]
    assert sorted(thread for thread in ended if thread >= 0) == [0, 1, 2]


@pytest.mark.parametrize(("stated", "used"), [(1e-300, 1e-3), (0.05, 0.05), (1e6, 1.0), (0.0, 0.1)])
def test_machine_has_a_period_that_the_kernel_takes(stated: float, used: float):
    """A period is 1 ms to 1 s, whatever was reported; 0 is not known, and the kernel's default of 100 ms."""
    assert machine_of(Budget(4, 2.0, cpu_period_seconds=stated)).period_seconds == used


def test_scheduler_loses_what_was_not_used_in_a_period():
    """After a second of idling the bucket holds one period's 50 ms, not ten."""
    cpu = CpuScheduler(Machine(2.0, 0.5))
    cpu.run(1.0)
    assert run(cpu, [(0, 0.06)])[0] == pytest.approx(1.11)


def test_scheduler_counts_a_wide_burst_against_the_quota_in_full():
    """A step of 40 ms on 2 CPUs uses 80 ms: of a bucket of 100 it runs through, of one of 50 it does not."""
    wide = CpuScheduler(Machine(2.0, 1.0))
    wide.start(0, 0.04, width=2.0)
    assert (wide.run(NEVER), wide.now) == (0, pytest.approx(0.04))
    narrow = CpuScheduler(Machine(2.0, 0.5))
    narrow.start(0, 0.04, width=2.0)
    assert (narrow.run(NEVER), narrow.now) == (-1, pytest.approx(0.025))


def test_scheduler_lets_time_pass_when_idle():
    """Nothing runs, so nothing happens before the moment that is asked for."""
    cpu = CpuScheduler(Machine(2.0, 0.5))
    assert cpu.is_idle
    assert (cpu.run(0.25), cpu.now) == (-1, 0.25)


def test_machine_of_ignores_a_quota_that_does_not_bind():
    """A quota of 4 cores on 2 CPUs never freezes anything."""
    assert machine_of(Budget(2, 4.0)) == Machine(2.0, None, 0.1)


def test_share_divides_among_ranks_and_leaves_a_remnant():
    """Half of 8 CPUs less 1 used by others is 3; nobody is left with nothing."""
    assert Machine(8.0).share(0.5, 1.0).cpus == pytest.approx(3.0)
    assert Machine(2.0, 1.0).share(0.5, 5.0).cores > 0
