"""CPUs that other containers load: told from limits and own threads, simulated, and said."""

from __future__ import annotations

from dataclasses import replace

import pytest

from feedwater_service.model import (
    Budget,
    Change,
    ContainerUsage,
    Epoch,
    Load,
    Loader,
    LoaderSettings,
    Pod,
    Policy,
    Recommendation,
    Verdict,
    analyse,
    recommend,
)
from feedwater_service.model.analysis import Analysis
from feedwater_service.model.fit.contention import used_cores, with_step_delay
from feedwater_service.model.simulator.cpu import CpuScheduler, Machine, machine_of
from feedwater_service.model.simulator.simulate import Workload, simulate, simulate_batches
from tests.unit.service.model.synthetic import work

BUDGET = Budget(2)


def crowded(play_epoch, of: Workload, settings: LoaderSettings, left: float, number: int = 0) -> Epoch:
    """Play an epoch on CPUs of which others leave a part; loads wait for one as all threads do on average."""
    machine = replace(machine_of(BUDGET), obtainable=left)
    run = simulate_batches(of, settings, machine, 200, 200)
    delay = max(0.0, run.runnable_seconds / run.cpu_seconds - 1)
    epoch = play_epoch(of, settings, BUDGET, 200, number, machine=machine)
    loads = [
        replace(
            x,
            seconds=x.blocked_seconds + x.cpu_seconds * (1 + delay),
            run_delay_seconds=x.cpu_seconds * delay,
        )
        for x in epoch.loads
    ]
    containers = [
        ContainerUsage(1000.0, cpu_seconds=5.0),
        ContainerUsage(1000.0 + run.end, cpu_seconds=5.0 + run.cpu_seconds),
    ]
    return replace(epoch, loads=loads, containers=containers)


def analysed(pod: Pod) -> Analysis:
    made = analyse(pod, "train", Policy())
    assert isinstance(made, Analysis)
    return made


def test_threads_share_what_others_leave():
    """0.1 s of work beside another on a quarter of two CPUs takes 0.4 s; used are 0.2 s in all."""
    cores = CpuScheduler(Machine(2.0, obtainable=0.25))
    cores.start(0, 0.1)
    cores.start(1, 0.1)
    while cores.run(1.0) >= 0:
        pass
    assert cores.busy_seconds == pytest.approx(0.2)
    assert cores.runnable_seconds == pytest.approx(0.8)
    assert Machine(4.0, 3.0, obtainable=0.5).cores == 2.0
    assert Machine(4.0, 1.0, obtainable=0.5).cores == 1.0
    alone = CpuScheduler(Machine(2.0, obtainable=0.5))
    alone.start(0, 0.1)
    assert alone.run(10.0) == 0
    assert alone.now == pytest.approx(0.1)


def test_parts_and_multiples_of_a_machine_leave_as_much():
    """Ranks, quotas and what is left of a machine keep what others leave of its CPUs."""
    machine = Machine(4.0, 1.0, obtainable=0.5)
    assert {m.obtainable for m in (machine.times(3), machine.share(0.5), machine.with_even_quota())} == {0.5}
    assert machine.with_even_quota().cores == pytest.approx(1.0)


@pytest.mark.parametrize("left", [0.35, 0.2])
@pytest.mark.parametrize("workers", [2, 4])
def test_what_others_leave_is_found(play_epoch, make_pod, settings_of, workers, left):
    """Loads of 10 ms CPU that wait for one, while the container uses a part of its 2 cores."""
    epoch = crowded(play_epoch, work(0.01, 0.01, 0.0, 0.002), settings_of(workers), left)
    made = analysed(make_pod([epoch], BUDGET))
    assert made.context.machine.obtainable == pytest.approx(left, rel=0.2)
    assert made.context.reproduces_epoch


