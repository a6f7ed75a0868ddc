"""Whatever is measured, an answer comes: a value, in form, within the policy."""

from __future__ import annotations

import math
from array import array

from hypothesis import given, settings
from hypothesis import strategies as st

from feedwater_service.model import (
    Budget,
    Change,
    ContainerUsage,
    DeviceStep,
    Epoch,
    Load,
    Loader,
    LoaderSettings,
    NoRecommendation,
    Pod,
    Policy,
    Recommendation,
    Verdict,
    WorkerMemory,
    analyse,
    recommend,
)

_time = st.one_of(st.just(0.0), st.floats(0.0, 0.2), st.floats(0.0, 3000.0))
_settings = st.builds(
    LoaderSettings,
    num_workers=st.integers(0, 12),
    prefetch_factor=st.one_of(st.none(), st.integers(1, 8)),
    persistent_workers=st.booleans(),
    pin_memory=st.booleans(),
    in_order=st.booleans(),
)
_load = st.builds(
    Load,
    worker=st.integers(0, 14),
    start=st.floats(0.0, 100.0),
    seconds=_time,
    cpu_seconds=_time,
    run_delay_seconds=_time,
    batch_bytes=st.integers(0, 2**32),
    batch_tensors=st.integers(0, 1000),
)
_device = st.builds(DeviceStep, batch=st.integers(0, 60), idle_seconds=_time, busy_seconds=_time)
_maybe = st.one_of(st.none(), st.integers(0, 2**40))
_container = st.builds(
    ContainerUsage,
    stamp_seconds=_time,
    periods=_maybe,
    throttled_periods=_maybe,
    memory_bytes=_maybe,
    pids=_maybe,
)
_memory = st.builds(
    WorkerMemory,
    worker=st.integers(0, 14),
    stamp_seconds=_time,
    pss_bytes=_maybe,
    cpu_seconds=st.one_of(st.none(), _time),
)
_budget = st.builds(
    Budget,
    cpus=st.integers(1, 128),
    cpu_quota_cores=st.one_of(st.none(), st.floats(0.01, 200.0)),
    memory_bytes=_maybe,
    shm_bytes=_maybe,
    pids=_maybe,
    open_files=_maybe,
)


@st.composite
def _epoch(draw: st.DrawFn, number: int) -> Epoch:
    count = draw(st.integers(0, 40))
    times = st.lists(_time, min_size=count, max_size=count)
    waits, steps = draw(times), draw(times)
    return Epoch(
        number,
        draw(_settings),
        draw(st.sampled_from([0.0, 50.0])),
        draw(_time),
        array("f", waits),
        array("f", steps),
        loads=draw(st.lists(_load, max_size=60)),
        device=draw(st.one_of(st.just([]), st.lists(_device, min_size=12, max_size=30))),
        memory=draw(st.lists(_memory, max_size=4)),
        containers=draw(st.lists(_container, max_size=3)),
        trainer_cpu_seconds=draw(st.one_of(st.none(), _time)),
        batches=draw(st.sampled_from([count, count * 50])),
        complete=draw(st.booleans()),
        teardown_seconds=draw(_time),
        dropped=draw(st.integers(0, 3)),
        budget=draw(st.one_of(st.none(), _budget)),
    )


@st.composite
def _loader(draw: st.DrawFn, name: str, rank: int) -> Loader:
    epochs = [draw(_epoch(n)) for n in range(draw(st.integers(0, 3)))]
    now = epochs[-1].settings if epochs else draw(_settings)
    before = epochs[-2].settings if len(epochs) > 1 else now
    changes = (Change(len(epochs) - 1, before, now),) if before != now else ()
    return Loader(
        name,
        rank,
        now,
        epochs,
        batches_per_epoch=draw(st.one_of(st.none(), st.integers(1, 10**6))),
        map_style=draw(st.booleans()),
        start_method=draw(st.sampled_from(["fork", "spawn", "forkserver", ""])),
        uses_cuda=draw(st.booleans()),
        changes=changes,
        failed=tuple(draw(st.lists(_settings, max_size=2))),
    )


@settings(max_examples=25, deadline=None)
@given(data=st.data(), ranks=st.integers(1, 2), budget=_budget)
def test_recommend_answers_whatever_was_measured(data, ranks, budget):
    """Zeros, hours, partial loads, missing signals: no exception, finite figures, a sentence that fits."""
    loaders = tuple(data.draw(_loader("train", r)) for r in range(ranks))
    other = data.draw(_loader("valid", 0))
    pod = Pod(budget, (*loaders, other), data.draw(st.one_of(st.none(), _container)))
    policy = Policy(min_batches=5)
    made = analyse(pod, "train", policy)
    found = recommend(pod, "train", policy, None if isinstance(made, NoRecommendation) else made)
    if isinstance(found, NoRecommendation):
        assert found.message.endswith(".")
        return
    assert isinstance(found, Recommendation)
    assert found.verdict in Verdict
    assert len(found.sentence) <= 160
    assert found.settings.num_workers >= 0
    for p in (found.current, found.chosen, *found.curve, *(w.best for w in found.what_if)):
        assert math.isfinite(p.batches_per_second)
        assert (
            0
            <= p.batches_per_second_lower
            <= p.batches_per_second * (1 + 1e-9)
            <= p.batches_per_second_upper * (1 + 2e-9)
        )
        assert 0 <= p.starvation <= 1
    assert all(math.isfinite(e.value) for e in found.evidence)
