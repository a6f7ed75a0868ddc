"""Fitted quantities: each from the best signal that is there, none taken for zero where it is missing."""

from __future__ import annotations

from array import array
from dataclasses import replace
from statistics import fmean

import pytest

from feedwater_service.model import Budget, Epoch, Loader, WorkerMemory, summarise
from feedwater_service.model.fit.calibrate import with_gil_switches
from feedwater_service.model.fit.estimate import estimate, stratified
from feedwater_service.model.fit.transport import deliveries_of
from feedwater_service.model.numbers import costs
from feedwater_service.model.observed.epoch_stats import relative_standard_error
from feedwater_service.model.simulator.cpu import machine_of
from feedwater_service.model.simulator.simulate import Workload

COSTS = {
    "send_cpu_seconds": 0.0003,
    "receive_cpu_seconds": 0.0008,
    "inline_cpu_seconds": 0.0002,
    "fork_cpu_seconds": 0.01,
    "boot_cpu_seconds": 0.012,
}
WORK = Workload(((0.02, 0.006),), ((0.001, 0.005),), **COSTS)


@pytest.fixture
def fit(play_epoch, settings_of):
    """Return the function that plays an epoch and fits it."""

    def fitted(workers, budget=Budget(8), work=WORK, **changes):  # noqa: B008
        epoch = replace(play_epoch(work, settings_of(workers), budget), **changes)
        return estimate(Loader("train", 0, epoch.settings, (epoch,)), epoch)

    return fitted


@pytest.mark.parametrize("workers", [0, 1, 2, 4])
def test_estimate_recovers_the_work_at_any_count(fit, workers):
    """20 ms blocked, 6 ms CPU, steps of 1 ms CPU and 5 ms else: within 10 % from any count."""
    found = fit(workers)
    assert found.blocked_seconds == pytest.approx(0.02, rel=0.02)
    assert found.load_cpu_seconds == pytest.approx(0.006, rel=0.02)
    assert found.step_cpu_seconds + found.step_timed_seconds == pytest.approx(0.006, rel=0.1)
    assert found.step_cpu_seconds == pytest.approx(0.001, abs=0.0005)


def test_estimate_cuts_freezes_out_of_steps(fit):
    """Under half a core steps of 4 ms CPU meet freezes of 50 ms; the step is still 4 ms."""
    found = fit(1, Budget(2, 0.5), Workload(((0.0, 0.01),), ((0.004, 0.0),), **COSTS))
    assert found.measured.step_seconds / found.measured.batches > 0.008
    assert found.step_cpu_seconds + found.step_timed_seconds == pytest.approx(0.004, rel=0.2)


def test_estimate_says_what_it_does_not_know(fit):
    """At no workers nothing was handed over; without loads and CPU time both are assumed, and said so."""
    found = fit(0, loads=(), trainer_cpu_seconds=None)
    assert (found.known.loads, found.known.transport, found.known.step_cpu) == (False, False, False)
    assert found.work.receive_seconds == pytest.approx(costs.RECEIVE_SECONDS)
    assert found.load_seconds == pytest.approx(0.0262, rel=0.02)


def test_estimate_without_loads_takes_a_starved_loader_at_its_rate(fit):
    """2 starved workers make a batch in about the time that 2 are consumed: 26 ms and the hand-over."""
    assert fit(2, loads=()).load_seconds == pytest.approx(0.027, rel=0.1)


def test_estimate_reads_native_threads_between_two_readings(fit, play_epoch, settings_of):
    """Processes that use 4 times their loading threads' CPU time are 4 CPUs wide; start-up is not counted."""
    epoch = play_epoch(WORK, settings_of(2), Budget(8))
    used = 4 * sum(x.cpu_seconds for x in epoch.loads) / 2
    readings = [
        WorkerMemory(w, stamp, cpu_seconds=cpu)
        for w in (0, 1)
        for stamp, cpu in ((1000.0, 5.0), (2000.0, 5.0 + used))
    ]
    assert fit(2, memory=readings).work.load_width == pytest.approx(4.0, rel=0.1)
    assert fit(2, memory=readings[:1]).work.load_width == 1.0


def test_estimate_takes_arrays_as_they_come_from_the_wire(fit, play_epoch, settings_of):
    """Waits and steps as packed floats give the same as lists."""
    epoch = play_epoch(WORK, settings_of(2), Budget(8))
    packed = fit(2, waits=array("f", epoch.waits), steps=array("f", epoch.steps))
    assert packed.step_timed_seconds == pytest.approx(fit(2).step_timed_seconds, rel=1e-3)


def test_handed_over_is_empty_when_loads_are_missing(play_epoch, settings_of):
    """Batches are matched to loads by counting, which a lost one would spoil."""
    epoch = play_epoch(WORK, settings_of(2), Budget(8))
    assert len(deliveries_of(epoch)) == len(epoch.waits) - 1
    assert deliveries_of(replace(epoch, dropped=1)) == []
    assert deliveries_of(replace(epoch, loads=epoch.loads[40:])) == []


def test_turns_of_the_lock_are_found_by_simulation(play_epoch, settings_of):
    """An epoch whose hand-overs waited for three turns is explained by about as many."""
    held = replace(WORK, loads=((0.0, 0.03),), gil_switches=3)
    epoch = play_epoch(held, settings_of(2), Budget(8))
    found = with_gil_switches(replace(held, gil_switches=0), epoch, machine_of(Budget(8)))
    assert found.gil_switches in (2, 3, 5)


