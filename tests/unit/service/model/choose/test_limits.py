"""What each limit allows, with its arithmetic in sight; and nothing recommended ever exceeds them."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from feedwater_service.model import (
    Budget,
    ContainerUsage,
    Load,
    Policy,
    Recommendation,
    WorkerMemory,
    recommend,
)
from feedwater_service.model.choose.limits import caps, shares_evenly
from feedwater_service.model.fit.estimate import estimate
from feedwater_service.model.fit.memory import footprint
from feedwater_service.model.observed.group import group_of
from feedwater_service.model.observed.reads import is_provisional
from feedwater_service.model.simulator.simulate import Workload
from feedwater_service.model.types import Reads

MIB = 2**20
WORK = Workload(((0.05, 0.001),), ((0.0, 0.004),), send_cpu_seconds=0.0003, receive_cpu_seconds=0.0005)


@pytest.fixture
def allowed(play_epoch, make_pod, settings_of):
    """Return the function that gives each kind of cap for a budget, at 2 workers with 2 batches each."""

    def find(budget: Budget, policy: Policy | None = None, **changes: object) -> dict[str, int]:
        about = {k: changes.pop(k) for k in ("map_style",) if k in changes}
        batch_bytes = changes.pop("batch_bytes", 0)
        epoch = play_epoch(WORK, settings_of(2), budget, 100, batch_bytes=batch_bytes)
        pod = make_pod([replace(epoch, **changes)], budget, **about)
        pod = replace(pod, container=ContainerUsage(0.0, pids=50))
        group = group_of(pod, "train")
        assert group is not None
        found = caps(group, estimate(group.slowest, group.epoch), policy or Policy(), 2)
        assert [c.workers for c in found] == sorted(c.workers for c in found)
        return {c.kind: c.workers for c in found}

    return find


def test_memory_carries_what_is_left_of_the_limit(allowed):
    """(1000 x 0.9 - 300 of the trainer) / (100 + 2 batches of 10 each) = 5 workers."""
    found = allowed(
        Budget(8, memory_bytes=1000 * MIB),
        memory=[WorkerMemory(0, 1002.0, pss_bytes=100 * MIB)],
        containers=[ContainerUsage(1000.5, memory_bytes=540 * MIB)],
        batch_bytes=10 * MIB,
    )
    assert found["memory"] == 5


def test_a_worker_more_takes_what_it_does_not_share(allowed):
    """(1000 x 0.9 - (540 - 2 x 50)) / 50 = 9 workers of 50 MiB USS; PSS is 150."""
    found = allowed(
        Budget(8, memory_bytes=1000 * MIB),
        memory=[WorkerMemory(0, 1002.0, pss_bytes=150 * MIB, uss_bytes=50 * MIB)],
        containers=[ContainerUsage(1000.5, memory_bytes=540 * MIB)],
    )
    assert found["memory"] == 9


def test_workers_that_are_not_there_are_not_taken_off(play_epoch, make_pod, settings_of):
    """380 MiB before and after, 764 beside four workers of 96: the rest is 380, not 380 - 4 x 96."""
    epoch = play_epoch(WORK, settings_of(4), Budget(8), 100)
    own = [WorkerMemory(w, 1000.5, uss_bytes=96 * MIB) for w in range(4)]
    stamps = ((999.9, 380), (1000.5, 764), (1100.0, 380))
    containers = [ContainerUsage(at, memory_bytes=mib * MIB) for at, mib in stamps]
    group = group_of(make_pod([replace(epoch, memory=own, containers=containers)], Budget(8)), "train")
    assert group is not None
    assert footprint(group).rest_bytes == 380 * MIB


def test_a_short_epoch_tells_workers_from_the_container(play_epoch, make_pod, settings_of):
    """380 MiB before two workers started and 564 beside them: 92 each."""
    epoch = replace(
        play_epoch(WORK, settings_of(2), Budget(8), 100),
        containers=[
            ContainerUsage(999.9, memory_bytes=380 * MIB),
            ContainerUsage(1001.0, memory_bytes=564 * MIB),
        ],
    )
    group = group_of(make_pod([epoch], Budget(8)), "train")
    assert group is not None
    assert footprint(group).worker_bytes == 92 * MIB


def test_workers_at_most_double_until_their_growth_is_known(allowed):
    """No PSS was read at 2 workers: 4 are the most under a memory limit."""
    assert allowed(Budget(8, memory_bytes=1000 * MIB))["growth"] == 4


def test_resident_memory_is_not_taken_for_need(allowed):
    """RSS counts shared pages once for each worker; it stands for nothing."""
    resident = [WorkerMemory(0, 1000.0, rss_bytes=900 * MIB)]
    assert allowed(Budget(8, memory_bytes=1000 * MIB), memory=resident)["growth"] == 4


def test_shared_memory_holds_the_queues_and_two_batches(allowed):
    """(64 x 0.9 / 5 - 2) / 2 = 4 workers with batches of 5 MiB."""
    assert allowed(Budget(8, shm_bytes=64 * MIB), batch_bytes=5 * MIB)["shm"] == 4


def test_pids_count_threads(allowed):
    """(100 x 0.9 - 50) / 3 threads are 13 workers more than 2."""
    assert allowed(Budget(8, pids=100))["pids"] == 15


def test_open_files_are_shared_with_the_training(allowed):
    """(1024 - 256) / (6 pipes + 2 batches of 1 tensor) = 96."""
    assert allowed(Budget(8, open_files=1024))["files"] == 96


def test_blocked_loads_are_raised_at_most_fourfold(allowed):
    """2 concurrent loads were seen; storage may have a ceiling above 8."""
    assert allowed(Budget(8))["blind"] == 8


def test_policy_and_batches_are_caps_like_any(allowed):
    """Policy allows 3 workers; an epoch of 100 batches feeds 100."""
    found = allowed(Budget(8), Policy(max_workers=3))
    assert (found["policy"], found["batches"]) == (3, 100)


def test_an_iterable_dataset_is_raised_at_most_twofold(allowed):
    """The number of its shards is not known."""
    assert allowed(Budget(8), map_style=False)["shards"] == 4


def test_footprint_of_no_workers_is_nothing(play_epoch, make_pod, settings_of):
    """Without workers there are no queues, whatever a batch's size is."""
    pod = make_pod([play_epoch(WORK, settings_of(2), Budget(8), 50, batch_bytes=MIB)], Budget(8))
    group = group_of(pod, "train")
    assert group is not None
    assert footprint(group).shm_bytes(0, 2) == 0
    assert footprint(group).shm_bytes(3, 2) == 8 * MIB