def test_others_that_cost_nothing_are_none(play_epoch, make_pod, settings_of):
    """Loads wait for a CPU twice as long as they compute, and the epoch is as fast as ever."""
    epoch = play_epoch(work(0.01, 0.002, 0.0, 0.03), settings_of(2), BUDGET, 200)
    loads = [replace(x, seconds=x.seconds + 0.004, run_delay_seconds=0.004) for x in epoch.loads]
    assert analysed(make_pod([replace(epoch, loads=loads)], BUDGET)).context.machine.obtainable == 1.0


def test_own_threads_are_no_neighbours(play_epoch, make_pod, settings_of):
    """8 workers that compute on 2 cores wait for each other, and fill them."""
    of = work(0.0, 0.02, 0.0, 0.002)
    epoch = play_epoch(of, settings_of(8), BUDGET, 200)
    loads = [replace(x, seconds=0.08, run_delay_seconds=0.06) for x in epoch.loads]
    containers = [ContainerUsage(1000.0, cpu_seconds=0.0), ContainerUsage(1002.0, cpu_seconds=3.9)]
    pod = make_pod([replace(epoch, loads=loads, containers=containers)], BUDGET)
    assert analysed(pod).context.machine.obtainable == 1.0


def test_the_verdict_says_that_others_use_the_cpus(play_epoch, make_pod, settings_of):
    """2 workers of 20 ms CPU on a third of the CPUs: no count helps, and what helps is said."""
    epoch = crowded(play_epoch, work(0.0, 0.02, 0.0, 0.002), settings_of(2), 0.33)
    found = recommend(make_pod([epoch], BUDGET), "train", Policy())
    assert isinstance(found, Recommendation)
    assert found.verdict is Verdict.CPU_CONTENTION
    assert "others use the CPUs" in found.sentence
    assert any("Reserve CPUs that others use now" in text for text in found.advice)
    assert all(len(text) <= 160 and text.endswith(".") for text in (found.sentence, *found.advice))


def test_workers_are_still_added_where_they_help(play_epoch, make_pod, settings_of):
    """Loads that sleep 40 ms on a third of the CPUs want workers as anywhere."""
    epoch = crowded(play_epoch, work(0.04, 0.001, 0.0, 0.004), settings_of(1), 0.33)
    found = recommend(make_pod([epoch], BUDGET), "train", Policy())
    assert isinstance(found, Recommendation)
    assert found.verdict is Verdict.TOO_FEW_WORKERS
    assert found.settings.num_workers >= 4


def test_a_change_is_not_blamed_for_neighbours_that_came(play_epoch, settings_of):
    """From 2 to 4 workers as others took 60 % of the CPUs: the old count would have met them as well."""
    of = work(0.02, 0.01, 0.0, 0.002)
    quiet = crowded(play_epoch, of, settings_of(2), 1.0)
    loaded = crowded(play_epoch, of, settings_of(4), 0.4, number=1)
    change = Change(1, settings_of(2), settings_of(4))
    loader = Loader("train", 0, settings_of(4), (quiet, loaded), changes=(change,))
    found = recommend(Pod(BUDGET, (loader,)), "train", Policy())
    assert isinstance(found, Recommendation)
    assert not found.rolls_back


def test_cores_in_use_need_two_readings():
    """3 s of CPU time within 2 s are 1.5 cores; of one reading nothing is known."""
    first, last = ContainerUsage(1.0, cpu_seconds=4.0), ContainerUsage(3.0, cpu_seconds=7.0)
    assert used_cores([first, ContainerUsage(2.0), last]) == 1.5
    assert used_cores([first]) is None


def test_less_of_the_cpus_never_gives_more(settings_of):
    """The same work with all, 70 and 30 % of the CPUs' time."""
    of = work(0.01, 0.01, 0.001, 0.002)
    rates = [
        simulate(of, settings_of(3), Machine(2.0, obtainable=left), 200).batches_per_second
        for left in (1.0, 0.7, 0.3)
    ]
    assert rates == sorted(rates, reverse=True)


