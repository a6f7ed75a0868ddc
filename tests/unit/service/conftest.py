"""Messages as clients send them, and a state with a clock of its own."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import pytest

from feedwater.v1 import feedwater_pb2 as pb
from feedwater_service.model.types import (
    Evidence,
    GroupKey,
    LoaderSettings,
    NoRecommendation,
    Pod,
    Policy,
    Prediction,
    Recommendation,
    Verdict,
)
from feedwater_service.rpc import wire
from feedwater_service.state.sessions import Session, State

WORKERS = pb.LoaderSettings(num_workers=2, prefetch_factor=2)


@dataclass
class Clock:
    """A clock that a test moves."""

    now: float = 1000.0

    def __call__(self) -> float:
        return self.now


def registration(**changed: object) -> pb.RegisterLoaderRequest:
    """Return what a client says of its loader; keywords change fields of the identity or of the message."""
    identity = {"client_id": "client-1", "job": "job", "pod": "pod", "rank": 0}
    identity |= {"trainer_pid": 100, "pid_namespace": ""}
    message = {
        "loader": "train",
        "settings": WORKERS,
        "mode": pb.MODE_AUTO,
        "dataset_kind": pb.DATASET_KIND_MAP,
        "can_apply": True,
        "limits": pb.Limits(cpus=4, memory_bytes=8 << 30, shm_bytes=1 << 30),
    }
    for name, value in changed.items():
        (identity if name in identity else message)[name] = value
    return pb.RegisterLoaderRequest(identity=pb.Identity(**identity), **message)


def report(
    loader_id: str, sequence: int, *, epoch: int = 0, first: int = 0, count: int = 40, end: bool = False
) -> pb.ReportRequest:
    """Return a report of ``count`` batches: waits of 20 ms, steps of 10 ms, loads of 60 ms by two workers."""
    message = pb.ReportRequest(loader_id=loader_id, sequence=sequence)
    if first == 0:
        message.begins.add(epoch=epoch, stamp_seconds=100, settings=WORKERS, iter_seconds=0.05)
    message.batches.add(
        epoch=epoch,
        first=first,
        start_seconds=100.05 + first * 0.03,
        wait_seconds=[0.02] * count,
        step_seconds=[0.01] * count,
        ready=[0] * count,
    )
    for worker in range(2):
        half = count // 2
        message.loads.add(
            epoch=epoch,
            worker=worker,
            pid=500 + worker,
            start_seconds=[100 + (first + i) * 0.03 for i in range(half)],
            load_seconds=[0.06] * half,
            cpu_seconds=[0.01] * half,
            run_delay_seconds=[0.0] * half,
            batch_bytes=[1_000_000] * half,
            batch_tensors=[2] * half,
        )
        message.processes.add(
            pid=500 + worker, worker=worker, stamp_seconds=101, rss_bytes=100 << 20, pss_bytes=60 << 20
        )
    message.container.stamp_seconds = 101
    message.container.cpu_seconds = 3.5
    if end:
        message.ends.add(
            epoch=epoch, stamp_seconds=100.05 + (first + count) * 0.03, batches=first + count, complete=True
        )
    return message


def recommendation(epoch: int = 0, workers: int = 4) -> Recommendation:
    """Return a recommendation of more workers than the two in use."""
    now = Prediction(LoaderSettings(2, 2), 30.0, 28.0, 32.0, 0.6)
    then = Prediction(LoaderSettings(workers, 2), 60.0, 50.0, 70.0, 0.1)
    return Recommendation(
        epoch=epoch,
        settings=LoaderSettings(workers, 2),
        uncapped_num_workers=8,
        verdict=Verdict.TOO_FEW_WORKERS,
        sentence="2 → 4 workers: loading takes 60 ms of each 30 ms.",
        current=now,
        chosen=then,
        evidence=(
            Evidence("load_seconds", 0.06, "60 ms to load a batch"),
            Evidence("starvation_ends_cores", 5.5, "starvation ends at a CPU limit of 5.5 cores"),
        ),
        action="2 → 4 workers",
        cause="loading takes 60 ms of each 30 ms",
        advice=("Set in_order=False.",),
        advice_topics=("in_order",),
        cpu_limit_needed_cores=5.5,
    )


@dataclass
class FakeModel:
    """A model that answers what it is told to, and remembers what it was asked."""

    answer: Recommendation | NoRecommendation = field(default_factory=recommendation)
    asked: list[tuple[Pod, GroupKey, object]] = field(default_factory=list)
    drafted: list[str] = field(default_factory=list)
    fails: bool = False

    def analyse(self, pod: Pod, loader: GroupKey, policy: Policy) -> object:
        """Return the loader's name as an analysis."""
        self.drafted.append(loader[2])
        return f"draft of {loader[2]}"

    def recommend(
        self, pod: Pod, loader: GroupKey, policy: Policy, analysis: object = None
    ) -> Recommendation | NoRecommendation:
        """Return the answer."""
        self.asked.append((pod, loader, analysis))
        if self.fails:
            raise RuntimeError("the model is broken")
        return self.answer


@pytest.fixture(name="registration")
def registration_fixture() -> Callable[..., pb.RegisterLoaderRequest]:
    """What a client says of its loader."""
    return registration


@pytest.fixture(name="report")
def report_fixture() -> Callable[..., pb.ReportRequest]:
    """What a client reports."""
    return report


@pytest.fixture(name="recommendation")
def recommendation_fixture() -> Callable[..., Recommendation]:
    """What the model may recommend."""
    return recommendation


@pytest.fixture
def model() -> FakeModel:
    """A model that recommends four workers."""
    return FakeModel()


@pytest.fixture
def clock() -> Clock:
    """A clock that stands still."""
    return Clock()


@pytest.fixture
def state(clock: Clock) -> State:
    """A state with that clock, as the wall clock and the others."""
    return State(clock=clock, monotonic=clock, boot=clock)


@pytest.fixture
def register(state: State) -> Callable[..., Session]:
    """Register a loader as a client does."""
    return lambda **changed: state.register(
        wire.read_register_request(registration(**changed).SerializeToString())
    )


@pytest.fixture
def send(state: State) -> Callable[[pb.ReportRequest], Session]:
    """Report as a client does."""
    return lambda message: state.report(wire.read_report(message.SerializeToString()))