@settings(max_examples=20, deadline=None)
@given(
    blocked=st.floats(0.0, 0.1),
    cpu=st.floats(0.0005, 0.03),
    timed=st.floats(0.0, 0.05),
    workers=st.integers(0, 6),
    cpus=st.integers(1, 16),
    quota=st.one_of(st.none(), st.floats(0.2, 16.0)),
    memory=st.integers(200, 2000),
    shm=st.integers(8, 256),
    most=st.integers(0, 10),
)
def test_recommendation_never_exceeds_the_budget(
    play_epoch, make_pod, settings_of, blocked, cpu, timed, workers, cpus, quota, memory, shm, most
):
    """Workers of 50 MiB and batches of 4 MiB fit into memory, /dev/shm and policy; asked twice, the same."""
    budget = Budget(cpus, quota, memory_bytes=memory * MIB, shm_bytes=shm * MIB)
    policy = Policy(max_workers=most)
    work = Workload(((blocked, cpu),), ((0.0, timed),), receive_cpu_seconds=0.0005)
    epoch = play_epoch(work, settings_of(workers), budget, 40, batch_bytes=4 * MIB)
    rest = 100
    epoch = replace(
        epoch,
        memory=[WorkerMemory(w, 1001.0, pss_bytes=50 * MIB) for w in range(workers)],
        containers=[ContainerUsage(1001.0, memory_bytes=(rest + 50 * workers + 8 * workers) * MIB)],
    )
    pod = make_pod([epoch], budget)
    found = recommend(pod, "train", policy)
    assert isinstance(found, Recommendation)
    assert found == recommend(pod, "train", policy)
    then = found.settings
    if then.num_workers > 0:
        assert then.num_workers <= most
        assert 4 * (then.queue_batches + 2) <= 0.9 * shm + 1e-9
    if then.num_workers > 0 and workers > 0:
        assert rest + then.num_workers * 50 + then.queue_batches * 4 <= 0.9 * memory + 1e-9


@settings(max_examples=15, deadline=None)
@given(
    blocked=st.floats(0.005, 0.05),
    timed=st.floats(0.002, 0.02),
    workers=st.integers(1, 4),
    longer=st.floats(1.0, 3.0),
)
def test_more_starvation_never_recommends_fewer_workers(
    play_epoch, make_pod, settings_of, blocked, timed, workers, longer
):
    """The same steps with longer blocked loads, under one budget."""
    budget = Budget(16)

    def chosen(seconds: float) -> int:
        work = Workload(((seconds, 0.0005),), ((0.0, timed),), receive_cpu_seconds=0.0003)
        pod = make_pod([play_epoch(work, settings_of(workers), budget, 120)], budget)
        found = recommend(pod, "train", Policy())
        assert isinstance(found, Recommendation)
        return found.settings.num_workers

    assert chosen(blocked * longer) >= chosen(blocked)


def test_no_more_workers_than_surely_fit_before_their_memory_was_read(allowed):
    """(900 - 600) MiB are free and a worker may come to its RSS of 400: the 2 in use stay, and no third."""
    found = allowed(
        Budget(8, memory_bytes=1000 * MIB),
        memory=[WorkerMemory(0, 1000.0, rss_bytes=400 * MIB)],
        containers=[ContainerUsage(1000.5, memory_bytes=600 * MIB)],
    )
    assert found["growth"] == 2


