"""Who shares the machine with a loader, as the stamps of its pod tell."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest

from feedwater_service.model import (
    Analysis,
    Budget,
    Epoch,
    Load,
    Loader,
    LoaderSettings,
    Pod,
    Policy,
    Recommendation,
    analyse,
    recommend,
)
from feedwater_service.model.fit.colocation import colocation_of, concurrent_loaders, machine_share, own_steps
from feedwater_service.model.observed.group import RankGroup, group_of
from feedwater_service.model.observed.timeline import are_in_step, concurrent_loader
from feedwater_service.model.simulator.simulate import Workload, simulate_batches
from feedwater_service.model.simulator.workload import Colocation, Peer

BUDGET = Budget(8)
EARLY = Policy(min_batches=5)


def epoch(waits, steps, start=0.0, loads=(), workers=1) -> Epoch:
    return Epoch(
        0, LoaderSettings(workers), start, 0.0, waits, steps, loads=loads, batches=len(waits), budget=BUDGET
    )


def loader(name: str, at: Epoch, rank: int = 0) -> Loader:
    return Loader(name, rank, at.settings, (at,), batches_per_epoch=len(at.waits))


def loads_of(seconds: float, cpu: float, count: int = 60) -> list[Load]:
    return [Load(0, i * seconds, seconds, cpu, 0.0) for i in range(count)]


def group(*loaders: Loader) -> RankGroup:
    found = group_of(Pod(BUDGET, loaders), "train")
    assert found is not None
    return found


def part(of: Loader, batches: int) -> Loader:
    """Return a loader as it was known after so many batches of its epoch."""
    (at,) = of.epochs
    known = (at.waits[:batches], at.steps[:batches], at.loads[:batches])
    return replace(of, epochs=(replace(at, waits=known[0], steps=known[1], loads=known[2], batches=batches),))


def analysed(*loaders: Loader) -> Analysis:
    found = analyse(Pod(BUDGET, loaders), "train", EARLY)
    assert isinstance(found, Analysis)
    return found


def ranks_in_step() -> tuple[Loader, Loader]:
    """Rank 1 waits 30 ms for each batch and steps 10; rank 0 has its batch at once and waits in its step."""
    quick = epoch([0.0] * 60, [0.04] * 60, loads=loads_of(0.01, 0.001))
    slow = epoch([0.03] * 60, [0.01] * 60, loads=loads_of(0.04, 0.001))
    return loader("train", quick), loader("train", slow, 1)


def test_ranks_are_in_step_while_their_steps_end_together():
    """Iterations of 40 ms on both sides; against 40 and 44 they part after eleven."""
    quick, slow = ranks_in_step()
    assert are_in_step(quick.epochs[0], slow.epochs[0])
    assert not are_in_step(quick.epochs[0], epoch([0.03] * 60, [0.014] * 60))


def test_ranks_of_random_pace_are_not_in_step():
    """Iterations of 10 ms with a spread of 5, each rank by itself: they drift apart by more than one."""
    drawn = random.Random(7)
    one, other = (epoch([0.0] * 400, [drawn.uniform(0.001, 0.019) for _ in range(400)]) for _ in range(2))
    assert not are_in_step(one, other)


def test_the_own_step_is_the_smallest_of_the_ranks():
    """The quick rank's 40 ms hold 30 of waiting: the step is 10."""
    both = group(*ranks_in_step())
    assert both.slowest.rank == 1
    assert own_steps(both, both.epoch, ()) == pytest.approx([0.01] * 60)


def test_ranks_that_keep_no_step_have_their_own():
    """Nothing is known of the waiting of ranks that do not wait for each other."""
    quick, _ = ranks_in_step()
    other = loader("train", epoch([0.03] * 60, [0.02] * 60, loads=loads_of(0.05, 0.001)), 1)
    assert own_steps(group(quick, other), other.epochs[0], ()) is None


