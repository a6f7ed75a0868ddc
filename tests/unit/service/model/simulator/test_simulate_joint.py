"""Several ranks and loaders on one machine: they share it, and wait for each other."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from feedwater_service.model import LoaderSettings
from feedwater_service.model.simulator.cpu import Machine
from feedwater_service.model.simulator.simulate import Workload, simulate, simulate_batches
from feedwater_service.model.simulator.workload import BackgroundLoad, Colocation, Peer, ZippedLoader

WIDE = Machine(64.0)
GOLDEN = 0.618034
"""Multiples of it, modulo 1, keep apart."""


def plain(blocked: float, cpu: float, step_cpu: float = 0.0, timed: float = 0.0) -> Workload:
    return Workload(((blocked, cpu),), ((step_cpu, timed),))


def beside(work: Workload, *peers: Peer, synchronised: bool = True) -> Workload:
    return replace(work, colocation=Colocation(peers, synchronised))


def test_ranks_in_step_go_at_the_pace_of_the_slowest():
    """Loads of 10 ms beside loads of 30, one worker each, steps of 5: 30 ms a batch for both."""
    work = beside(plain(0.01, 0.0, 0.0, 0.005), Peer(3.0, 3.0))
    found = simulate(work, LoaderSettings(1), WIDE, 200)
    assert found.batches_per_second == pytest.approx(1 / 0.03, rel=0.02)
    # The quick one does not wait for data: it waits for the other inside its step.
    assert found.starvation < 0.02


def test_ranks_that_keep_no_step_go_at_their_own_pace():
    """The same without a barrier: 10 ms a batch, on CPUs enough for both."""
    work = beside(plain(0.01, 0.0, 0.0, 0.005), Peer(3.0, 3.0), synchronised=False)
    assert simulate(work, LoaderSettings(1), WIDE, 200).batches_per_second == pytest.approx(100, rel=0.02)


def test_ranks_share_one_quota():
    """Two ranks of 10 ms CPU a batch on 2 x 0.5 cores are 50 batches/s each; one alone on 1 core is 100."""
    work = plain(0.0, 0.01)
    both = simulate(beside(work, Peer()), LoaderSettings(2), Machine(1.0, 0.5), 400)
    assert both.batches_per_second == pytest.approx(50, rel=0.03)


def test_a_rank_uses_what_another_leaves():
    """A rank of 20 ms CPU a batch beside one of next to none, half a CPU each: it takes both."""
    light = beside(plain(0.0, 0.02), Peer(1.0, 0.001), synchronised=False)
    alone = simulate(plain(0.0, 0.02), LoaderSettings(1), Machine(0.5), 200)
    found = simulate(light, LoaderSettings(1), Machine(0.5), 200)
    assert alone.batches_per_second == pytest.approx(25, rel=0.02)
    assert found.batches_per_second > 1.8 * alone.batches_per_second


def test_two_loaders_of_one_loop_are_waited_for_in_turn():
    """Loads of 20 and of 60 ms by one worker each, in turn: 60 ms a batch, the other is always ready."""
    side = ZippedLoader(plain(0.06, 0.0), LoaderSettings(1))
    work = replace(plain(0.02, 0.0, 0.0, 0.01), colocation=Colocation(zipped=(side,)))
    found = simulate(work, LoaderSettings(1), WIDE, 200)
    assert found.batches_per_second == pytest.approx(1 / 0.06, rel=0.03)
    assert found.starvation < 0.02


def test_two_loaders_of_one_loop_in_the_main_process_add_up():
    """Without workers: 20 + 60 + 10 ms a batch."""
    side = ZippedLoader(plain(0.06, 0.0), LoaderSettings(0))
    work = replace(plain(0.02, 0.0, 0.0, 0.01), colocation=Colocation(zipped=(side,)))
    assert simulate(work, LoaderSettings(0), WIDE, 200).batches_per_second == pytest.approx(
        1 / 0.09, rel=0.01
    )


def test_a_loader_taken_from_every_fourth_batch_costs_a_quarter():
    """60 ms for each fourth batch are 15 for each: 20 + 15 + 10 ms."""
    side = ZippedLoader(plain(0.06, 0.0), LoaderSettings(0), 0.25)
    work = replace(plain(0.02, 0.0, 0.0, 0.01), colocation=Colocation(zipped=(side,)))
    assert simulate(work, LoaderSettings(0), WIDE, 200).batches_per_second == pytest.approx(
        1 / 0.045, rel=0.01
    )


def test_work_beside_takes_its_share():
    """10 ms CPU load and step in turn on one CPU, of which half is used by others that do not yield."""
    work = plain(0.0, 0.01, 0.01)
    crowded = replace(work, colocation=Colocation(background=(BackgroundLoad(0.5, 0.01),)))
    alone = simulate(work, LoaderSettings(0), Machine(1.0), 200).batches_per_second
    found = simulate(crowded, LoaderSettings(0), Machine(1.0), 200).batches_per_second
    # It computes for 10 ms beside us, at half speed each, then sleeps for 10: two thirds are left to us.
    assert alone == pytest.approx(50, rel=0.01)
    assert found == pytest.approx(50 * 2 / 3, rel=0.03)


def test_a_thread_that_pins_is_a_station_of_its_own():
    """Copies of 4 ms beside steps of 10 cost nothing; in the main process, without workers, they do."""
    work = replace(plain(0.006, 0.0, 0.01), pin_cpu_seconds=0.004)
    assert simulate(work, LoaderSettings(2), WIDE, 200).batches_per_second == pytest.approx(100, rel=0.02)
    assert simulate(work, LoaderSettings(0), WIDE, 200).batches_per_second == pytest.approx(50, rel=0.01)


def test_a_slow_thread_that_pins_is_the_bound():
    """Copies of 20 ms, one after another, however many workers there are: 50 batches/s."""
    work = replace(plain(0.006, 0.0, 0.01), pin_cpu_seconds=0.02)
    assert simulate(work, LoaderSettings(8), WIDE, 200).batches_per_second == pytest.approx(50, rel=0.03)


_seconds = st.floats(0.0, 0.05)
_works = st.builds(
    Workload,
    loads=st.lists(st.tuples(_seconds, st.floats(0.0001, 0.05)), min_size=1, max_size=20).map(tuple),
    steps=st.lists(st.tuples(_seconds, _seconds), min_size=1, max_size=20).map(tuple),
    receive_cpu_seconds=st.floats(0.0, 0.002),
    fork_cpu_seconds=st.floats(0.0, 0.02),
)
_settings = st.builds(LoaderSettings, num_workers=st.integers(0, 5), prefetch_factor=st.integers(1, 3))


@settings(max_examples=50, deadline=None)
@example(
    # A batch that is there already is asked for while the quota is used up.
    work=Workload(((0.0, 0.0038),), ((0.0, 0.0112),), fork_cpu_seconds=0.0125),
    chosen=LoaderSettings(2, 1),
    ranks=3,
    cpus=4,
    quota=0.4481,
)
@example(
    work=Workload(((0.0, 0.0254726616643032),), ((0.0, 0.0),), receive_cpu_seconds=0.001694660847245411),
    chosen=LoaderSettings(5, 2),
    ranks=2,
    cpus=1,
    quota=None,
)
@given(
    work=_works,
    chosen=_settings,
    ranks=st.integers(2, 4),
    cpus=st.integers(1, 4),
    quota=st.one_of(st.none(), st.floats(0.2, 3.0)),
)
def test_equal_ranks_in_lockstep_do_what_one_does_on_its_part(work, chosen, ranks, cpus, quota):
    """N ranks of the same work on N parts of a machine, kept in step, end when one on one part does.

    To the nanosecond that ends a burst, for each of some 200, while no two workers are through at one moment.
    """
    machine, work = Machine(float(cpus), quota), uneven(work, 40)
    alone = simulate_batches(work, chosen, machine, 40, 40)
    together = simulate_batches(beside(work, *[Peer()] * (ranks - 1)), chosen, machine, 40, 40)
    assert together.end == pytest.approx(alone.end, abs=2e-7)


def uneven(work: Workload, batches: int) -> Workload:
    """Return a workload with a load of its own for each batch, up to 1 % longer than before."""
    loads = [work.loads[i % len(work.loads)] for i in range(batches)]
    return replace(
        work, loads=tuple((b, c * (1 + 0.01 * (i * GOLDEN % 1))) for i, (b, c) in enumerate(loads))
    )


def test_workers_through_at_one_moment_cost_at_most_their_receptions():
    """5 equal loads may arrive in another order in each rank: 4 are then received before the due one.

    Until the last round the other rank's loads use the CPU meanwhile; then it can but wait at the barrier.
    """
    work = Workload(((0.0, 0.021),), ((0.0, 0.0),), receive_cpu_seconds=0.0017)
    alone = simulate_batches(work, LoaderSettings(5, 2), Machine(1.0), 40, 40)
    together = simulate_batches(beside(work, Peer()), LoaderSettings(5, 2), Machine(1.0), 40, 40)
    assert alone.end == pytest.approx(40 * (0.021 + 0.0017))
    assert alone.end - 1e-9 <= together.end <= alone.end + 4 * 0.0017 + 1e-9


@settings(max_examples=50, deadline=None)
@given(
    work=_works,
    chosen=_settings,
    factor=st.floats(0.3, 3.0),
    shift=st.floats(0.0, 1.0),
    cpus=st.integers(1, 4),
    quota=st.one_of(st.none(), st.floats(0.2, 3.0)),
)
def test_ranks_together_never_beat_their_bounds(work, chosen, factor, shift, cpus, quota):
    """No two ranks are through before their CPU time over the cores of both parts, nor before the slower."""
    batches = 40
    peer = Peer(factor, factor, shift)
    together = simulate_batches(beside(work, peer), chosen, Machine(float(cpus), quota), batches, batches)
    other = work.of_peer(peer)
    cpu = sum(w.loads[i % len(w.loads)][1] for w in (work, other) for i in range(batches))
    cpu += 2 * sum(work.steps[i % len(work.steps)][0] for i in range(batches))
    cores, ahead = 2 * min(cpus, quota or cpus), 2 * (quota or 0.0) * 0.1
    assert together.end >= (cpu - ahead) / cores * (1 - 1e-6)
    for one in (work, other):
        load = [one.loads[i % len(one.loads)] for i in range(batches)]
        stepping = sum(sum(one.steps[i % len(one.steps)]) for i in range(batches))
        loading = sum(map(sum, load))
        n = chosen.num_workers
        assert together.end >= (loading + stepping if n == 0 else max(loading / n, stepping)) * (1 - 1e-6)


@settings(max_examples=50, deadline=None)
@given(work=_works, chosen=_settings, cores=st.floats(0.3, 3.0), factor=st.floats(1.05, 4.0))
def test_more_cores_never_give_fewer_batches(work, chosen, cores, factor):
    """A larger quota is no slower, but for where a freeze falls: within a period and 3 %."""
    small, large = Machine(4.0, cores), Machine(4.0, min(4.0, cores * factor))
    slow = simulate_batches(work, chosen, small, 60, 60).end
    fast = simulate_batches(work, chosen, large, 60, 60).end
    assert fast <= slow * 1.03 + small.period_seconds
