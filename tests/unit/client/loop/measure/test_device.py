"""What the device says, on a timeline whose every second is known."""

from __future__ import annotations

import logging
import os
import random
import sys
from collections.abc import Iterator
from itertools import cycle, islice, pairwise
from time import perf_counter_ns

import pytest

from feedwater import ring
from feedwater.loop.measure import device as device_module
from feedwater.loop.measure.device import EVERY, MAX_PENDING, DeviceSampler
from feedwater.loop.measure.probe import SAMPLED, Probe
from tests.fixtures.fake_device import FakeDevice

MS = 0.001


class Keeper:
    """Is told of epochs; nothing is asked of it here."""

    def on_end(self, probe: Probe, teardown_ns: int, stamp_ns: int) -> None: ...
    def on_roll_over(self, probe: Probe, stamp_ns: int) -> None: ...
    def on_exception(self, probe: Probe, error: BaseException) -> None: ...


class World:
    """A clock that moves when told, a device on it, and a loop that trains."""

    def __init__(self, words: memoryview) -> None:
        self.now = 100.0
        self.fake = FakeDevice(clock=lambda: self.now, sleep=self.sleep)
        self.words = words
        self.reader = ring.RingReader(words)
        self.device = DeviceSampler(words)
        self.probe = self.begin(None)

    def sleep(self, seconds: float) -> None:
        """Let time pass."""
        self.now += seconds

    def begin(self, batches: int | None, head: int = 0) -> Probe:
        """Begin an epoch."""
        self.probe = Probe(self.words, head, Keeper(), 0)
        self.probe.device = self.device
        self.device.begin(self.probe, batches)
        return self.probe

    def train(self, batches: int, wait: float, step: float, host: float = 0.0, syncs: bool = False) -> None:
        """Ask, wait, get, and give the device its step, as hook and training loop do."""
        for _ in range(batches):
            self.probe.enter_clock()
            self.sleep(wait)
            self.probe.stamps += [0, 1]
            if self.probe.due_ns == SAMPLED:
                self.probe.inspect_batch(None, 0)
            self.fake.step(step)
            self.sleep(host)
            if syncs:
                self.fake.synchronize()

    def steps(self) -> list[ring.DeviceTiming]:
        """Return what was stored since the last call."""
        return self.reader.device_steps(self.reader.device_head())


@pytest.fixture
def words() -> Iterator[memoryview]:
    fd, made = ring.create()
    yield made
    os.close(fd)


@pytest.fixture
def world(words: memoryview, monkeypatch: pytest.MonkeyPatch) -> World:
    """A world whose device is found."""
    made: list[World] = []
    monkeypatch.setattr(device_module, "_find", lambda: made[0].fake if made else None)
    made.append(World(words))
    made[0].device.detect()
    return made[0]


@pytest.mark.parametrize(
    ("wait", "step", "host", "idle", "busy"),
    [
        (30, 10, 0, 20, 10),  # The host runs ahead, then device and host wait for the loader.
        (10, 30, 0, 0, 30),  # The host waits all the time, the device never.
        (1, 3, 12, 1, 12),  # The host is slow: the device idles, but only 1 ms of it for a batch.
    ],
)
def test_idle_is_the_time_without_work_for_want_of_a_batch(
    world: World, wait: float, step: float, host: float, idle: float, busy: float
) -> None:
    """Idle ends with the batch, and begins when it was asked for and all earlier work was done."""
    world.begin(64)
    world.train(64, wait * MS, step * MS, host * MS)
    world.fake.synchronize()
    world.device.take_sums()
    told = world.steps()
    assert len(told) >= 8
    # The first samples fall in the first steps, where the device's queue is still filling.
    assert {(round(s.idle_ns / 1e6), round(s.busy_ns / 1e6)) for s in told[2:]} == {(idle, busy)}


def test_one_step_in_sixteen_is_sampled_at_uneven_gaps(world: World) -> None:
    """Of 1,600 steps 100 on average, never the first, never two in a row."""
    world.train(1600, 5 * MS, 1 * MS)
    batches = [step.batch for step in world.steps()]
    assert 85 <= len(batches) <= 115
    gaps = {later - earlier for earlier, later in pairwise(batches)}
    assert batches[0] > 0
    assert min(gaps) >= 2
    assert len(gaps) > 15


def test_rounds_of_steps_are_seen_as_they_are(world: World) -> None:
    """Where each eighth load takes 80 ms and the others 2, the samples hold both in their proportion."""
    for wait in islice(cycle([80] + [2] * 7), 16_000):
        world.train(1, wait * MS, 5 * MS, syncs=True)
    told = world.device.take_sums()
    # 94 ms of waits in eight rounds; steps take 5 ms each.
    assert told.starvation == pytest.approx(94 / (94 + 40), rel=0.05)
    assert told.steps == pytest.approx(1000, abs=60)


def test_short_epochs_are_sampled_more_often(world: World) -> None:
    """Of 64 batches each fourth, of 20 each second, so that an epoch says something of itself."""
    for batches, least in ((64, 10), (20, 5)):
        world.begin(batches, world.probe.next_batch)
        world.train(batches, 5 * MS, 1 * MS)
        assert world.device.take_sums().steps >= least


