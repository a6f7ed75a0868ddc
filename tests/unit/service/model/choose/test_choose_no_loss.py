"""No change is recommended that is predicted to lose, unless memory, /dev/shm or pids are measured short."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from feedwater_service.model import (
    Budget,
    ContainerUsage,
    Epoch,
    Loader,
    LoaderSettings,
    Policy,
    Recommendation,
    Verdict,
    WorkerMemory,
    recommend,
)
from feedwater_service.model.choose.choose import choose
from feedwater_service.model.choose.limits import Cap
from feedwater_service.model.numbers import thresholds
from feedwater_service.model.predict.curve import Point, with_workers
from feedwater_service.model.simulator.simulate import SimulatedEpoch
from tests.unit.service.model.synthetic import threaded, work

MIB = 2**20
KINDS = ("policy", "batches", "memory", "growth", "shm", "pids", "files", "blind", "cold", "shards")
HARD = {"policy", "memory", "shm", "pids"}


def outcome(rate: float) -> SimulatedEpoch:
    """An epoch of 100 batches at a rate."""
    return SimulatedEpoch(100, 100 / rate, 0.0, 0.5, 0.5, 0.0, 0.0, 100 / rate)


@st.composite
def _points(draw: st.DrawFn) -> tuple[Point, ...]:
    counts = sorted(draw(st.sets(st.integers(0, 24), min_size=2, max_size=8)))
    rates = st.floats(1.0, 100.0)
    return tuple(
        Point(
            with_workers(LoaderSettings(n), n),
            *(outcome(draw(rates)) for _ in range(3)),
            spread=draw(st.floats(0.0, 0.3)),
        )
        for n in counts
    )


@settings(max_examples=300, deadline=None)
@given(
    points=_points(),
    data=st.data(),
    limits=st.lists(
        st.builds(Cap, st.sampled_from(KINDS), st.integers(0, 24), st.just("a limit")), min_size=1
    ),
    failed=st.lists(st.integers(0, 24), max_size=2),
)
def test_a_choice_never_loses_unless_a_hard_limit_is_exceeded(points, data, limits, failed):
    """Whatever points, limits and failures: not slower by more than half a percent, or a hard limit binds."""
    current = data.draw(st.sampled_from(points))
    now = current.settings.num_workers
    loader = Loader("train", 0, current.settings, ())
    loader = replace(loader, failed=tuple(with_workers(LoaderSettings(n), n) for n in failed))
    found = choose(points, limits, current, loader, Policy())
    was, then = (p.outcome.batches_per_second for p in (current, found.chosen))
    if then < was * (1 - thresholds.AS_GOOD_SHARE) - 1e-9:
        assert found.forced
        assert found.binding is not None
        assert found.binding.kind in HARD
        assert found.chosen.settings.num_workers <= found.binding.workers < now
    if found.forced:
        assert found.binding is not None
        assert found.binding.workers < now
    assert all(found.chosen.settings.num_workers <= c.workers for c in limits if c.kind in HARD) or not any(
        p.settings.num_workers <= min(c.workers for c in limits if c.kind in HARD) for p in points
    )
    # No limit of the other kinds is passed by more workers than are in use.
    assert all(found.chosen.settings.num_workers <= max(now, c.workers) for c in limits)


@settings(max_examples=40, deadline=None)
@given(
    blocked=st.floats(0.0, 0.05),
    cpu=st.floats(0.0005, 0.02),
    timed=st.floats(0.0, 0.02),
    workers=st.integers(0, 12),
    cpus=st.integers(1, 8),
    width=st.one_of(st.none(), st.floats(1.0, 20.0)),
    delay=st.floats(0.0, 5.0),
    map_style=st.booleans(),
    batches=st.integers(21, 80),
)
def test_no_recommendation_is_predicted_to_lose_where_nothing_is_short(
    play_epoch, make_pod, settings_of, blocked, cpu, timed, workers, cpus, width, delay, map_style, batches
):
    """Contended CPUs, workers that seem to run threads, few batches, a stream: no predicted loss."""
    budget = Budget(cpus, open_files=300)
    epoch = play_epoch(work(blocked, cpu, 0.0, timed), settings_of(workers), budget, batches)
    epoch = _delayed(threaded(epoch, width) if width is not None and workers else epoch, delay)
    found = recommend(make_pod([epoch], budget, map_style=map_style), "train", Policy())
    assert isinstance(found, Recommendation)
    if found.changes:
        assert found.chosen.batches_per_second >= found.current.batches_per_second * (
            1 - thresholds.AS_GOOD_SHARE
        )


def _delayed(epoch: Epoch, delay: float) -> Epoch:
    """Return the epoch with loads that waited for a CPU ``delay`` times as long as they ran on one."""
    loads = [
        replace(x, seconds=x.seconds + delay * x.cpu_seconds, run_delay_seconds=delay * x.cpu_seconds)
        for x in epoch.loads
    ]
    return replace(epoch, loads=loads)


@pytest.mark.parametrize(
    ("kind", "budget", "phrase", "verdict"),
    [
        ("memory", Budget(8, memory_bytes=2000 * MIB), "memory limit 2.0 GiB carries", Verdict.MEMORY),
        ("shm", Budget(8, shm_bytes=64 * MIB), "/dev/shm of 64 MiB holds", Verdict.SHARED_MEMORY),
        ("pids", Budget(8, pids=60), "pids.max 60 allows", None),
    ],
)
def test_a_cut_that_loses_names_the_limit_that_was_measured(
    play_epoch, make_pod, settings_of, kind, budget, phrase, verdict
):
    """8 workers feed the step, fewer would not: the sentence says what is short."""
    epoch = play_epoch(work(0.04, 0.001, 0.0, 0.005), settings_of(8), budget, 100, batch_bytes=5 * MIB)
    if kind == "memory":
        memory = [WorkerMemory(w, 1001.0, pss_bytes=300 * MIB) for w in range(8)]
        epoch = replace(epoch, memory=memory, containers=[ContainerUsage(1001.0, memory_bytes=2700 * MIB)])
    pod = replace(
        make_pod([epoch], budget), container=ContainerUsage(1001.0, memory_bytes=2700 * MIB, pids=60)
    )
    found = recommend(pod, "train", Policy())
    assert isinstance(found, Recommendation)
    assert found.settings.queue_batches < 16
    assert phrase in found.sentence
    assert verdict is None or found.verdict is verdict


def test_the_policy_s_own_bounds_are_named_too(play_epoch, make_pod, settings_of):
    """8 workers where policy allows 3."""
    epoch = play_epoch(work(0.04, 0.001, 0.0, 0.005), settings_of(8), Budget(8), 100)
    found = recommend(make_pod([epoch], Budget(8)), "train", Policy(max_workers=3))
    assert isinstance(found, Recommendation)
    assert found.settings.num_workers <= 3
    assert found.sentence.endswith("policy allows 3 workers.")
    raised = recommend(make_pod([epoch], Budget(8)), "train", Policy(min_workers=12))
    assert isinstance(raised, Recommendation)
    assert raised.settings.num_workers >= 12
    assert raised.sentence.endswith("policy wants 12 workers at least.")


def test_workers_that_seem_to_run_threads_beside_busy_neighbours_are_kept(play_epoch, make_pod, settings_of):
    """8 workers whose loads sleep 10 ms, 16 times their CPU time used at start-up, CPUs contended: no cut."""
    budget = Budget(2)
    epoch = play_epoch(work(0.01, 0.003, 0.0, 0.001), settings_of(8), budget, 40)
    found = recommend(make_pod([_delayed(threaded(epoch, 16.0), 2.0)], budget), "train", Policy())
    assert isinstance(found, Recommendation)
    assert (
        found.settings.num_workers == 8 or found.chosen.batches_per_second >= found.current.batches_per_second
    )
