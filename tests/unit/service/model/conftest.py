"""Synthetic traces: epochs that the simulator itself plays, so that the truth is known."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import replace

import pytest

from feedwater_service.model import (
    Budget,
    Epoch,
    Load,
    Loader,
    LoaderSettings,
    Pod,
    Policy,
    Recommendation,
    recommend,
)
from feedwater_service.model.predict.curve import with_workers
from feedwater_service.model.simulator.cpu import Machine, machine_of
from feedwater_service.model.simulator.simulate import Workload, simulate_batches

PlayEpoch = Callable[..., Epoch]
MakePod = Callable[..., Pod]


def play(
    work: Workload,
    settings: LoaderSettings,
    budget: Budget,
    batches: int = 300,
    number: int = 0,
    batch_bytes: int = 0,
    load_measured: bool = True,
    machine: Machine | None = None,
) -> Epoch:
    """Play one epoch of a workload: what the client would report of it."""
    run = simulate_batches(work, settings, machine or machine_of(budget), batches, batches)
    waits = [got - asked for asked, got in zip(run.asked, run.got, strict=True)]
    iter_seconds = work.fork_cpu_seconds * settings.num_workers
    waits[0] = max(0.0, waits[0] - iter_seconds)
    ends = [*run.asked[1:], run.end]
    steps = [end - got for got, end in zip(run.got, ends, strict=True)]
    workers = settings.num_workers
    step_cpu = sum(work.steps[i % len(work.steps)][0] for i in range(batches)) * work.step_width
    load_cpu = sum(work.loads[i % len(work.loads)][1] for i in range(batches))
    main_cpu = work.receive_cpu_seconds * batches if workers else load_cpu + work.inline_cpu_seconds * batches
    # Runnable time beyond CPU time, as far as the main thread's steps show it.
    owed = sum(sum(work.steps[i % len(work.steps)]) for i in range(batches))
    busy = sum(work.steps[i % len(work.steps)][0] for i in range(batches))
    stretch = max(0.0, (sum(steps) - owed) / busy) if busy > 0 else 0.0
    loads = []
    for i in range(batches if load_measured else 0):
        blocked, cpu = work.loads[i % len(work.loads)]
        seconds = blocked + cpu * (1 + stretch)
        end = run.loaded[i] - (work.send_cpu_seconds if workers else work.inline_cpu_seconds)
        worker = i % workers if workers else 0
        loads.append(Load(worker, 1000.0 + end - seconds, seconds, cpu, cpu * stretch, batch_bytes, 1))
    return Epoch(
        number,
        settings,
        1000.0,
        iter_seconds,
        waits,
        steps,
        loads=loads,
        trainer_cpu_seconds=step_cpu + main_cpu + iter_seconds,
        batches=batches,
        teardown_seconds=work.exit_cpu_seconds * workers,
        budget=budget,
    )


@pytest.fixture(scope="session")
def play_epoch() -> PlayEpoch:
    """The function that plays an epoch."""
    return play


@pytest.fixture(scope="session")
def make_pod() -> MakePod:
    """The function that makes a pod of one loader from its epochs."""

    def make(epochs: Sequence[Epoch], budget: Budget, **about: object) -> Pod:
        loader = Loader("train", 0, epochs[-1].settings, tuple(epochs))
        return Pod(budget, (replace(loader, **about),))  # type: ignore[arg-type]

    return make


@pytest.fixture(scope="session")
def ask(make_pod: MakePod) -> Callable[..., Recommendation]:
    """The function that asks for a recommendation, and checks its form and that of each advice in it."""

    def answer(epochs: Sequence[Epoch], budget: Budget, **about: object) -> Recommendation:
        found = recommend(make_pod(epochs, budget, **about), "train", Policy())
        assert isinstance(found, Recommendation)
        for text in (found.sentence, *found.advice):
            assert len(text) <= 160
            assert text.endswith(".")
        assert found.sentence.startswith(found.action)
        assert found.cause
        assert not found.cause.endswith(".")
        assert len(set(found.advice_topics)) == len(found.advice)
        for text in found.advice:
            gains = re.findall(r"\+(\d+)%", text)
            assert not gains or int(gains[-1]) >= 2
        return found

    return answer


@pytest.fixture(scope="session")
def settings_of() -> Callable[[int], LoaderSettings]:
    """The function that makes plain settings of a count."""
    return lambda workers: with_workers(LoaderSettings(max(workers, 0)), workers)
