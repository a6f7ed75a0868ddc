"""What another CPU limit would mean, for workloads whose truth is known."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from feedwater_service.model import Budget, NoRecommendation, Policy, Recommendation, analyse, recommend
from feedwater_service.model.simulator.cpu import machine_of
from feedwater_service.model.simulator.simulate import Workload, simulate

COSTS = {"send_cpu_seconds": 0.0002, "receive_cpu_seconds": 0.0002, "fork_cpu_seconds": 0.006}


def work(blocked: float, cpu: float, step_cpu: float, step_timed: float) -> Workload:
    return Workload(((blocked, cpu),), ((step_cpu, step_timed),), **COSTS)


def answer(pod) -> Recommendation:
    found = recommend(pod, "train", Policy())
    assert isinstance(found, Recommendation)
    return found


def evidence(found: Recommendation, name: str) -> float | None:
    return next((e.value for e in found.evidence if e.name == name), None)


@pytest.mark.parametrize("cores", [0.5, 1.0, 2.0, 4.0])
def test_predictions_for_other_limits_come_true(play_epoch, make_pod, settings_of, cores):
    """20 ms CPU a batch for steps of 5: what is said of each limit is within 5 % of what that limit gives."""
    truth = work(0.0, 0.02, 0.0, 0.005)
    budget = Budget(8, cores)
    found = answer(make_pod([play_epoch(truth, settings_of(2), budget)], budget))
    assert found.what_if
    for at in found.what_if:
        machine = machine_of(replace(budget, cpu_quota_cores=at.cpu_limit_cores))
        real = simulate(truth, at.best.settings, machine, 300, 300).batches_per_second
        assert at.best.batches_per_second == pytest.approx(real, rel=0.05)
        assert at.best.batches_per_second_lower <= real <= at.best.batches_per_second_upper


def test_limits_are_those_around_the_present_one(play_epoch, make_pod, settings_of):
    """Two of eight CPUs: three limits below, three above, and the present one as recommended."""
    budget = Budget(8, 2.0)
    found = answer(make_pod([play_epoch(work(0.0, 0.02, 0.0, 0.005), settings_of(2), budget)], budget))
    assert [w.cpu_limit_cores for w in found.what_if] == [0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0]
    assert next(w.best for w in found.what_if if w.cpu_limit_cores == 2.0) == found.chosen


def test_the_limit_at_which_starvation_ends_is_found(play_epoch, make_pod, settings_of):
    """20.4 ms CPU a batch fit into a step of 5 ms from 4.1 cores on; between 4 and 6 it is halved twice."""
    budget = Budget(8, 2.0)
    found = answer(make_pod([play_epoch(work(0.0, 0.02, 0.0, 0.005), settings_of(2), budget)], budget))
    assert evidence(found, "starvation_ends_cores") == pytest.approx(4.5, abs=0.5)
    assert found.cpu_limit_needed_cores == evidence(found, "starvation_ends_cores")
    assert evidence(found, "no_loss_cores") is None


def test_the_limit_beyond_which_nothing_is_gained_is_found(play_epoch, make_pod, settings_of):
    """Two workers at most, loads of 40 ms, half of it CPU: one core serves both; steps starve on."""
    budget = Budget(8, 0.5)
    pod = make_pod([play_epoch(work(0.02, 0.02, 0.0, 0.005), settings_of(2), budget)], budget)
    found = recommend(pod, "train", Policy(max_workers=2))
    assert isinstance(found, Recommendation)
    assert evidence(found, "starvation_ends_cores") is None
    assert evidence(found, "no_gain_cores") == pytest.approx(1.25, abs=0.3)
    assert found.cpu_limit_needed_cores == evidence(found, "no_gain_cores")


def test_the_limit_that_loses_nothing_is_found(play_epoch, make_pod, settings_of):
    """2 ms CPU of each 10 are a fifth of a core: of two, one and a half and more can be given back."""
    budget = Budget(8, 2.0)
    found = answer(make_pod([play_epoch(work(0.004, 0.0015, 0.0, 0.01), settings_of(1), budget)], budget))
    enough = evidence(found, "no_loss_cores")
    assert enough is not None
    assert enough <= 0.5
    assert evidence(found, "starvation_ends_cores") is None
    assert found.cpu_limit_needed_cores is None


def test_no_limit_beyond_the_cpus_there_are(play_epoch, make_pod, settings_of):
    """Two CPUs without a limit: only fewer can be given."""
    budget = Budget(2)
    found = answer(make_pod([play_epoch(work(0.0, 0.02, 0.0, 0.005), settings_of(2), budget)], budget))
    assert [w.cpu_limit_cores for w in found.what_if] == [0.5, 1.0, 1.5, 2.0]


def test_an_analysis_holds_the_limit_sweep(play_epoch, make_pod, settings_of):
    """What is found in the analysis is what the answer says, and costs nothing then."""
    budget = Budget(8, 2.0)
    pod = make_pod([play_epoch(work(0.0, 0.02, 0.0, 0.005), settings_of(2), budget)], budget)
    made = analyse(pod, "train", Policy())
    assert not isinstance(made, NoRecommendation)
    finished = recommend(pod, "train", Policy(), made)
    assert isinstance(finished, Recommendation)
    assert finished.what_if == answer(pod).what_if
    assert [x.cores for x in made.limit_sweep.limits] == [w.cpu_limit_cores for w in finished.what_if]


@settings(max_examples=25, deadline=None)
@given(
    blocked=st.floats(0.0, 0.05),
    cpu=st.floats(0.0005, 0.03),
    step=st.floats(0.001, 0.03),
    cores=st.sampled_from([0.5, 1.0, 2.0, 6.0]),
    workers=st.integers(0, 6),
)
def test_a_larger_limit_never_promises_less(
    play_epoch, make_pod, settings_of, blocked, cpu, step, cores, workers
):
    """More cores are no slower, up to a tenth: a setting is kept for less."""
    budget = Budget(8, cores)
    pod = make_pod([play_epoch(work(blocked, cpu, 0.0, step), settings_of(workers), budget, 100)], budget)
    made = analyse(pod, "train", Policy())
    assert not isinstance(made, NoRecommendation)
    rates = [x.best.outcome.batches_per_second for x in made.limit_sweep.limits]
    for less, more in pairwise(rates):
        assert more >= 0.9 * less