def test_peers_stand_in_proportion_to_the_rank_that_decides():
    """Loads of 9 + 1 ms beside 39 + 1: 9/39 of the blocked time, the same CPU time."""
    found = colocation_of(group(*ranks_in_step()), ())
    (peer,) = found.peers
    assert (peer.blocked_factor, peer.cpu_factor) == pytest.approx((9 / 39, 1.0))
    assert found.synchronised


def test_many_ranks_are_stood_for_by_two_others():
    """Eight ranks share eight CPUs: three are simulated, on a CPU each."""
    at = epoch([0.01] * 60, [0.01] * 60, loads=loads_of(0.01, 0.001))
    eight = group(*(loader("train", at, rank) for rank in range(8)))
    assert colocation_of(eight, ()).peers == (Peer(shift=1 / 3), Peer(shift=2 / 3))
    assert machine_share(eight).cpus == 1.0


@pytest.mark.parametrize("early", [0, 1])
@pytest.mark.parametrize("known", [None, 0, 5])
def test_an_analysis_of_one_rank_alone_is_not_of_both(early, known):
    """Half of one rank's epoch was analysed before the other's arrived: the answer does not go by it.

    The other rank is unknown, has no batch, or too few for a look at whether the ranks keep in step.
    """
    both = ranks_in_step()
    half = both[early], both[1 - early]
    half = (part(half[0], 30), *(() if known is None else (part(half[1], known),)))
    stale = analysed(*half)
    assert not stale.is_current_for(group(*both))
    found = recommend(Pod(BUDGET, both), "train", EARLY, stale)
    assert isinstance(found, Recommendation)
    assert found == recommend(Pod(BUDGET, both), "train", EARLY)
    assert found.settings.num_workers > 1, found.sentence


def test_an_analysis_of_one_rank_is_not_of_two_that_keep_no_step():
    """They share the pod's CPUs."""
    one = loader("train", epoch([0.02] * 60, [0.01] * 60, loads=loads_of(0.02, 0.001)))
    other = loader("train", epoch([0.02] * 60, [0.03] * 60, loads=loads_of(0.02, 0.001)), 1)
    assert not analysed(part(one, 30)).is_current_for(group(one, other))
    assert analysed(part(one, 30), part(other, 30)).is_current_for(group(one, other))


def test_an_analysis_of_the_wrong_rank_does_not_stand():
    """Rank 1 was the slower one at half; rank 0's later loads, of 0.1 s, hold both up."""
    at = epoch([0.02] * 60, [0.01] * 60, loads=loads_of(0.02, 0.001))
    late = loader("train", replace(at, loads=[*loads_of(0.02, 0.001, 30), *loads_of(0.1, 0.001, 30)]))
    even = loader("train", replace(at, loads=loads_of(0.03, 0.001)), 1)
    stale = analysed(part(late, 30), part(even, 30))
    assert stale.epoch.rank == 1
    assert not stale.is_current_for(group(late, even))


def test_an_analysis_of_either_of_equal_ranks_stands():
    """The slowest of two that differ by chance alone is now the one, now the other."""
    at = epoch([0.01] * 60, [0.01] * 60, loads=loads_of(0.02, 0.001))
    other = epoch([0.01] * 60, [0.01] * 60, loads=loads_of(0.021, 0.001))
    early = analysed(loader("train", other), loader("train", at, 1))
    assert early.is_current_for(group(loader("train", at), loader("train", other, 1)))


def test_loaders_of_one_loop_take_turns():
    """``zip``: the other's wait of 20 ms is in each step of 30, so the step is 10."""
    ours = epoch([0.005] * 60, [0.03] * 60, loads=loads_of(0.005, 0.001))
    # Asked for as soon as ours has come, and then after a step and our wait.
    other = epoch([0.02] * 60, [0.015] * 60, start=0.005, loads=loads_of(0.02, 0.001))
    found = concurrent_loader(ours, loader("labels", other))
    assert found is not None
    assert found.is_zipped
    assert found.per_batch == pytest.approx(1.0, abs=0.05)
    both = group(loader("train", ours), loader("labels", other))
    others = concurrent_loaders(both, ours)
    assert own_steps(both, ours, others) == pytest.approx([0.01] * 60, abs=1e-6)
    assert len(colocation_of(both, others).zipped) == 1
    # Another process' loader may run in the same rhythm: it is beside our loop, not in it.
    apart = group(loader("train", ours), replace(loader("labels", other), job="evaluator"))
    assert [x.is_zipped for x in concurrent_loaders(apart, ours)] == [False]


