"""The simulated DataLoader: exact where arithmetic is, and never better than its bounds."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from feedwater_service.model import LoaderSettings
from feedwater_service.model.simulator.cpu import Machine
from feedwater_service.model.simulator.engine import EventLoop
from feedwater_service.model.simulator.rank import MAX_BACKGROUND_CORES, add_background
from feedwater_service.model.simulator.simulate import Workload, simulate, simulate_batches
from feedwater_service.model.simulator.workload import BackgroundLoad

WIDE = Machine(64.0)


def plain(blocked: float, cpu: float, step_cpu: float = 0.0, timed: float = 0.0) -> Workload:
    return Workload(((blocked, cpu),), ((step_cpu, timed),))


def test_no_workers_do_one_thing_after_another():
    """30 ms load and 10 ms step are 40 ms a batch: 100 batches take 4 s."""
    outcome = simulate(plain(0.02, 0.01, 0.004, 0.006), LoaderSettings(0), WIDE, 100)
    assert outcome.seconds == pytest.approx(4.0)
    assert outcome.starvation == pytest.approx(0.75, abs=0.01)


def test_one_worker_overlaps_load_and_step():
    """30 ms load beside 10 ms step are 30 ms a batch, and the last step follows: 3.01 s."""
    assert simulate(plain(0.03, 0.0, 0.0, 0.01), LoaderSettings(1), WIDE, 100).seconds == pytest.approx(3.01)


def test_workers_divide_the_load():
    """30 ms by 2 workers are 15 ms a batch; by 3 they meet the step of 10 ms."""
    two = simulate(plain(0.03, 0.0, 0.0, 0.01), LoaderSettings(2), WIDE, 400)
    three = simulate(plain(0.03, 0.0, 0.0, 0.01), LoaderSettings(3), WIDE, 400)
    assert two.batches_per_second == pytest.approx(1 / 0.015, rel=0.01)
    assert three.batches_per_second == pytest.approx(1 / 0.010, rel=0.02)


def test_start_up_is_forking_one_after_another():
    """4 workers forked at 10 ms each: the last is there after 40 ms, boots for 5, loads for 30."""
    work = replace(plain(0.03, 0.0, 0.0, 0.01), fork_cpu_seconds=0.01, boot_cpu_seconds=0.005)
    # The first worker has booted meanwhile; its index comes when all are forked.
    assert simulate(work, LoaderSettings(4), WIDE, 10).start_up_seconds == pytest.approx(0.07)


def test_in_order_delivery_waits_for_the_head():
    """One load of 100 ms among loads of 10 ms holds up those behind it, unless their order is free."""
    loads = tuple((0.1 if i % 8 == 0 else 0.01, 0.0) for i in range(64))
    work = Workload(loads, ((0.0, 0.01),))
    in_order = simulate(work, LoaderSettings(2, 2), WIDE, 64)
    free = simulate(work, LoaderSettings(2, 2, in_order=False), WIDE, 64)
    assert free.batches_per_second > 1.05 * in_order.batches_per_second


def test_a_deeper_queue_rides_over_a_slow_batch():
    """The same slow batches, 8 ahead of the loop instead of 2, are absorbed in part."""
    loads = tuple((0.1 if i % 16 == 0 else 0.01, 0.0) for i in range(64))
    work = Workload(loads, ((0.0, 0.012),))
    shallow = simulate(work, LoaderSettings(2, 2), WIDE, 320)
    deep = simulate(work, LoaderSettings(2, 8), WIDE, 320)
    assert deep.batches_per_second > 1.05 * shallow.batches_per_second


def test_a_quota_used_up_gives_the_same_at_every_count():
    """14 ms CPU a batch on one core are 71 batches/s, whoever does the work."""
    work = plain(0.0, 0.01, 0.004)
    for workers in (0, 1, 2, 8):
        outcome = simulate(work, LoaderSettings(workers), Machine(2.0, 1.0), 400)
        assert outcome.batches_per_second == pytest.approx(1 / 0.014, rel=0.03)


def test_a_computing_worker_holds_up_the_hand_over():
    """A batch is let go 5 ms into its worker's next load of 20 ms, and held 10 more by its descriptors."""
    free = simulate(plain(0.0, 0.02, 0.0, 0.001), LoaderSettings(2), WIDE, 100)
    held = simulate(replace(plain(0.0, 0.02, 0.0, 0.001), gil_switches=3), LoaderSettings(2), WIDE, 100)
    assert held.start_up_seconds > free.start_up_seconds + 0.004
    assert held.batches_per_second <= free.batches_per_second


def test_the_rest_of_a_long_epoch_goes_on_as_its_window_did():
    """A window of 100 predicts 2,000 equal batches within 1 %."""
    work = plain(0.03, 0.002, 0.0, 0.004)
    whole = simulate(work, LoaderSettings(4), Machine(4.0), 2000, window=2000)
    part = simulate(work, LoaderSettings(4), Machine(4.0), 2000, window=100)
    assert part.seconds == pytest.approx(whole.seconds, rel=0.01)


def test_stamps_are_in_order():
    """A batch is made before it is got, and asked for before it is got."""
    run = simulate_batches(plain(0.01, 0.005, 0.001, 0.002), LoaderSettings(3), Machine(2.0, 1.0), 50, 50)
    assert all(loaded <= got for loaded, got in zip(run.loaded, run.got, strict=True))
    assert all(asked <= got for asked, got in zip(run.asked, run.got, strict=True))


_seconds = st.floats(0.0, 0.05)


@settings(max_examples=80, deadline=None)
@given(
    loads=st.lists(st.tuples(_seconds, st.floats(0.0001, 0.05)), min_size=1, max_size=20),
    steps=st.lists(st.tuples(_seconds, _seconds), min_size=1, max_size=20),
    workers=st.integers(0, 9),
    prefetch=st.integers(1, 4),
    cpus=st.integers(1, 8),
    quota=st.one_of(st.none(), st.floats(0.1, 8.0)),
    turns=st.integers(0, 3),
    in_order=st.booleans(),
)
def test_simulation_never_beats_its_bounds(loads, steps, workers, prefetch, cpus, quota, turns, in_order):
    """No epoch is shorter than its steps, its loads over the workers, or its CPU time over the cores."""
    batches = 40
    work = Workload(tuple(loads), tuple(steps), gil_switches=turns)
    chosen = LoaderSettings(workers, prefetch, in_order=in_order)
    outcome = simulate(work, chosen, Machine(float(cpus), quota), batches)
    load = [work.loads[i % len(loads)] for i in range(batches)]
    step = [work.steps[i % len(steps)] for i in range(batches)]
    stepping, loading = sum(map(sum, step)), sum(map(sum, load))
    cpu = sum(c for _, c in load) + sum(c for c, _ in step)
    cores = min(cpus, quota or cpus)
    # A full bucket at the start can be spent on top of the rate.
    ahead = (quota or 0.0) * 0.1
    alone = loading + stepping if workers == 0 else max(stepping, loading / workers)
    assert outcome.seconds >= max(alone, (cpu - ahead) / cores) * (1 - 1e-6)
    assert simulate(work, chosen, Machine(float(cpus), quota), batches) == outcome


def test_background_of_impossible_cores_begins_no_thread_for_each() -> None:
    """A neighbour that reports months of CPU time in a second is simulated with 1,024 threads."""
    loop = EventLoop(Machine(cpus=4.0))

    add_background(loop, BackgroundLoad(1e9, 0.01), ranks=1, shortest=0.0)

    assert len(loop.threads) == MAX_BACKGROUND_CORES
