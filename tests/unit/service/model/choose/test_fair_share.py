"""One budget among loaders that run at the same time: by need, and together never more than there is."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from feedwater_service.model import (
    Budget,
    ContainerUsage,
    Epoch,
    Load,
    Loader,
    LoaderSettings,
    Pod,
    Policy,
    Recommendation,
    WorkerMemory,
    recommend,
)
from feedwater_service.model.choose.fair_share import Demand, demand_of_memory, demand_of_pids, grown, need
from feedwater_service.model.choose.limits import caps
from feedwater_service.model.fit.estimate import estimate
from feedwater_service.model.observed.group import group_of

MIB = 2**20


def loader(
    name: str, load: float, wait: float, start: float = 0.0, worker_bytes: int = 100 * MIB, workers: int = 1
) -> Loader:
    """A loader of 100 batches whose loop takes another's between its own: steps of 5 ms and a wait for it."""
    batches = 100
    loads = [Load(i % workers, start + i * load, load, 0.001, 0.0, MIB, 1) for i in range(batches)]
    length = batches * 0.05
    epoch = Epoch(
        0,
        LoaderSettings(workers, 2),
        start,
        0.0,
        [wait] * batches,
        [0.05 - wait] * batches,
        loads=loads,
        memory=[
            WorkerMemory(w, start + length * at, pss_bytes=worker_bytes)
            for w in range(workers)
            for at in (0.5, 0.95)
        ],
        containers=[
            ContainerUsage(start + length * at, memory_bytes=1024 * MIB, pids=20) for at in (0.5, 0.95)
        ],
        trainer_cpu_seconds=0.3,
        batches=batches,
    )
    return Loader(name, 0, epoch.settings, (epoch,))


def parts(*loaders: Loader) -> list[float]:
    """The part of the free memory of each."""
    pod = Pod(Budget(8), loaders)
    groups = [group_of(pod, x.name) for x in loaders]
    return [demand_of_memory(g, Policy().max_workers).part for g in groups if g is not None]


def test_a_loader_alone_may_have_all():
    """Nobody else wants any."""
    assert parts(loader("train", 0.04, 0.03)) == [1.0]


def test_loaders_one_after_another_share_nothing():
    """Validation begins after the 5 s of training."""
    assert parts(loader("train", 0.04, 0.03), loader("valid", 0.04, 0.03, start=6.0)) == [1.0, 1.0]


def test_loaders_at_the_same_time_share_by_need():
    """Steps of 50 - 20 - 20 ms; loads of 20 and 40 ms want 3 and 5 workers, 2 and 4 more than there are."""
    assert parts(loader("a", 0.02, 0.02), loader("b", 0.04, 0.02)) == pytest.approx([2 / 6, 4 / 6])


def test_memory_counts_by_the_workers_that_take_it():
    """The same number of workers, one kind three times as large with its queue: a quarter and the rest."""
    a, b = loader("a", 0.03, 0.02, worker_bytes=98 * MIB), loader("b", 0.03, 0.02, worker_bytes=298 * MIB)
    assert parts(a, b) == pytest.approx([0.25, 0.75])
    group = group_of(Pod(Budget(8), (a, b)), "a")
    assert group is not None
    assert demand_of_pids(group, Policy().max_workers).part == pytest.approx(0.5)


def test_growing_by_a_part_keeps_what_is_there():
    """2 in use of 6 to be had: half of what is free beside them makes 4; what is too much stays too much."""
    assert grown(2.0, 6.0, 0.5) == 4.0
    assert grown(2.0, 6.0, 1.0) == 6.0
    assert grown(2.0, 1.0, 0.5) == 1.0


@settings(max_examples=40, deadline=None)
@given(
    loads=st.tuples(st.floats(0.005, 0.2), st.floats(0.005, 0.2)),
    sizes=st.tuples(st.integers(10, 600), st.integers(10, 600)),
    workers=st.tuples(st.integers(1, 4), st.integers(1, 4)),
    limit=st.integers(1200, 8000),
    pids=st.integers(30, 200),
    ranks=st.integers(1, 2),
)
def test_loaders_together_never_exceed_the_budget(loads, sizes, workers, limit, pids, ranks):
    """What all of them are told to use at once fits beside the rest, or is no more than is in use now."""
    budget = Budget(8, memory_bytes=limit * MIB, pids=pids, shm_bytes=256 * MIB)
    names = ("a", "b")
    own = [
        loader(name, load, 0.02, worker_bytes=size * MIB, workers=count)
        for name, load, size, count in zip(names, loads, sizes, workers, strict=True)
    ]
    pod = Pod(
        budget,
        tuple(replace(x, rank=r) for r in range(ranks) for x in own),
        ContainerUsage(5.0, memory_bytes=1024 * MIB, pids=20),
    )
    found = [recommend(pod, name, Policy()) for name in names]
    memory = added = shm = 0.0
    for x, size, answer in zip(own, sizes, found, strict=True):
        now = x.settings.num_workers
        then = answer.settings.num_workers if isinstance(answer, Recommendation) else now
        prefetch = answer.settings.prefetch_factor or 2 if isinstance(answer, Recommendation) else 2
        memory += ranks * max(0, then - now) * (size + prefetch) * MIB
        added += ranks * max(0, then - now)
        shm += ranks * then * prefetch * MIB if then > now else 0
    if added:
        assert 1024 * MIB + memory <= 0.9 * limit * MIB + 2 * ranks * 4 * MIB
        assert 20 + 2 * added <= 0.9 * pids + 1e-9
        assert shm <= 0.9 * 256 * MIB


def test_who_wants_nothing_may_still_grow_where_there_is_plenty():
    """Of 10 GiB another wants 2: half of the 8 left over; of 1 GiB it may have all."""
    nothing = Demand(0.0, 2.0, 2)
    assert nothing.of(10.0) == 4.0
    assert nothing.of(1.0) == 0.0
    both = [Demand(1.0, 3.0, 2), Demand(3.0, 1.0, 2)]
    assert [d.of(10.0) for d in both] == [4.0, 6.0]
    assert [d.of(2.0) for d in both] == [0.5, 1.5]
    assert grown(2.0, 12.0, nothing) == 6.0


def test_memory_is_not_named_where_there_is_plenty_of_it():
    """A loader that feeds its step, beside one that wants 4 workers of 100 MiB more: 23 GiB are enough."""
    a, b = loader("a", 0.004, 0.0, worker_bytes=15 * MIB), loader("b", 0.04, 0.03)
    budget = Budget(8, memory_bytes=24000 * MIB)
    group = group_of(Pod(budget, (a, b), ContainerUsage(5.0, memory_bytes=1024 * MIB)), "a")
    assert group is not None
    assert demand_of_memory(group, Policy().max_workers).part == 0.0
    found = caps(group, estimate(group.slowest, group.epoch), Policy(), 2)
    assert all(c.workers >= 4 for c in found if c.kind in ("memory", "growth"))


@pytest.mark.parametrize("most", [64, 96])
def test_a_need_is_as_large_as_the_policy_allows(most):
    """Loads of 5 s for steps of 10 ms want 575 workers; the one that there is does not count as wanted."""
    assert need(loader("train", 5.0, 0.04), (), most).workers == most - 1
