"""The answer as a whole: what is recommended for workloads whose truth is known."""

from __future__ import annotations

from dataclasses import replace

import pytest

from feedwater_service.model import (
    Budget,
    LoaderSettings,
    NoRecommendation,
    NoRecommendationReason,
    Pod,
    Policy,
    Recommendation,
    Verdict,
    analyse,
    recommend,
)
from feedwater_service.model.simulator.simulate import Workload

COSTS = {
    "send_cpu_seconds": 0.0003,
    "receive_cpu_seconds": 0.0005,
    "pass_cpu_seconds": 0.00027,
    "wake_seconds": 0.00013,
    "fork_cpu_seconds": 0.014,
    "boot_cpu_seconds": 0.016,
    "exit_cpu_seconds": 0.0045,
}


def work(blocked: float, cpu: float, step_cpu: float, step_timed: float) -> Workload:
    return Workload(((blocked, cpu),), ((step_cpu, step_timed),), **COSTS)


def answer(pod, policy=Policy()) -> Recommendation:  # noqa: B008
    found = recommend(pod, "train", policy)
    assert isinstance(found, Recommendation)
    return found


def test_recommend_gives_an_io_bound_loader_more_workers_than_cores(play_epoch, make_pod, settings_of):
    """50 ms blocked for steps of 5 ms wants 50 / 5 = 10 workers; 8 is 4 times the 2 that were seen."""
    budget = Budget(2)
    pod = make_pod([play_epoch(work(0.05, 0.001, 0.0, 0.005), settings_of(2), budget)], budget)
    found = answer(pod)
    assert (found.settings.num_workers, found.verdict) == (8, Verdict.TOO_FEW_WORKERS)


def test_recommend_stops_where_the_cpu_limit_does(play_epoch, make_pod, settings_of):
    """20 ms CPU a batch on 2 cores are 100 batches/s with 2 workers and with more."""
    budget = Budget(2)
    pod = make_pod([play_epoch(work(0.0, 0.02, 0.0, 0.005), settings_of(2), budget)], budget)
    found = answer(pod)
    assert (found.settings.num_workers, found.verdict) == (2, Verdict.CPU_LIMIT)


def test_recommend_gives_workers_back_under_a_quota_that_is_used_up(play_epoch, make_pod, settings_of):
    """14 ms CPU a batch on one core are 71 batches/s at any count: of 8 workers most are too many."""
    budget = Budget(2, 1.0)
    pod = make_pod([play_epoch(work(0.0, 0.01, 0.004, 0.0), settings_of(8), budget)], budget)
    found = answer(pod)
    assert found.settings.num_workers <= 2
    assert found.verdict is Verdict.CPU_LIMIT


@pytest.mark.parametrize(("blocked", "reserve"), [(0.055, True), (0.045, False)])
def test_recommend_says_what_it_keeps_in_reserve(play_epoch, make_pod, settings_of, blocked, reserve):
    """Three workers feed steps of 20 ms with loads of 55 or 45 ms, but not with 63: then 4 are taken."""
    budget = Budget(8)
    pod = make_pod([play_epoch(work(blocked, 0.001, 0.0, 0.02), settings_of(1), budget, 400)], budget)
    found = answer(pod)
    said = [fact.text for fact in found.evidence if fact.name == "fewest_workers"]
    assert found.settings.num_workers == (4 if reserve else 3)
    assert said == (["3 workers are as good until loads take 15% longer"] if reserve else [])


def test_recommend_takes_workers_from_a_tiny_dataset(play_epoch, make_pod, settings_of):
    """Loads of 20 µs cost less than the 200 µs of receiving them from a worker."""
    budget = Budget(8)
    pod = make_pod([play_epoch(work(0.0, 0.00002, 0.0, 0.001), settings_of(4), budget, 1000)], budget)
    assert answer(pod).settings.num_workers == 0


