"""The two-stage consumer: what sampled steps of the device tell, and what is made of it."""

from __future__ import annotations

from dataclasses import replace

import pytest

from feedwater_service.model import (
    Budget,
    Epoch,
    Loader,
    LoaderSettings,
    Pod,
    Policy,
    Recommendation,
    recommend,
)
from feedwater_service.model.fit.device import with_device, with_pin_thread
from feedwater_service.model.observed.epoch_stats import summarise
from feedwater_service.model.simulator.cpu import Machine, machine_of
from feedwater_service.model.simulator.simulate import Workload, simulate, simulate_batches
from feedwater_service.model.types import DeviceStep, Load

WIDE = Machine(16.0)
SAMPLED = 4


def played(work: Workload, workers: int, batches: int = 200) -> Epoch:
    """Play an epoch with a device: what the client would report of it, one step in four sampled."""
    settings, budget = LoaderSettings(workers, 2), Budget(16)
    run = simulate_batches(work, settings, machine_of(budget), batches, batches)
    waits = [got - asked for asked, got in zip(run.asked, run.got, strict=True)]
    ends = [*run.asked[1:], run.end]
    steps = [end - got for got, end in zip(run.got, ends, strict=True)]
    device = [
        DeviceStep(i, run.device_idle[i], work.device[i % len(work.device)])
        for i in range(0, batches, SAMPLED)
        if i < len(run.device_idle)
    ]
    loads = []
    for i, made in enumerate(run.loaded):
        blocked, cpu = work.loads[i % len(work.loads)]
        loads.append(Load(i % max(1, workers), made - blocked - cpu, blocked + cpu, cpu, 0.0, 2**20, 1))
    step_cpu = sum(work.steps[i % len(work.steps)][0] for i in range(batches))
    return Epoch(
        0,
        settings,
        0.0,
        0.0,
        waits,
        steps,
        loads=loads,
        device=device,
        trainer_cpu_seconds=step_cpu,
        batches=batches,
        budget=budget,
    )


def asynchronous(load: float, host: float, busy: float, ahead: int = 3) -> Workload:
    return Workload(((load, 0.0),), ((host, 0.0),), device=(busy,), run_ahead=ahead)


def test_the_slower_of_host_and_device_is_the_bound():
    """Batches each 5 ms, a host of 2, a device of 20: 50 batches/s, whatever the host does meanwhile."""
    found = simulate(asynchronous(0.005, 0.002, 0.02), LoaderSettings(1), WIDE, 400)
    assert found.batches_per_second == pytest.approx(50, rel=0.02)
    assert found.device_starvation == pytest.approx(0.0, abs=0.01)


def test_a_host_that_waits_for_data_behind_a_busy_device_is_not_starved():
    """Without workers 10 ms of each 20 are the host's wait, and the device never stops."""
    found = simulate(asynchronous(0.01, 0.002, 0.02), LoaderSettings(0), WIDE, 400)
    assert found.batches_per_second == pytest.approx(50, rel=0.02)
    assert found.host_starvation > 0.4
    assert found.starvation == pytest.approx(0.0, abs=0.01)


def test_a_host_that_waits_for_each_step_adds_up():
    """The same with ``loss.item()`` after each: 10 + 20 ms, and the device is idle for a third of it."""
    found = simulate(asynchronous(0.01, 0.002, 0.02, ahead=0), LoaderSettings(0), WIDE, 400)
    assert found.batches_per_second == pytest.approx(1 / 0.03, rel=0.02)
    assert found.starvation == pytest.approx(1 / 3, abs=0.01)


def test_a_starved_device_is_idle_for_what_it_lacks():
    """30 ms a batch by one worker for a device of 10: two thirds idle."""
    found = simulate(asynchronous(0.03, 0.002, 0.01), LoaderSettings(1), WIDE, 400)
    assert found.starvation == pytest.approx(2 / 3, abs=0.01)


