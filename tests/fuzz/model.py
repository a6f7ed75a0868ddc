"""The model on hostile but valid traces: an answer, or given up within its CPU time; never another exception.

The bytes decide the loaders of a pod, their epochs, and times between nanoseconds and months. They go the way
of all reports, so the model gets only what the wire lets in.
"""

from __future__ import annotations

import math
from time import thread_time

from feedwater.v1 import feedwater_pb2 as pb
from feedwater_service import model
from feedwater_service.errors import RefusedError
from feedwater_service.model.simulator.engine import BEFORE_EVENTS, SimulationLimitError
from feedwater_service.model.types import Pod, Policy, Prediction, Recommendation
from feedwater_service.rpc import wire
from feedwater_service.state.sessions import Decision, Session, State
from tests.fuzz.draw import Draw
from tests.unit.service.conftest import Clock, registration

CPU_SECONDS = 0.5
"""The deadline of one question here: a tenth of the sidecar's."""
STUCK_CPU_SECONDS = 3 * CPU_SECONDS
"""As the sidecar's liveness has it: after this the model is in code that does not look at the deadline."""
TIMES = (0.01, 0.0, 1e-9, 1e-4, 0.1, 1.0, 30.0, 300.0, 3600.0, 1e5, 1e7)
STAMPS = (0.0, 100.0, 1e6, 1e9, 1e12)
BYTES = (1000, 0, 1, 1 << 20, 1 << 30, 1 << 40, 1 << 53)
WORKERS = (0, 1, 2, 3, 8, 64, 128, 1000, 4096)
CPUS = (4, 1, 2, 16, 256, 4096, (1 << 32) - 1)
QUOTAS = (0.0, 1.0, 0.5, 0.01, 1e-9, 2.5, 100.0, 1e7)
BATCHES = (40, 0, 1, 20, 100, 300)


def check(data: bytes) -> None:
    """Run one test case.

    Raises:
        AssertionError: The model took too much CPU time, or its answer has impossible numbers.
        Exception: Whatever the model raised that is no `SimulationLimitError`.
    """
    draw = Draw(data)
    clock = Clock()
    state = State(clock=clock, monotonic=clock, boot=clock)
    sessions = [_session(state, draw, number) for number in range(1 + draw.byte() % 3)]
    snapshot = state.snapshot(sessions[0])
    if snapshot is None:
        return
    _recommend(sessions[0], snapshot.pod())


def _recommend(session: Session, pod: Pod) -> None:
    policy = Policy()
    began = thread_time()

    def look() -> None:
        if thread_time() > began + CPU_SECONDS:
            raise SimulationLimitError("the deadline of a test case")

    token = BEFORE_EVENTS.set(look)
    try:
        answer = model.recommend(pod, session.group, policy)
    except SimulationLimitError:
        return
    finally:
        BEFORE_EVENTS.reset(token)
        took = thread_time() - began
        assert took < STUCK_CPU_SECONDS, f"{took:.1f} s of CPU time"
    wire.write_decision(Decision("id", 0, answer))
    if isinstance(answer, Recommendation):
        _check_answer(session, answer, policy)


def _check_answer(session: Session, answer: Recommendation, policy: Policy) -> None:
    assert answer.settings == session.settings or answer.settings.num_workers <= policy.max_workers
    for prediction in (answer.current, answer.chosen, *answer.curve, *(w.best for w in answer.what_if)):
        _check_prediction(prediction)
    assert len(answer.sentence) < 1000
    assert all(len(text) < 1000 for text in answer.advice)


def _check_prediction(prediction: Prediction) -> None:
    speed = prediction.batches_per_second
    assert math.isfinite(speed)
    assert speed >= 0
    assert 0 <= prediction.starvation <= 1, prediction


def _session(state: State, draw: Draw, number: int) -> Session:
    same = draw.byte() % 2
    limits = pb.Limits(cpus=draw.choose(CPUS), memory_bytes=draw.choose(BYTES) or 1 << 34)
    quota = draw.choose(QUOTAS)
    if quota:
        limits.cpu_quota_cores = quota
    settings = _settings(draw)
    registered = registration(
        client_id=f"client-{number}",
        rank=number if same else 0,
        loader="train" if same else f"loader-{number}",
        settings=settings,
        dataset_kind=draw.choose((pb.DATASET_KIND_MAP, pb.DATASET_KIND_ITERABLE)),
        limits=limits,
    )
    session = state.register(wire.read_register_request(registered.SerializeToString()))
    message = pb.ReportRequest(loader_id=session.loader_id, sequence=1, uses_cuda=draw.byte() % 2 == 1)
    start = draw.choose(STAMPS)
    for epoch in range(1 + draw.byte() % 3):
        start = _epoch(message, draw, epoch, start, settings)
    if draw.byte() % 2:
        draw.fill(message.container)
    if draw.byte() % 2:
        draw.fill(message.processes.add())
    try:
        return state.report(wire.read_report(message.SerializeToString()))
    except RefusedError:
        return session


def _settings(draw: Draw) -> pb.LoaderSettings:
    workers = draw.choose(WORKERS)
    prefetch = draw.choose((2, 1, 16, 1000, 1_000_000)) if workers else None
    return pb.LoaderSettings(
        num_workers=workers,
        prefetch_factor=prefetch,
        persistent_workers=draw.byte() % 2 == 1,
        in_order=draw.byte() % 2 == 0,
    )


def _epoch(
    message: pb.ReportRequest, draw: Draw, epoch: int, start: float, settings: pb.LoaderSettings
) -> float:
    count = draw.choose(BATCHES)
    message.begins.add(epoch=epoch, stamp_seconds=start, settings=settings, iter_seconds=draw.choose(TIMES))
    waits, steps = _times(draw, count), _times(draw, count)
    ready = [draw.byte() % 4 - 1] * count if draw.byte() % 2 else []
    message.batches.add(epoch=epoch, start_seconds=start, wait_seconds=waits, step_seconds=steps, ready=ready)
    loaders = max(1, min(settings.num_workers, 8))
    for worker in range(loaders):
        _loads(message, draw, epoch, worker, start, count // loaders)
    end = start + sum(waits) + sum(steps)
    message.ends.add(epoch=epoch, stamp_seconds=end, batches=count, complete=draw.byte() % 4 != 3)
    return end


def _loads(message: pb.ReportRequest, draw: Draw, epoch: int, worker: int, start: float, count: int) -> None:
    loads = _times(draw, count)
    cpu = loads if draw.byte() % 2 else _times(draw, count)
    message.loads.add(
        epoch=epoch,
        worker=worker,
        pid=500 + worker,
        start_seconds=[start + sum(loads[:i]) for i in range(count)],
        load_seconds=loads,
        cpu_seconds=cpu,
        run_delay_seconds=_times(draw, count),
        batch_bytes=[draw.choose(BYTES)] * count,
        batch_tensors=[draw.choose((2, 0, 1, 1000, (1 << 32) - 1))] * count,
    )


def _times(draw: Draw, count: int) -> list[float]:
    """Return times of two kinds in turn."""
    pair = (draw.choose(TIMES), draw.choose(TIMES))
    return [pair[i % 2] for i in range(count)]
