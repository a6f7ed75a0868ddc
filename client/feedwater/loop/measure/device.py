"""Samples the accelerator: how long it waited for a batch, and how long it worked, in about one step of 16.

Under asynchronous CUDA the host runs ahead and then waits in ``next()`` while the device is still busy: host
wait is not starvation. Three events on the stream measure the device itself. A device passes an event when
all work that was queued before the event is done:

    entered   recorded before next()      passed when the device has done all earlier steps
    arrived   recorded after it           passed at once by an idle device, else right after `entered`
    ended     recorded before the next    passed when the device has done this step

``entered`` to ``arrived`` is the time that the device was idle because it had no batch; ``arrived`` to
``ended`` is the time of the step on the device. Events are read at a later sample, without synchronising.
"""

from __future__ import annotations

import random
import sys
from collections import deque
from collections.abc import Callable
from time import perf_counter_ns
from typing import TYPE_CHECKING, NamedTuple, Protocol

from feedwater import guard, ring
from feedwater.loop.measure.cuda import CudaTimeline, used_device
from feedwater.loop.measure.probe import SAMPLED

if TYPE_CHECKING:
    from feedwater.loop.measure.probe import Probe

EVERY = 16
"""Mean number of steps for each sampled one: recording takes 25 µs, which is then below 2 µs a step."""
MIN_EVERY = 2
"""Its lower limit in short epochs: a sample takes two steps, whose three events are its own."""
SAMPLES_PER_EPOCH = 16
"""Samples wanted of an epoch: one of 64 batches is sampled every fourth step. Their share of idle time is
then right to about a fifth of itself where the lengths of steps vary by their mean."""
MIN_STEPS = 4
"""Samples from which their share of waiting counts, as in the sidecar: of fewer, one slow step is half."""
MAX_PENDING = 8
"""Samples that the device has not passed yet. Drivers queue about 1,000 kernels, less than 16 steps of most
models, so one or two are usual. Sampling pauses at this many."""


class Timeline(Protocol):
    """Events of a device, by `feedwater.loop.measure.cuda.CudaTimeline` or by a test's fake."""

    def uuid(self) -> int:
        """Return the 128 bits of the device's UUID, 0 where it is unknown."""

    def record(self) -> object | None:
        """Queue an event behind the device's work; None where none can be queued now."""

    def is_passed(self, event: object) -> bool:
        """Return, without waiting, whether the device has passed an event."""

    def nanoseconds(self, first: object, second: object) -> int | None:
        """Return the time between two passed events; None where they cannot be compared."""

    def release(self, event: object) -> None:
        """Return an event for reuse."""


FindTimeline = Callable[[], Timeline | None]


class Sample(NamedTuple):
    """The events of one sampled step."""

    batch: int
    """Its number over the life of the loader."""
    entered: object
    arrived: object
    ended: object


class Sums(NamedTuple):
    """The sums of an epoch's samples."""

    steps: int = 0
    idle_ns: int = 0
    busy_ns: int = 0

    @property
    def starvation(self) -> float | None:
        """Share of the time that the device waited for a batch, 0 to 1; None below `MIN_STEPS` samples."""
        whole = self.idle_ns + self.busy_ns
        return self.idle_ns / whole if self.steps >= MIN_STEPS and whole else None


def find_timeline() -> Timeline | None:
    """Return CUDA's timeline; None where the trainer holds no device memory. Torch is not imported for it."""
    torch = sys.modules.get("torch")
    cuda = getattr(torch, "cuda", None)
    if cuda is None or not cuda.is_initialized():
        return None
    device = used_device(cuda)
    return None if device is None else CudaTimeline(cuda, device)


_find: FindTimeline = find_timeline


def find_timeline_with(find: FindTimeline) -> None:
    """Detect the device with ``find``, called at each epoch until it returns one."""
    global _find
    _find = find


