"""A real loader beside a device: steps are sampled, told, and named for what they are."""

from __future__ import annotations

import itertools
import logging
import os
from collections.abc import Iterable

import pytest
import torch
from torch.utils.data import DataLoader

import feedwater
from feedwater import ring
from feedwater.loop import registry
from feedwater.loop.measure import cuda as loop_cuda
from feedwater.loop.measure import device as loop_device
from feedwater.loop.watched import WatchedLoader
from feedwater.testing import Advice, FakeTransport
from tests.fixtures.fake_device import FakeDevice
from tests.integration.loop.loop_datasets import Numbers

STEP_SECONDS = 0.002


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> FakeDevice:
    """A device that every loader finds."""
    made = FakeDevice()
    monkeypatch.setattr(loop_device, "_find", lambda: made)
    return made


def train(batches: Iterable[object], fake: FakeDevice) -> int:
    """Give the device a step for each batch and wait for it; return how many there were."""
    count = 0
    for _ in batches:
        fake.step(STEP_SECONDS)
        fake.synchronize()
        count += 1
    return count


def stored(found: WatchedLoader | None) -> list[ring.DeviceTiming]:
    """Return the steps in a loader's ring."""
    assert found is not None
    assert found.recording.words is not None
    reader = ring.RingReader(found.recording.words)
    return reader.device_steps(reader.device_head())


@pytest.mark.parametrize("workers", [0, 2])
def test_steps_of_a_loader_are_sampled(fake: FakeDevice, workers: int) -> None:
    """Of two epochs of 32 batches each second step or so; each took the device 2 ms."""
    loader = feedwater.watch(
        DataLoader(Numbers(32), batch_size=None, num_workers=workers), name="t", transport=FakeTransport()
    )
    assert [train(loader, fake) for _ in range(2)] == [32, 32]
    steps = stored(registry.of(loader))
    assert len(steps) >= 12
    assert {step.batch // 32 for step in steps} == {0, 1}
    assert min(step.busy_ns for step in steps) >= STEP_SECONDS * 1e9
    assert [epoch.device_starvation is not None for epoch in feedwater.history(loader)] == [True, True]


def test_iterable_that_is_no_loader_is_sampled(fake: FakeDevice) -> None:
    """Its batches are timed by a generator, and its device's steps likewise."""
    watched = feedwater.watch([1] * 200, name="t", transport=FakeTransport())
    assert train(watched, fake) == 200
    assert len(stored(watched._feedwater_watched)) >= 6


def test_loop_that_is_left_and_begun_again_is_measured_again(fake: FakeDevice) -> None:
    """An epoch abandoned between the events of a sample leaves nothing that the next would trip over."""
    loader = feedwater.watch(DataLoader(Numbers(64), batch_size=None), name="t", transport=FakeTransport())
    for left_after in range(1, 12):
        train(itertools.islice(loader, left_after), fake)
    before = len(stored(registry.of(loader)))
    train(loader, fake)
    assert len(stored(registry.of(loader))) - before >= 8


def test_line_says_what_the_device_waited(
    fake: FakeDevice, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With device evidence "device waiting", without it "host wait", and without CUDA plainly "waiting"."""
    advice = {0: Advice(2), 1: Advice(3), 2: Advice(4)}
    with caplog.at_level(logging.INFO, "feedwater"):
        for name, expected in (
            ("with", "device waiting "),
            ("without", "host wait "),
            ("none", "batches/s, waiting "),
        ):
            if name == "without":
                fake.is_capturing = True
            if name == "none":
                monkeypatch.setattr(loop_device, "_find", lambda: None)
            loader = feedwater.watch(
                DataLoader(Numbers(32), batch_size=None),
                name=name,
                mode="advise",
                transport=FakeTransport(advice),
            )
            caplog.clear()
            train(loader, fake)
            next(iter(loader))
            assert expected in caplog.text


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("is_busy", [True, False])
def test_cuda_itself_tells_who_waited(is_busy: bool) -> None:
    """Kernels longer than the loads leave the device no idle time; with a synchronised short one it idles."""
    torch.zeros(1, device="cuda")
    loader = feedwater.watch(
        DataLoader(Numbers(96, load_seconds=0.004), batch_size=None), name="t", transport=FakeTransport()
    )
    for _ in loader:
        # Cycles at 1 to 2 GHz: about 10 ms, or about 1.
        torch.cuda._sleep(15_000_000 if is_busy else 1_500_000)
        if not is_busy:
            torch.cuda.synchronize()
    torch.cuda.synchronize()
    (epoch,) = feedwater.history(loader)
    assert epoch.starvation > 0.5
    assert epoch.device_starvation is not None
    assert (epoch.device_starvation < 0.2) is is_busy
    (found,) = registry.every()
    assert found.recording.words is not None
    assert ring.RingReader(found.recording.words).uses_cuda


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_cuda_events_are_read_and_survive_a_fork() -> None:
    """Three events are recorded and compared; a child that drops its copies of them ends in order."""
    timeline = loop_cuda.CudaTimeline(torch.cuda, 0)  # type: ignore[arg-type]
    torch.zeros(1, device="cuda")
    events = [timeline.record() for _ in range(3)]
    torch.cuda.synchronize()
    assert all(timeline.is_passed(event) for event in events)
    span = timeline.nanoseconds(events[0], events[2])
    assert span is not None
    assert span >= 0
    if (child := os.fork()) == 0:
        del events
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0