def test_stratified_keeps_means_and_spread():
    """100 of 1,000 pairs: the same means, and the largest still among them."""
    pairs = [(0.001 * (i % 97), 0.0001 * (i % 11)) for i in range(1000)]
    kept = stratified(pairs, 100)
    assert len(kept) == 100
    assert fmean(b for b, _ in kept) == pytest.approx(fmean(b for b, _ in pairs))
    assert fmean(c for _, c in kept) == pytest.approx(fmean(c for _, c in pairs))
    assert max(b for b, _ in kept) > 0.9 * max(b for b, _ in pairs)


def test_noise_of_is_the_standard_error_of_block_means():
    """Block means 9 and 11, twice each: spread 1, over sqrt(4 - 1), over 10: 0.058."""
    assert relative_standard_error([9.0, 11.0, 9.0, 11.0], blocks=4) == pytest.approx(1 / 3**0.5 / 10)


def test_summarise_counts_start_up_apart(play_epoch, settings_of):
    """Start-up is iter() and the first wait; starvation is of what comes after."""
    figures = summarise(play_epoch(WORK, settings_of(2), Budget(8)))
    assert figures.start_up_seconds > 0.04
    assert figures.starvation == pytest.approx(0.55, abs=0.1)
    assert figures.seconds == pytest.approx(
        figures.start_up_seconds + figures.wait_seconds + figures.step_seconds
    )


def short_epoch(play_epoch, settings_of, boot_cpu_seconds: float | None) -> Epoch:
    """Loads of 10 ms blocked and 3 ms CPU by 8 workers that used 0.35 s before; read once, at the end."""
    sleeping = Workload(((0.01, 0.003),), ((0.0, 0.001),), **COSTS)
    epoch = play_epoch(sleeping, settings_of(8), Budget(2), 60)
    memory = []
    for worker in range(8):
        loads = [x for x in epoch.loads if x.worker == worker]
        used = 0.35 + sum(x.cpu_seconds for x in loads)
        end = max(x.start + x.seconds for x in loads)
        memory.append(WorkerMemory(worker, end, cpu_seconds=used, boot_cpu_seconds=boot_cpu_seconds))
    return replace(epoch, memory=memory)


@pytest.mark.parametrize("boot", [0.35, None], ids=["measured", "an older client"])
def test_what_a_worker_uses_before_its_first_load_is_no_thread(play_epoch, settings_of, boot):
    """0.35 s of start-up and worker_init_fn beside 22 ms of loading: 16 threads, were it loading."""
    epoch = short_epoch(play_epoch, settings_of, boot)
    found = estimate(Loader("train", 0, epoch.settings, (epoch,)), epoch)
    assert found.work.load_width == 1.0


def test_one_reading_and_the_start_up_show_native_threads(play_epoch, settings_of):
    """0.35 s before the first load, and 4 times the loads' CPU time after it."""
    epoch = short_epoch(play_epoch, settings_of, 0.35)
    more = {w: 3 * sum(x.cpu_seconds for x in epoch.loads if x.worker == w) for w in range(8)}
    memory = [replace(m, cpu_seconds=(m.cpu_seconds or 0.0) + more[m.worker]) for m in epoch.memory]
    found = estimate(Loader("train", 0, epoch.settings, (epoch,)), replace(epoch, memory=memory))
    assert found.work.load_width == pytest.approx(4.0, rel=0.2)


def test_a_reading_from_the_start_up_does_not_count(play_epoch, settings_of):
    """Read while worker_init_fn had used 0.1 of its 0.35 s, and again at the end: the rest is no thread."""
    epoch = short_epoch(play_epoch, settings_of, 0.35)
    early = [replace(m, stamp_seconds=1000.0, cpu_seconds=0.1, boot_cpu_seconds=None) for m in epoch.memory]
    epoch = replace(epoch, memory=[*early, *epoch.memory])
    found = estimate(Loader("train", 0, epoch.settings, (epoch,)), epoch)
    assert found.work.load_width == 1.0


def test_what_an_earlier_epoch_knew_of_starting_is_not_forgotten(play_epoch, settings_of):
    """The first epoch measured 0.3 s of CPU before a worker's first load, the second was too short to."""
    epoch = replace(short_epoch(play_epoch, settings_of, 0.3), number=0)
    loader = Loader("train", 0, epoch.settings, (epoch, replace(epoch, number=1, memory=())))
    assert estimate(loader, loader.epochs[1]).work.boot_cpu_seconds == pytest.approx(0.3)


def test_what_a_first_load_waits_for_a_cpu_is_no_delay_of_the_others(fit, play_epoch, settings_of):
    """First loads of 120 ms CPU that waited as long again: the others waited for nothing."""
    epoch = play_epoch(WORK, settings_of(2), Budget(8))
    first = {}
    for i, load in enumerate(epoch.loads):
        first.setdefault(load.worker, i)
    loads = [
        replace(x, seconds=x.seconds + 0.24, cpu_seconds=x.cpu_seconds + 0.12, run_delay_seconds=0.12)
        if i in first.values()
        else replace(x, run_delay_seconds=0.0, seconds=x.own_seconds)
        for i, x in enumerate(epoch.loads)
    ]
    found = fit(2, loads=loads)
    assert found.run_delay_share < 0.02
    assert found.work.first_cpu_seconds == pytest.approx(0.12, rel=0.01)