class DeviceSampler:
    """Samples the steps of one loader on the device. Nothing raises; after an error it samples no more."""

    def __init__(self, words: memoryview) -> None:
        self._writer = ring.DeviceWriter(words)
        self._timeline: Timeline | None = None
        self._has_failed = False
        self._probe: Probe | None = None
        self._countdown = 0
        """Calls of ``next()`` until the next event is recorded."""
        self._every = EVERY
        self._entered: object | None = None
        self._arrived: object | None = None
        self._batch = 0
        self._due_ns = 0
        self._pending: deque[Sample] = deque()
        self._sums = Sums()
        # A generator of its own: drawing from the user's would change their random numbers.
        self._random = random.Random(0)

    @property
    def is_used(self) -> bool:
        """A device was detected."""
        return self._timeline is not None

    def begin(self, probe: Probe, batches: int | None) -> None:
        """Sample the steps of an epoch from now on, where there is a device.

        Args:
            probe: Of the epoch's iterator.
            batches: How many the epoch will have; None where unknown.
        """
        self.stop()
        self._probe = probe
        self._every = EVERY if not batches else min(EVERY, max(MIN_EVERY, batches // SAMPLES_PER_EPOCH))
        if self.is_used:
            self._guarded(self._start)
        else:
            self.detect()

    def detect(self) -> None:
        """Start to sample if CUDA was initialised since the last call."""
        if self._timeline is None:
            self._guarded(self._open)

    def take_sums(self) -> Sums:
        """Return the sums of the epoch's samples, and start those of the next."""
        self._guarded(self._read)
        sums, self._sums = self._sums, Sums()
        return sums

    def stop(self) -> None:
        """Stop sampling until an epoch begins; samples that the device has not passed yet are read then."""
        if self._probe is not None:
            self._probe.enter_clock = perf_counter_ns
        self._probe = None
        self._guarded(self._read)
        self._guarded(self._forget_events)
        self._sums = Sums()

    def enter_clock(self) -> int:
        """Count a call of ``next()``, record an event if one is due, and return the time.

        A call that records nothing takes 60 ns.
        """
        self._countdown -= 1
        if self._countdown <= 0:
            self._guarded(self._record)
        return perf_counter_ns()

    def record_arrival(self) -> int:
        """Record an event after the arrival of a batch; return when the probe's stamps are due."""
        self._guarded(self._record_arrived)
        return self._due_ns

    def _open(self) -> None:
        self._timeline = _find()
        if self._timeline is not None:
            # Before anything can fail: host wait is no starvation where CUDA is used, sampled or not.
            self._writer.uses_cuda()
            self._start()
            self._writer.uses_cuda(self._timeline.uuid())

    def _start(self) -> None:
        if self._probe is not None:
            # Not the first batch: the device's wait for it is start-up.
            self._countdown = 1 + self._gap()
            self._probe.enter_clock = self.enter_clock

    def _record(self) -> None:
        if self._entered is not None:
            self._finish()
            return
        self._read()
        self._countdown = 1
        if len(self._pending) >= MAX_PENDING or self._probe is None or self._timeline is None:
            self._countdown = self._gap()
            return
        probe = self._probe
        self._batch = probe.next_batch
        self._entered = self._timeline.record()
        if self._entered is None:
            self._countdown = self._gap()
            return
        self._due_ns, probe.due_ns = probe.due_ns, SAMPLED

    def _record_arrived(self) -> None:
        if self._timeline is not None and self._entered is not None:
            self._arrived = self._timeline.record()

    def _finish(self) -> None:
        """Record the end of the sampled step."""
        assert self._timeline is not None
        self._countdown = self._gap()
        ended = self._timeline.record() if self._arrived is not None else None
        if ended is None:
            self._forget_events()
            return
        self._pending.append(Sample(self._batch, self._entered, self._arrived, ended))
        self._entered = self._arrived = None

    def _gap(self) -> int:
        # Steps are often periodic (accumulated gradients, a log line every tenth): a constant gap would
        # sample the same step of each period. The mean is `_every`, with the two steps of a sample.
        return self._random.randint(1, 2 * self._every - 3)

    def _read(self) -> None:
        """Store the samples that the device has passed, oldest first."""
        while self._pending and self._timeline is not None:
            sample = self._pending[0]
            if not self._timeline.is_passed(sample.ended):
                return
            self._pending.popleft()
            self._store(sample, self._timeline)

    def _store(self, sample: Sample, timeline: Timeline) -> None:
        idle = timeline.nanoseconds(sample.entered, sample.arrived)
        busy = timeline.nanoseconds(sample.arrived, sample.ended)
        self._release(sample.entered, sample.arrived, sample.ended)
        if idle is None or busy is None or idle < 0 or busy < 0:
            return
        self._writer.store(ring.DeviceTiming(sample.batch, idle, busy))
        if self._probe is not None and sample.batch >= self._probe.begin:
            sums = self._sums
            self._sums = Sums(sums.steps + 1, sums.idle_ns + idle, sums.busy_ns + busy)

    def _forget_events(self) -> None:
        self._release(self._entered, self._arrived)
        self._entered = self._arrived = None

    def _release(self, *events: object | None) -> None:
        for event in events:
            if event is not None and self._timeline is not None:
                self._timeline.release(event)

    def _guarded(self, action: Callable[[], None]) -> None:
        if self._has_failed:
            return
        try:
            action()
        except Exception:
            self._has_failed = True
            self._pending.clear()
            self._entered = self._arrived = None
            if self._probe is not None:
                self._probe.enter_clock = perf_counter_ns
            guard.report("measuring the device")