def test_validation_after_training_is_no_company():
    """It begins where training ends: neither its CPU time nor its waits are beside it."""
    ours = epoch([0.005] * 60, [0.03] * 60, loads=loads_of(0.005, 0.001))
    later = epoch([0.02] * 60, [0.015] * 60, start=60 * 0.035, loads=loads_of(0.02, 0.02))
    assert concurrent_loader(ours, loader("valid", later)) is None
    assert concurrent_loader(later, loader("train", ours)) is None


def test_validation_within_an_epoch_is_no_company():
    """All its batches are in one step of ours, and none of ours in its own: other steps are free of it."""
    ours = epoch([0.005] * 60, [0.03] * 30 + [4.0] + [0.03] * 29, loads=loads_of(0.005, 0.001))
    within = epoch([0.02] * 60, [0.04] * 60, start=31 * 0.005 + 30 * 0.03 + 0.1, loads=loads_of(0.02, 0.02))
    assert concurrent_loader(ours, loader("valid", within)) is None
    assert concurrent_loader(within, loader("train", ours)) is None


def test_a_loader_of_another_thread_is_cpu_beside():
    """Its batches come across ours, so no loop takes both: what is left is 10 of each 20 ms of a core."""
    ours = epoch([0.005] * 200, [0.005] * 200, loads=loads_of(0.005, 0.001))
    beside = loads_of(0.02, 0.01, 100)
    other = epoch([0.0081] * 97, [0.0123] * 97, loads=beside)
    pod = group(loader("train", ours), loader("other", other))
    (found,) = colocation_of(pod, concurrent_loaders(pod, ours)).background
    assert found.cores == pytest.approx(0.5, abs=0.02)
    assert found.burst_seconds == pytest.approx(0.01)


def test_waiting_for_other_ranks_is_no_slack():
    """A quick and a slow rank, played in step: what the slow one lacks is recommended to both."""
    work = Workload(((0.04, 0.001),), ((0.0, 0.01),), receive_cpu_seconds=0.0005)
    played = [_played(work, Peer(0.25, 1.0)), _played(work.of_peer(Peer(0.25, 1.0)), Peer(4.0, 1.0))]
    ranks = (loader("train", played[1]), loader("train", played[0], 1))
    assert played[1].waits[30] < 0.002 < 0.03 < played[1].steps[30]
    found = recommend(Pod(BUDGET, ranks), "train", Policy())
    assert isinstance(found, Recommendation)
    assert found.verdict.value == "STRAGGLER_RANK"
    # One load of 41 ms in a step of 10: 100 batches/s need five workers.
    assert found.settings.num_workers == 5
    assert found.current.batches_per_second == pytest.approx(1 / 0.041, rel=0.05)
    # 1 / 0.0105 less the start of five workers, in an epoch of 100 batches.
    assert 80 < found.chosen.batches_per_second < 1 / 0.0105


def _played(work: Workload, peer: Peer) -> Epoch:
    """One rank's side of an epoch of two."""
    batches = 100
    both = replace(work, colocation=Colocation((peer,), True))
    run = simulate_batches(both, LoaderSettings(1, 2), part_for_two(), batches, batches)
    waits = [got - asked for asked, got in zip(run.asked, run.got, strict=True)]
    ends = [*run.asked[1:], run.end]
    steps = [end - got for got, end in zip(run.got, ends, strict=True)]
    blocked, cpu = work.loads[0]
    loads = [Load(0, made - blocked - cpu, blocked + cpu, cpu, 0.0, 64, 1) for made in run.loaded]
    return replace(epoch(waits, steps, loads=loads), settings=LoaderSettings(1, 2), trainer_cpu_seconds=0.1)


def part_for_two():
    return machine_share(group(*ranks_in_step()))