def test_recommend_explores_from_no_workers_up_to_eight(play_epoch, make_pod, settings_of):
    """At no workers one load at a time was seen, so 8 at once are the most to try."""
    budget = Budget(8)
    pod = make_pod([play_epoch(work(0.05, 0.002, 0.0, 0.005), settings_of(0), budget)], budget)
    assert answer(pod).settings.num_workers == 8


def test_recommend_finishes_an_analysis_to_the_same_answer(play_epoch, make_pod, settings_of):
    """A fresh analysis changes the cost of the answer, not the answer."""
    budget, policy = Budget(4), Policy()
    pod = make_pod([play_epoch(work(0.02, 0.01, 0.001, 0.004), settings_of(2), budget)], budget)
    made = analyse(pod, "train", policy)
    assert not isinstance(made, NoRecommendation)
    assert recommend(pod, "train", policy, made) == recommend(pod, "train", policy)


@pytest.mark.parametrize("batches", [5, 19])
def test_recommend_says_when_there_is_too_little(play_epoch, make_pod, settings_of, batches):
    """Fewer than 20 batches are not enough, and that is said."""
    budget = Budget(4)
    pod = make_pod([play_epoch(work(0.01, 0.01, 0.0, 0.001), settings_of(2), budget, batches)], budget)
    found = recommend(pod, "train", Policy())
    assert isinstance(found, NoRecommendation)
    assert found.reason is NoRecommendationReason.TOO_FEW_BATCHES


def test_recommend_keeps_to_the_least_that_policy_asks_for(play_epoch, make_pod, settings_of):
    """Policy wants 3 workers where one would do."""
    budget = Budget(8)
    pod = make_pod([play_epoch(work(0.0, 0.01, 0.0, 0.05), settings_of(1), budget)], budget)
    assert answer(pod, Policy(min_workers=3)).settings.num_workers == 3


@pytest.mark.parametrize("most", [64, 96])
def test_recommend_gives_as_many_workers_as_policy_allows(play_epoch, make_pod, settings_of, most):
    """Loads of 0.4 s for steps of 2 ms want 200 workers; 4 times the 32 seen are 128, so policy decides."""
    budget = Budget(128)
    epoch = play_epoch(work(0.4, 0.0005, 0.0, 0.002), settings_of(32), budget, batches=3000)
    found = answer(make_pod([epoch], budget), Policy(max_workers=most))
    assert found.settings.num_workers == most
    assert max(p.settings.num_workers for p in found.curve) == most


def test_recommend_keeps_a_prefetch_factor_that_was_left_to_pytorch(play_epoch, make_pod):
    """None means 2; to write 2 instead is no change worth making."""
    budget = Budget(8)
    pod = make_pod([play_epoch(work(0.0, 0.01, 0.0, 0.05), LoaderSettings(1), budget)], budget)
    assert not answer(pod).changes


def test_recommend_shares_the_cpus_among_ranks(play_epoch, make_pod, settings_of):
    """2 ranks on 4 CPUs have 2 each: 20 ms CPU a batch are worth 2 workers, where one rank alone takes 4."""
    budget = Budget(4)
    epoch = play_epoch(work(0.0, 0.02, 0.0, 0.004), settings_of(2), budget)
    alone = make_pod([epoch], budget)
    both = Pod(budget, (alone.loaders[0], replace(alone.loaders[0], rank=1)))
    assert answer(alone).settings.num_workers >= 4
    assert answer(both).settings.num_workers <= 3


@pytest.mark.parametrize("workers", [0, 2, 16])
def test_analyse_simulates_a_dozen_settings_or_so(play_epoch, make_pod, settings_of, workers):
    """However many workers could be tried: the cost of an answer is bounded by the number of its points."""
    budget = Budget(64)
    pod = make_pod([play_epoch(work(0.2, 0.002, 0.0, 0.002), settings_of(workers), budget)], budget)
    made = analyse(pod, "train", Policy())
    assert not isinstance(made, NoRecommendation)
    assert len(made.points) <= 18
