"""The depth of the queue is a choice of its own."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest

from feedwater_service.model import (
    Budget,
    Change,
    ContainerUsage,
    Policy,
    Recommendation,
    WorkerMemory,
    recommend,
)
from feedwater_service.model.predict.curve import with_workers
from feedwater_service.model.simulator.simulate import Workload

MIB = 2**20
COSTS = {"send_cpu_seconds": 0.0003, "receive_cpu_seconds": 0.0005, "fork_cpu_seconds": 0.006}
SLOW_STORAGE = Workload(((0.04, 0.001),), ((0.0, 0.004),), **COSTS)


@pytest.fixture
def ask(make_pod):
    """Return the function that asks for a recommendation."""

    def answer(epoch, budget, **about) -> Recommendation:
        found = recommend(make_pod([epoch], budget, **about), "train", Policy())
        assert isinstance(found, Recommendation)
        return found

    return answer


@pytest.fixture
def bursty(play_epoch, settings_of):
    """An epoch of 6 workers in which each 20th load opens a shard of 200 ms; the others take 4 ms."""
    loads = tuple((0.2 if i % 20 == 0 else 0.004, 0.0005) for i in range(300))
    return play_epoch(Workload(loads, ((0.0, 0.012),), **COSTS), settings_of(6), Budget(8))


def test_a_longer_queue_bridges_bursts(ask, bursty):
    """12 batches ahead last 144 ms, 24 last 288 ms: longer than a shard takes to open."""
    found = ask(bursty, Budget(8))
    assert found.settings.prefetch_factor in (4, 8)
    assert "prefetch_factor" in found.sentence


def test_a_longer_queue_is_not_taken_where_loads_are_even(ask, play_epoch, settings_of):
    """Workers that are too few for steady loads are not helped by a queue that is always empty."""
    found = ask(play_epoch(SLOW_STORAGE, settings_of(4), Budget(8)), Budget(8), map_style=True)
    assert found.settings.prefetch_factor == 2


def test_a_longer_queue_that_failed_is_not_tried_again(ask, bursty):
    """Both values were tried and taken back."""
    now = bursty.settings
    deeper = [with_workers(now, n, p) for n in (5, 6, 8, 10, 12) for p in (4, 8)]
    tried = tuple(Change(0, d, now, rolls_back=True) for d in deeper[:2])
    found = ask(bursty, Budget(8), failed=tuple(deeper), changes=tried)
    assert found.settings.prefetch_factor == 2


def test_a_shorter_queue_lets_more_workers_into_shared_memory(ask, play_epoch, settings_of):
    """128 x 0.9 / 8 - 2 = 12 batches of 8 MiB: 6 workers with two each, or 10 that are wanted with one."""
    budget = Budget(8, shm_bytes=128 * MIB)
    epoch = play_epoch(SLOW_STORAGE, settings_of(6), budget, batch_bytes=8 * MIB)
    found = ask(epoch, budget)
    assert found.settings.prefetch_factor == 1
    assert 6 < found.settings.num_workers <= 12
    assert 8 * (found.settings.queue_batches + 2) <= 0.9 * 128


def test_a_shorter_queue_lets_more_workers_into_memory(ask, play_epoch, settings_of):
    """Workers of 20 MiB, batches of 10: (900 - 640) / 40 = 6 with two each, 260 / 30 = 8 with one."""
    budget = Budget(8, memory_bytes=1000 * MIB)
    epoch = play_epoch(SLOW_STORAGE, settings_of(4), budget, batch_bytes=10 * MIB)
    epoch = replace(
        epoch,
        memory=[WorkerMemory(w, 1100.0, pss_bytes=20 * MIB) for w in range(4)],
        containers=[ContainerUsage(1100.0, memory_bytes=800 * MIB)],
    )
    found = ask(epoch, budget)
    assert found.settings.prefetch_factor == 1
    assert 640 + found.settings.num_workers * 30 <= 900


def test_the_queue_of_an_iterable_dataset_is_left_alone(ask, bursty):
    """Its order depends on the number of workers; nothing of it is changed without being asked."""
    assert ask(bursty, Budget(8), map_style=False).settings.prefetch_factor == 2


def test_a_heavy_tail_takes_a_queue_that_gains(ask, play_epoch, settings_of):
    """Lognormal loads: whatever is chosen is predicted to gain at least the two per cent of a change."""
    drawn = random.Random(3)
    loads = tuple((drawn.lognormvariate(-4.0, 1.0), 0.001) for _ in range(300))
    epoch = play_epoch(Workload(loads, ((0.0, 0.008),), **COSTS), settings_of(6), Budget(8))
    found = ask(epoch, Budget(8))
    assert found.chosen.batches_per_second >= 1.02 * found.current.batches_per_second