def beside_twenty(run_delay_seconds: float | None) -> Epoch:
    """An epoch beside a load of 20, made up: workers wait 4 times as long as they run, the main little.

    Steps are 10 ms, of which 3 ms are CPU time, and every third waits 0.9 ms for a CPU; loads take 6 ms of
    CPU time.
    """
    batches, workers = 400, 4
    loads = [
        Load(
            i % workers,
            1000.02 + i // workers * workers * 0.011 + i % workers * 0.001,
            0.031,
            0.006,
            0.024,
            40_000,
            1,
        )
        for i in range(batches)
    ]
    return Epoch(
        0,
        LoaderSettings(workers, 2),
        1000.0,
        0.06,
        [0.05, *[0.0005] * (batches - 1)],
        [0.010 if i % 3 else 0.0109 for i in range(batches)],
        loads=loads,
        containers=[ContainerUsage(1000.0 + s, cpu_seconds=0.85 * s) for s in range(6)],
        trainer_cpu_seconds=batches * 0.0035,
        trainer_run_delay_seconds=run_delay_seconds,
        batches=batches,
        teardown_seconds=0.02,
        budget=BUDGET,
    )


def pod_of(epoch: Epoch) -> Pod:
    return Pod(BUDGET, (Loader("train", 0, epoch.settings, (epoch,)),))


def test_a_step_is_stretched_by_what_the_main_thread_waited():
    """Steps of 10.3 ms, 0.3 of them waiting for a CPU: no setting gives more than 100 batches/s.

    Stretched as the workers' bursts were, 3 ms of CPU time would fill the step: 330 steps/s undisturbed.
    """
    without = analysed(pod_of(beside_twenty(None)))
    assert without.context.estimate.work.consumer_seconds == pytest.approx(0.003, rel=0.05)
    made = analysed(pod_of(beside_twenty(400 * 0.0003)))
    assert made.context.estimate.work.consumer_seconds == pytest.approx(0.010, rel=0.01)
    assert made.context.estimate.step_delay_seconds == pytest.approx(0.0003, rel=0.2)
    fastest = max(
        c.rate_without(gain)
        for c in made.counterfactuals
        for gain in (c.own_cpus, c.free_loads)
        if gain is not None
    )
    assert fastest < 100
    assert max(c.rate_without(c.own_cpus) for c in without.counterfactuals) > 150


def test_a_step_is_no_shorter_than_the_quicker_ones_were():
    """The main thread waits in ``next()`` as well: of 26 ms a batch no more than 0.3 can be in steps."""
    made = analysed(pod_of(beside_twenty(400 * 0.026)))
    assert made.context.estimate.work.consumer_seconds == pytest.approx(0.010, rel=0.01)


def test_an_epoch_beside_a_load_of_twenty_is_understood():
    """The simulation gives what was measured, others are named, and fewer workers are not preferred."""
    pod = pod_of(beside_twenty(400 * 0.0003))
    made = analysed(pod)
    assert made.context.reproduces_epoch
    found = recommend(pod, "train", Policy())
    assert isinstance(found, Recommendation)
    assert (found.verdict, found.settings.num_workers) == (Verdict.CPU_CONTENTION, 4)
    blind = recommend(pod_of(beside_twenty(None)), "train", Policy())
    assert isinstance(blind, Recommendation)
    assert blind.verdict is Verdict.UNKNOWN


def test_steps_keep_their_length_beside_others_and_alone():
    """3 ms of CPU time, 7 of waiting, 0.6 delayed beside others that leave a quarter: 10.6 ms; alone 10."""
    found = with_step_delay(work(0.01, 0.0, 0.003, 0.007), 0.25, 0.0006)
    cpu, timed = found.steps[0]
    assert cpu + timed == pytest.approx(0.010)
    assert cpu / 0.25 + timed == pytest.approx(0.0106)


@pytest.mark.parametrize(("obtainable", "delay"), [(1.0, 0.001), (0.5, None)])
def test_steps_stay_as_they_are_without_others_or_a_measured_delay(obtainable, delay):
    """Nothing to correct, or nothing to correct it by."""
    plain = work(0.01, 0.0, 0.003, 0.007)
    assert with_step_delay(plain, obtainable, delay) is plain