def test_growth_is_planned_for_until_it_was_watched(allowed):
    """Read only at the begin, 50 MiB may become an RSS of 250: 2 are doubled, though 16 of 50 would fit."""
    found = allowed(
        Budget(8, memory_bytes=1000 * MIB),
        memory=[WorkerMemory(w, 1000.1, rss_bytes=250 * MIB, pss_bytes=50 * MIB) for w in range(2)],
        containers=[ContainerUsage(1000.1, memory_bytes=200 * MIB)],
    )
    assert found["growth"] == 4


def test_memory_is_carried_on_to_the_end_of_the_epoch(allowed):
    """60 MiB after half of an epoch that began with 20 are on their way to 100: (900 - 100) / 100 = 8."""
    epoch_seconds = 100 * 0.051 / 2
    half = [WorkerMemory(w, 1000.0 + epoch_seconds / 2, pss_bytes=60 * MIB) for w in range(2)]
    begin = [WorkerMemory(w, 1000.0, pss_bytes=20 * MIB) for w in range(2)]
    found = allowed(
        Budget(8, memory_bytes=1000 * MIB),
        memory=[*begin, *half],
        containers=[ContainerUsage(1001.0, memory_bytes=300 * MIB)],
    )
    assert found["memory"] in (7, 8)


def test_queues_that_were_empty_are_still_to_come(allowed):
    """A starved loader had nothing of its 40 MiB of queues in /dev/shm: (900 - 340) / 120 = 4."""
    found = allowed(
        Budget(8, memory_bytes=1000 * MIB),
        memory=[WorkerMemory(0, 1002.0, pss_bytes=100 * MIB)],
        containers=[ContainerUsage(1000.5, memory_bytes=540 * MIB, shm_bytes=0)],
        batch_bytes=10 * MIB,
    )
    assert found["memory"] == 4


def test_workers_that_delivered_nothing_show_the_number_of_shards(allowed):
    """One of two workers made all batches."""
    assert (
        allowed(
            Budget(8), map_style=False, loads=[Load(0, 1.0 + i, 0.1, 0.0, 0.0, 8, 1) for i in range(100)]
        )["shards"]
        == 1
    )


@pytest.mark.parametrize(
    ("reads", "expected"),
    [(Reads(64 * MIB, 60 * MIB), 4), (Reads(64 * MIB, 0), None), (Reads(MIB, MIB), None), (None, None)],
    ids=["cold", "cached", "too little", "not known"],
)
def test_a_cold_epoch_at_most_doubles_the_workers(allowed, reads, expected):
    """What storage gives now the page cache gives later: 2 become 4, and the next epoch says more."""
    assert allowed(Budget(8), reads=reads).get("cold") == expected


def test_storage_that_no_cache_can_hold_is_not_provisional(play_epoch, make_pod, settings_of):
    """600 MiB were read, and 400 of memory are left for the page cache."""
    budget = Budget(8, memory_bytes=1000 * MIB)
    epoch = replace(play_epoch(WORK, settings_of(2), budget, 50), reads=Reads(600 * MIB, 600 * MIB))
    for used, provisional in ((600, False), (100, True)):
        pod = replace(make_pod([epoch], budget), container=ContainerUsage(0.0, memory_bytes=used * MIB))
        group = group_of(pod, "train")
        assert group is not None
        assert is_provisional(group) is provisional


@pytest.fixture
def streamed(play_epoch, make_pod, settings_of):
    """Return the function that asks for a stream of loads of 60 ms for steps of 5, one worker in use."""

    def ask(**about: object) -> Recommendation:
        slow = Workload(((0.06, 0.001),), ((0.0, 0.005),), receive_cpu_seconds=0.0005)
        pod = make_pod(
            [play_epoch(slow, settings_of(1), Budget(8), 200)], Budget(8), map_style=False, **about
        )
        found = recommend(pod, "train", Policy())
        assert isinstance(found, Recommendation)
        return found

    return ask


@pytest.mark.parametrize(("shards", "expected"), [(None, 2), (3, 3), (8, 8), (1000, 16)])
def test_a_stream_goes_to_its_count_at_once_where_its_shards_are_known(streamed, shards, expected):
    """12 workers would do: by doubling it is 2, with 3 or 8 shards no more than those, with many some 16."""
    found = streamed(shards=shards, can_apply=False)
    assert found.settings.num_workers == expected


def test_shards_are_dealt_out_evenly(streamed):
    """Of 20 shards 12 workers would get 2 each but for four: as slow as 10, which are recommended."""
    assert streamed(shards=20, can_apply=False).settings.num_workers == 10
    assert shares_evenly(3, 8)
    assert not shares_evenly(6, 8)


def test_storage_is_explored_by_steps_where_a_stream_is_changed_at_once(streamed):
    """With allow_workers the next epoch shows what 8 concurrent loads do."""
    assert streamed(shards=1000, can_apply=True).settings.num_workers == 8


@pytest.mark.parametrize("can_apply", [True, False])
def test_the_order_of_a_stream_is_spoken_of_where_it_is_not_changed_anyway(streamed, can_apply):
    """What is applied at the next epoch is not to be changed between runs."""
    said = any("order depends on num_workers" in text for text in streamed(can_apply=can_apply).advice)
    assert said is not can_apply