@pytest.mark.parametrize(
    ("load", "host", "busy", "ahead", "workers"),
    [
        (0.01, 0.002, 0.02, 3, 0),
        (0.03, 0.002, 0.01, 3, 1),
        (0.005, 0.002, 0.02, 3, 1),
        (0.01, 0.002, 0.02, 0, 0),
        (0.03, 0.002, 0.02, 0, 1),
        (0.01, 0.02, 0.005, 2, 1),
    ],
)
def test_two_stages_are_found_again(load, host, busy, ahead, workers):
    """Fitted to its own epoch, the consumer foretells that epoch, and one with four workers, within 5 %."""
    work = asynchronous(load, host, busy, ahead)
    epoch = played(work, workers)
    steps = tuple((host, max(0.0, s - host)) for s in epoch.steps)
    found = with_device(replace(work, device=(), run_ahead=0, steps=steps), epoch)
    assert (found.run_ahead == 0) == (ahead == 0 or host > busy)
    assert sum(found.device) / len(found.device) == pytest.approx(busy)
    for count in (workers, 4):
        wanted = simulate(work, LoaderSettings(count), WIDE, 400)
        got = simulate(found, LoaderSettings(count), WIDE, 400)
        assert got.batches_per_second == pytest.approx(wanted.batches_per_second, rel=0.05)
        assert got.starvation == pytest.approx(wanted.starvation, abs=0.05)


def test_without_evidence_nothing_changes():
    """Nine samples are too few to fit a device, three for its share of waiting: the figure is the host's."""
    work = asynchronous(0.01, 0.002, 0.02)
    epoch = played(work, 1)
    few = replace(epoch, device=epoch.device[:10])
    plain = replace(work, device=(), run_ahead=0)
    assert with_device(plain, few) is plain
    assert summarise(replace(epoch, device=epoch.device[:4])).device_starvation is None
    assert summarise(epoch).device_starvation == pytest.approx(0.0, abs=0.02)


def answer(epoch: Epoch) -> Recommendation:
    loader = Loader("train", 0, epoch.settings, (epoch,), uses_cuda=True)
    found = recommend(Pod(epoch.budget or Budget(16), (loader,)), "train", Policy())
    assert isinstance(found, Recommendation)
    return found


def test_a_busy_device_wants_no_workers():
    """Loads of 15 ms keep up with a device of 20 by one worker: nothing is to be gained."""
    found = answer(played(asynchronous(0.015, 0.001, 0.02), 1))
    assert not found.changes
    assert found.current.starvation == pytest.approx(0.0, abs=0.02)
    assert found.chosen.batches_per_second == pytest.approx(50, rel=0.05)


def test_a_starved_device_gets_workers():
    """30 ms a batch by one worker for a device of 10: three and a little headroom."""
    found = answer(played(asynchronous(0.03, 0.001, 0.01), 1))
    assert found.settings.num_workers == 4
    assert found.current.starvation == pytest.approx(2 / 3, abs=0.03)
    assert found.chosen.starvation < 0.05
    assert "67% device starvation" in found.sentence
    assert any(e.name == "device_starvation_ratio" for e in found.evidence)


def test_pinning_is_taken_out_of_what_was_measured():
    """4 MiB at 4 GB/s are a millisecond of what a batch took to arrive; without CUDA nothing is pinned."""
    work = Workload(((0.01, 0.0),), ((0.0, 0.01),), receive_cpu_seconds=0.003)
    epoch = replace(
        played(asynchronous(0.01, 0.001, 0.01), 1),
        settings=LoaderSettings(1, 2, pin_memory=True),
        loads=[Load(0, float(i), 0.01, 0.0, 0.0, 2**22, 1) for i in range(50)],
    )
    loader = Loader("train", 0, epoch.settings, (epoch,), uses_cuda=True)
    found = with_pin_thread(work, loader, epoch)
    assert found.pin_cpu_seconds == pytest.approx(0.001, rel=0.06)
    assert found.receive_cpu_seconds + found.pin_cpu_seconds == pytest.approx(0.003)
    assert with_pin_thread(work, replace(loader, uses_cuda=False), epoch) is work
