"""Each cause alone gets its own name, and a sentence that fits into a line."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest

from feedwater_service.model import (
    Budget,
    ContainerUsage,
    Epoch,
    Loader,
    Pod,
    Policy,
    Recommendation,
    Verdict,
    recommend,
)
from feedwater_service.model.simulator.simulate import Workload
from tests.unit.service.model.synthetic import COSTS, threaded, weighing, work

GIB, MIB = 2**30, 2**20


def test_not_starved(ask, play_epoch, settings_of):
    """A step of 50 ms beside loads of 10 ms waits for nothing."""
    found = ask([play_epoch(work(0.0, 0.01, 0.0, 0.05), settings_of(1), Budget(8))], Budget(8))
    assert found.verdict is Verdict.NOT_STARVED
    assert not found.changes


def test_too_many_workers(ask, play_epoch, settings_of):
    """Where one of 8 workers would do, the others are given back."""
    found = ask([play_epoch(work(0.0, 0.01, 0.0, 0.05), settings_of(8), Budget(8))], Budget(8))
    assert found.verdict is Verdict.TOO_MANY_WORKERS
    assert found.settings.num_workers == 1


def test_too_few_workers(ask, play_epoch, settings_of):
    """Loads of 40 ms by 2 workers for steps of 5 ms."""
    found = ask([play_epoch(work(0.0, 0.04, 0.0, 0.005), settings_of(2), Budget(16))], Budget(16))
    assert found.verdict is Verdict.TOO_FEW_WORKERS
    assert found.settings.num_workers > 2


def test_cpu_limit(ask, play_epoch, settings_of):
    """14 ms CPU a batch on one core, throttled in nearly all periods; the limit that would do is named."""
    epoch = play_epoch(work(0.0, 0.01, 0.0, 0.004), settings_of(2), Budget(4, 1.0))
    throttled = (
        ContainerUsage(1000.0, periods=0, throttled_periods=0),
        ContainerUsage(1004.0, periods=40, throttled_periods=39),
    )
    found = ask([replace(epoch, containers=throttled)], Budget(4, 1.0))
    assert found.verdict is Verdict.CPU_LIMIT
    assert "CPU limit of" in found.advice[0]
    assert "instead of 1 would give +" in found.advice[0]


def test_storage(ask, play_epoch, settings_of):
    """2 workers got 20 loads/s each, 8 get 7.5 each: 60 are all there are."""
    few = play_epoch(work(0.05, 0.001, 0.0, 0.002), settings_of(2), Budget(8))
    many = play_epoch(work(8 / 60, 0.001, 0.0, 0.002), settings_of(8), Budget(8), number=1)
    found = ask([few, many], Budget(8))
    assert found.verdict is Verdict.STORAGE
    assert found.settings.num_workers <= 8


def under_pressure(epoch: Epoch, **seconds: float) -> Epoch:
    """Return the epoch with tasks that waited so long for something, of 4 s."""
    readings = [
        ContainerUsage(1000.0, **dict.fromkeys(seconds, 0.0)),
        ContainerUsage(1004.0, **seconds),
    ]
    return replace(epoch, containers=readings)


def test_pressure_of_storage_breaks_a_tie(ask, play_epoch, settings_of):
    """Storage gives 60 loads/s, steps allow 68: within doubt, named where tasks waited for it 2 of 4 s."""
    step = 1 / 68
    few = play_epoch(work(0.02, 0.001, 0.0, step), settings_of(2), Budget(8))
    many = play_epoch(work(8 / 60, 0.001, 0.0, step), settings_of(8), Budget(8), number=1)
    plain, pressed = (
        ask([few, under_pressure(many, io_pressure_seconds=seconds)], Budget(8)) for seconds in (0.0, 2.0)
    )
    assert (plain.verdict, pressed.verdict) == (Verdict.TOO_MANY_WORKERS, Verdict.STORAGE)
    assert plain.settings == pressed.settings


def test_main_process(ask, play_epoch, settings_of):
    """10 ms to receive the 40 tensors of each batch cannot be shared out to workers."""
    slow = work(0.0, 0.004, 0.0, 0.004, receive_cpu_seconds=0.01)
    epoch = play_epoch(slow, settings_of(2), Budget(8))
    found = ask([replace(epoch, loads=[replace(x, batch_tensors=40) for x in epoch.loads])], Budget(8))
    assert found.verdict is Verdict.MAIN_PROCESS


def test_slow_batches(ask, play_epoch, settings_of):
    """A heavy tail holds up fast batches behind slow ones: a deeper queue gains more than workers alone."""
    drawn = random.Random(1)
    loads = tuple((drawn.lognormvariate(-4.0, 1.2), 0.001) for _ in range(300))
    tail = Workload(loads, ((0.0, 0.02),), **COSTS)
    found = ask([play_epoch(tail, settings_of(4), Budget(8))], Budget(8))
    assert found.verdict is Verdict.SLOW_BATCHES
    assert found.settings.prefetch_factor == 4


def test_start_up(ask, play_epoch, settings_of):
    """30 batches of 5 ms after 0.8 s of starting workers: the epoch is mostly start-up."""
    epoch = play_epoch(
        work(0.0, 0.002, 0.0, 0.005, fork_cpu_seconds=0.2), settings_of(4), Budget(8), batches=30
    )
    found = ask([epoch], Budget(8))
    assert found.verdict is Verdict.START_UP
    assert any("persistent_workers=True" in a for a in found.advice)


def test_memory(ask, play_epoch, settings_of):
    """2 workers of 1 GiB beside 1 GiB of trainer fill a limit of 4 GiB less a tenth: no third fits."""
    budget = Budget(8, memory_bytes=4 * GIB)
    epoch = play_epoch(work(0.04, 0.001, 0.0, 0.004), settings_of(2), budget)
    found = ask([weighing(epoch, GIB, 3 * GIB)], budget)
    assert found.verdict is Verdict.MEMORY
    assert found.settings.num_workers == 2
    assert found.uncapped_num_workers > 2


def test_shared_memory(ask, play_epoch, settings_of):
    """64 MiB of /dev/shm hold 57 / 10 - 2 = 3 batches of 10 MiB: one worker with two, or three with one."""
    budget = Budget(8, shm_bytes=64 * MIB)
    epoch = play_epoch(work(0.04, 0.001, 0.0, 0.004), settings_of(1), budget, batch_bytes=10 * MIB)
    found = ask([epoch], budget)
    assert found.verdict is Verdict.SHARED_MEMORY
    assert (found.settings.num_workers, found.settings.prefetch_factor) == (3, 1)
    # 10 workers with two batches each, and 2 more, in nine tenths: 10 x 22 / 0.9 MiB.
    assert found.advice[0].startswith("Enlarge /dev/shm to 245 MiB")


def test_oversubscribed(ask, play_epoch, settings_of):
    """Workers whose processes use 4 times the CPU time of their loading threads run native threads."""
    epoch = play_epoch(work(0.0, 0.02, 0.0, 0.002, load_width=4.0), settings_of(2), Budget(2))
    found = ask([threaded(epoch, 4)], Budget(2))
    assert found.verdict is Verdict.OVERSUBSCRIBED
    assert any("OMP_NUM_THREADS" in a for a in found.advice)


def test_straggler_rank(play_epoch, settings_of):
    """Rank 1 loads twice as long; rank 0 waits for it inside its steps, not for data."""
    budget = Budget(16)
    slow = play_epoch(work(0.06, 0.002, 0.0, 0.01), settings_of(2), budget)
    fast = play_epoch(work(0.01, 0.002, 0.0, 0.03), settings_of(2), budget)
    pod = Pod(
        budget,
        tuple(Loader("train", rank, e.settings, (e,)) for rank, e in enumerate((fast, slow))),
    )
    found = recommend(pod, "train", Policy())
    assert isinstance(found, Recommendation)
    assert found.verdict is Verdict.STRAGGLER_RANK
    assert "rank 1" in found.sentence


def test_unknown_rather_than_wrong(ask, play_epoch, settings_of):
    """Waits of 50 ms beside 4 workers whose loads take 1 ms: nothing that was measured explains them."""
    epoch = play_epoch(work(0.0, 0.001, 0.0, 0.005), settings_of(4), Budget(8))
    late = [replace(x, worker=0, batch_tensors=1) for x in epoch.loads]
    found = ask([replace(epoch, waits=[0.05] * len(epoch.waits), loads=late)], Budget(8))
    assert found.verdict is Verdict.UNKNOWN
    assert not found.changes


def test_cuda_without_device_evidence_speaks_of_host_wait(ask, play_epoch, settings_of):
    """Under asynchronous CUDA the host's wait is not starvation."""
    epoch = play_epoch(work(0.0, 0.04, 0.0, 0.005), settings_of(2), Budget(16))
    found = ask([epoch], Budget(16), uses_cuda=True)
    assert "host wait" in found.sentence
    assert "starvation" not in found.sentence


@pytest.mark.parametrize(("min_gain", "said"), [(0.1, "10%"), (0.125, "12.5%")])
def test_the_least_gain_that_is_spoken_of_is_the_policys(make_pod, play_epoch, settings_of, min_gain, said):
    """1 worker of 0.2 ms CPU beside steps of 3: 14 % starvation, and nothing gains the 10 % asked for."""
    epoch = play_epoch(work(0.0, 0.0002, 0.001, 0.002), settings_of(1), Budget(8), 600)
    found = recommend(make_pod([epoch], Budget(8)), "train", Policy(min_gain=min_gain))
    assert isinstance(found, Recommendation)
    assert found.sentence.endswith(f"no other setting gains as much as {said}.")