def test_sums_are_of_their_own_epoch(world: World) -> None:
    """A step that the device had not done at the end is stored at the next begin, under its own number."""
    world.begin(20)
    world.train(20, 1 * MS, 1000 * MS)
    assert world.device.take_sums().steps == 0
    world.fake.synchronize()
    world.begin(20, 20)
    late = world.steps()
    assert late
    assert all(0 < step.batch < 20 for step in late)
    assert world.device.take_sums().steps == 0


def test_what_is_pending_is_bounded(world: World) -> None:
    """A device that never comes past anything costs the events of eight samples and no more."""
    world.train(900, 0.0, 10_000.0)
    assert world.fake.recorded == 3 * MAX_PENDING
    assert world.steps() == []


def test_every_event_is_given_back(world: World) -> None:
    """After the end of an epoch none is kept but for steps that are pending."""
    world.train(777, 5 * MS, 1 * MS)
    world.device.stop()
    assert world.fake.recorded == world.fake.released


def test_nothing_is_recorded_during_a_capture(world: World) -> None:
    """A foreign event in a CUDA graph that is being captured would break it."""
    world.fake.is_capturing = True
    world.train(200, 5 * MS, 1 * MS)
    assert (world.fake.recorded, world.steps()) == (0, [])
    world.fake.is_capturing = False
    world.train(200, 5 * MS, 1 * MS)
    assert world.steps()


@pytest.mark.parametrize("method", ["record", "is_passed", "nanoseconds", "release", "uuid"])
def test_error_ends_the_measurement_and_nothing_else(
    words: memoryview,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    method: str,
) -> None:
    """Whatever the driver raises is absorbed, said once, and never asked for again."""
    world = World(words)
    asked = []

    def broken(*_: object) -> object:
        asked.append(method)
        raise RuntimeError("CUDA error: an illegal memory access was encountered")

    monkeypatch.setattr(world.fake, method, broken)
    monkeypatch.setattr(device_module, "_find", lambda: world.fake)
    with caplog.at_level(logging.WARNING, "feedwater"):
        world.device.detect()
        world.train(500, 5 * MS, 1 * MS)
        world.begin(500, 500)
        world.train(500, 5 * MS, 1 * MS)
    assert len(asked) == 1
    assert len(caplog.records) == 1
    assert "measuring the device failed (RuntimeError: CUDA error" in caplog.text
    assert world.probe.enter_clock is perf_counter_ns


def test_device_that_comes_later_is_found(words: memoryview, monkeypatch: pytest.MonkeyPatch) -> None:
    """CUDA that is initialised in the first step is noticed, told through the ring, and sampled."""
    monkeypatch.setattr(device_module, "_find", lambda: None)
    world = World(words)
    world.device.detect()
    assert world.probe.enter_clock is perf_counter_ns
    assert not world.reader.uses_cuda
    monkeypatch.setattr(device_module, "_find", lambda: world.fake)
    world.device.detect()
    assert world.reader.uses_cuda
    assert world.reader.device_uuid == "GPU-feed0001-0000-0000-0000-0000000000aa"
    world.train(100, 5 * MS, 1 * MS)
    assert world.steps()


def test_sample_whose_batch_never_came_is_left_out(world: World) -> None:
    """Where next() raises between the events, the sample is dropped, and the next one is whole."""
    while world.probe.due_ns != SAMPLED:
        world.probe.enter_clock()
    world.train(200, 5 * MS, 1 * MS)
    assert world.steps()
    assert {round(step.busy_ns / 1e6) for step in world.steps()} <= {1}


def test_the_users_random_numbers_do_not_move(world: World) -> None:
    """Where samples fall is drawn from a stream of its own."""
    random.seed(7)
    before = random.getstate()
    world.train(10 * EVERY, 5 * MS, 1 * MS)
    assert random.getstate() == before


def test_steps_in_the_ring_are_bounded(words: memoryview) -> None:
    """Of more steps than slots the newest are read, less the one that may be torn; a new reader goes on."""
    writer = ring.DeviceWriter(words)
    reader = ring.RingReader(words)
    for batch in range(ring.DEVICE_SLOTS + 10):
        writer.store(ring.DeviceTiming(batch, 1, 2))
    read = reader.device_steps(reader.device_head())
    assert [step.batch for step in read] == list(range(11, ring.DEVICE_SLOTS + 10))
    again = ring.RingReader(words)
    again.resume()
    assert again.device_steps(again.device_head()) == []
    writer.store(ring.DeviceTiming(99, 3, 4))
    assert again.device_steps(again.device_head()) == [ring.DeviceTiming(99, 3, 4)]


def test_torch_is_never_imported_for_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without torch in the process there is no device, and torch is still not there after asking."""
    monkeypatch.delitem(sys.modules, "torch", raising=False)
    assert device_module.find_timeline() is None
    assert "torch" not in sys.modules


def test_area_of_the_device_is_no_workers_ring(words: memoryview) -> None:
    """There are as many worker heads as worker rings, whatever the device stored."""
    ring.DeviceWriter(words).store(ring.DeviceTiming(0, 1, 2))
    assert ring.RingReader(words).worker_heads() == [0] * ring.WORKER_RINGS
