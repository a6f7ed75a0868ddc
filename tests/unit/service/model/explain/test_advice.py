"""Advice is one sentence: what to set, and the gain; nothing where that is under two per cent."""

from __future__ import annotations

import random
import re
from dataclasses import replace

import pytest

from feedwater_service.model import (
    Budget,
    LoaderSettings,
    Policy,
    Recommendation,
    Verdict,
)
from feedwater_service.model.explain.counterfactuals import counterfactuals
from feedwater_service.model.fit.estimate import estimate
from feedwater_service.model.fit.storage import ThroughputCeiling
from feedwater_service.model.predict.curve import with_workers
from feedwater_service.model.simulator.cpu import Machine
from feedwater_service.model.simulator.simulate import Workload
from tests.unit.service.model.synthetic import COSTS, threaded, weighing, work

MIB = 2**20


def named(found: Recommendation, part: str) -> str:
    """Return the advice that holds a text, and fail if there is none."""
    return next(a for a in found.advice if part in a)


def test_persistent_workers_state_what_an_epoch_would_take(ask, play_epoch, settings_of):
    """30 batches of 5 ms after 0.8 s of starting workers: without those an epoch takes some 0.17 s."""
    short = work(0.0, 0.002, 0.0, 0.005, fork_cpu_seconds=0.2)
    text = named(
        ask([play_epoch(short, settings_of(4), Budget(8), 30)], Budget(8)), "persistent_workers=True"
    )
    assert re.search(r"an epoch would take 1[67]\d ms instead of", text)


def test_persistent_workers_are_not_advised_to_whom_has_them(ask, play_epoch):
    """Workers that live on already are started once in a training."""
    now = LoaderSettings(4, 2, persistent_workers=True)
    epoch = play_epoch(work(0.0, 0.002, 0.0, 0.005), now, Budget(8), 30)
    assert not any("persistent" in a for a in ask([epoch], Budget(8)).advice)


def test_nothing_is_advised_to_a_loader_that_keeps_up(ask, play_epoch, settings_of):
    """A step of 50 ms beside loads of 10 ms, in a long epoch."""
    found = ask([play_epoch(work(0.0, 0.01, 0.0, 0.05), settings_of(1), Budget(8), 1000)], Budget(8))
    assert found.advice == ()


def test_another_order_is_advised_where_nothing_else_helps(ask, play_epoch):
    """/dev/shm holds 3 workers with one batch each: only letting fast batches pass slow ones is left."""
    drawn = random.Random(1)
    loads = tuple((drawn.lognormvariate(-4.5, 1.5), 0.001) for _ in range(300))
    budget = Budget(8, shm_bytes=64 * MIB)
    epoch = play_epoch(
        Workload(loads, ((0.0, 0.012),), **COSTS), LoaderSettings(3, 1), budget, batch_bytes=11 * MIB
    )
    text = named(ask([epoch], budget), "in_order=False")
    assert "order of samples changes" in text


def test_one_thread_is_advised_with_the_threads_seen(ask, play_epoch, settings_of):
    """Workers of 4 busy CPUs each on 2 CPUs: were three of them for nothing, there would be 4 times more."""
    epoch = play_epoch(work(0.0, 0.02, 0.0, 0.002, load_width=4.0), settings_of(2), Budget(2))
    text = named(ask([threaded(epoch, 4)], Budget(2)), "OMP_NUM_THREADS=1")
    assert "CPUs busy" in text
    assert "up to +" in text


def test_a_larger_memory_limit_is_stated(ask, play_epoch, settings_of):
    """10 workers of 1 GiB beside 1 GiB in nine tenths of the limit: 11 / 0.9 GiB."""
    budget = Budget(8, memory_bytes=4 * 1024 * MIB)
    epoch = play_epoch(work(0.04, 0.001, 0.0, 0.004), settings_of(2), budget)
    found = ask([weighing(epoch, 1024 * MIB, 3 * 1024 * MIB)], budget)
    size = (1 + found.uncapped_num_workers) / 0.9
    assert found.verdict is Verdict.MEMORY
    assert named(found, "Raise the memory limit").startswith(f"Raise the memory limit to {size:.1f} GiB")


def test_fewer_tensors_are_advised_where_they_are_many(ask, play_epoch, settings_of):
    """10 ms to receive the 40 tensors of a batch, where one takes 0.9 ms."""
    epoch = play_epoch(work(0.0, 0.004, 0.0, 0.004, receive_cpu_seconds=0.01), settings_of(2), Budget(8))
    found = ask([replace(epoch, loads=[replace(x, batch_tensors=40) for x in epoch.loads])], Budget(8))
    assert "larger tensors than 40 a batch" in named(found, "tensors")


def test_no_cpu_is_advised_where_there_is_plenty(ask, play_epoch, settings_of):
    """Loads that are blocked use no CPU that a larger limit would give."""
    budget = Budget(8, 4.0)
    found = ask([play_epoch(work(0.05, 0.001, 0.0, 0.005), settings_of(2), budget)], budget)
    assert not any("CPU limit" in a for a in found.advice)


@pytest.mark.parametrize("workers", [0, 2])
def test_causes_that_are_not_in_question_are_none(play_epoch, make_pod, settings_of, workers):
    """Even loads, one thread, no ceiling, CPUs to spare: nothing of these is simulated."""
    budget = Budget(16)
    loader = make_pod(
        [play_epoch(work(0.02, 0.001, 0.0, 0.005), settings_of(workers), budget)], budget
    ).loaders[0]
    fitted = estimate(loader, loader.epochs[0])
    found = counterfactuals(
        fitted, with_workers(LoaderSettings(workers), workers), Machine(16.0), None, Policy().max_workers
    )
    assert found.even_loads is found.one_thread is found.no_ceiling is found.more_cores is None
    assert (found.no_start_up is None) == (workers == 0)
    assert found.free_loads > 0.5


def test_taking_a_cause_away_never_loses(play_epoch, make_pod, settings_of):
    """Each gain is zero or more, and none is more than batches that come by themselves would bring."""
    budget = Budget(4, 1.0)
    drawn = random.Random(5)
    loads = tuple((drawn.expovariate(50.0), drawn.expovariate(200.0)) for _ in range(200))
    epoch = play_epoch(Workload(loads, ((0.001, 0.002),), **COSTS), settings_of(3), budget)
    loader = make_pod([epoch], budget).loaders[0]
    found = counterfactuals(
        estimate(loader, epoch), settings_of(3), Machine(4.0, 1.0), None, Policy().max_workers
    )
    for gain in (found.even_loads, found.any_order, found.no_start_up):
        assert gain is not None
        assert 0 <= gain <= found.free_loads


def test_causes_are_sought_with_as_many_workers_as_the_policy_allows(play_epoch, make_pod, settings_of):
    """Loads of 0.2 s for steps of 2 ms want 116 workers: 96 are a fifth faster than 64, and more."""
    budget = Budget(128)
    epoch = play_epoch(work(0.2, 0.0005, 0.0, 0.002), settings_of(16), budget)
    fitted = replace(estimate(make_pod([epoch], budget).loaders[0], epoch), batches=20_000)
    found = [
        counterfactuals(
            fitted, settings_of(16), Machine(128.0), ThroughputCeiling(0.2, 80.0), most
        ).no_ceiling
        for most in (64, 96)
    ]
    assert found[0] is not None
    assert found[1] is not None
    assert (1 + found[1]) / (1 + found[0]) > 1.2
