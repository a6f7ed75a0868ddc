"""What the accelerator says: when it waited for a batch, and when it worked, of about one step in 16.

Under asynchronous CUDA the host runs ahead and then waits in ``next()`` while the device is still busy: host
wait is not starvation. Three events on the stream tell the truth. A device passes an event when all that was
queued before it is done:

    asked   recorded before next()      passed when the device has done all earlier steps, at once if it had
    got     recorded after it           passed at once where the device is idle, else right after `asked`
    ended   recorded before the next    passed when the device has done this step

so ``asked`` to ``got`` is the time that the device stood still for want of a batch, and ``got`` to ``ended``
the time of the step on the device. They are read at a later sample, without synchronising.
"""

from __future__ import annotations

import random
import sys
from collections import deque
from collections.abc import Callable
from time import perf_counter_ns
from typing import TYPE_CHECKING, NamedTuple, Protocol

from feedwater import ring
from feedwater.loop import log
from feedwater.loop.measure.cuda import CudaTimeline, used_device
from feedwater.loop.measure.probe import SAMPLED

if TYPE_CHECKING:
    from feedwater.loop.measure.probe import Probe

EVERY = 16
"""Steps for each one that is sampled, on average: 25 µs of recording are then below 2 µs a step."""
LEAST_EVERY = 2
WANTED = 16
"""Samples of an epoch, where it is long enough: an epoch of 64 batches is sampled each fourth step. The share
of time that they give is then right to about a fifth of itself where steps vary by their own length."""
MIN_STEPS = 4
"""Samples that a share of waiting takes, as in the sidecar: one slow step among fewer is half of all."""
MAX_PENDING = 8
"""Samples that wait for the device. Drivers queue about 1,000 kernels, less than 16 steps of most models:
one or two are the rule. Where they are more, sampling pauses."""


class Timeline(Protocol):
    """The seam between the loop and a device: `feedwater.loop.measure.cuda.CudaTimeline`, or a test's own."""

    def uuid(self) -> int:
        """Return the 128 bits of the device's UUID, 0 where it is unknown."""

    def record(self) -> object | None:
        """Queue an event behind the device's work; None where that may not be done now."""

    def is_passed(self, event: object) -> bool:
        """Say, without waiting, whether the device has come past an event."""

    def nanoseconds(self, first: object, second: object) -> int | None:
        """Return the time between two events that were passed; None where they cannot be compared."""

    def release(self, event: object) -> None:
        """Take an event back, to be used again."""


FindTimeline = Callable[[], Timeline | None]


class Sample(NamedTuple):
    """One step, its events recorded."""

    batch: int
    """Over the life of the loader."""
    asked: object
    got: object
    ended: object


class Sums(NamedTuple):
    """What the samples of an epoch came to."""

    steps: int = 0
    idle_ns: int = 0
    busy_ns: int = 0

    @property
    def starvation(self) -> float | None:
        """Share of the device's time that it waited for a batch; None with fewer than `MIN_STEPS` samples."""
        whole = self.idle_ns + self.busy_ns
        return self.idle_ns / whole if self.steps >= MIN_STEPS and whole else None


def find_timeline() -> Timeline | None:
    """Return CUDA's timeline where the user has put anything on a device; torch is never imported for it."""
    torch = sys.modules.get("torch")
    cuda = getattr(torch, "cuda", None)
    if cuda is None or not cuda.is_initialized():
        return None
    device = used_device(cuda)
    return None if device is None else CudaTimeline(cuda, device)


_find: FindTimeline = find_timeline


def find_timeline_with(find: FindTimeline) -> None:
    """Use ``find`` to look for a device, at each epoch and until there is one."""
    global _find
    _find = find


class Device:
    """Samples the steps of one loader. Nothing raises; after an error nothing is measured any more."""

    def __init__(self, words: memoryview) -> None:
        self._writer = ring.DeviceWriter(words)
        self._timeline: Timeline | None = None
        self._is_given_up = False
        self._probe: Probe | None = None
        self._left = 0
        """Calls of ``next()`` until the next event is to be recorded."""
        self._every = EVERY
        self._asked: object | None = None
        self._got: object | None = None
        self._batch = 0
        self._due_ns = 0
        self._pending: deque[Sample] = deque()
        self._sums = Sums()
        # Its own stream: the user's must not move. Where the samples fall need not differ between runs.
        self._random = random.Random(0)

    @property
    def is_used(self) -> bool:
        """The user trains on a device."""
        return self._timeline is not None

    def begin(self, probe: Probe, batches: int | None) -> None:
        """Sample the steps of an epoch from now on, if there is a device.

        Args:
            probe: Of the epoch's iterator.
            batches: How many the epoch will have; None where unknown.
        """
        self.stop()
        self._probe = probe
        self._every = EVERY if not batches else min(EVERY, max(LEAST_EVERY, batches // WANTED))
        if self.is_used:
            self._guarded(self._start)
        else:
            self.look()

    def look(self) -> None:
        """Begin to sample if CUDA was initialised meanwhile."""
        if self._timeline is None:
            self._guarded(self._open)

    def turn(self) -> Sums:
        """Return what the epoch's samples came to, and begin the sums of another."""
        self._guarded(self._read)
        sums, self._sums = self._sums, Sums()
        return sums

    def stop(self) -> None:
        """Sample no more until another epoch begins; what the device has not come past is read then."""
        if self._probe is not None:
            self._probe.ask = perf_counter_ns
        self._probe = None
        self._guarded(self._read)
        self._guarded(self._forget_events)
        self._sums = Sums()

    def ask(self) -> int:
        """Count a call of ``next()``, 60 ns, and record an event if it is time; return the time."""
        self._left -= 1
        if self._left <= 0:
            self._guarded(self._record)
        return perf_counter_ns()

    def got(self) -> int:
        """Record that the batch came; return when the probe's stamps are due."""
        self._guarded(self._record_got)
        return self._due_ns

    def _open(self) -> None:
        self._timeline = _find()
        if self._timeline is not None:
            # Said before anything can fail: host wait is not starvation any more, measured or not.
            self._writer.uses_cuda()
            self._start()
            self._writer.uses_cuda(self._timeline.uuid())

    def _start(self) -> None:
        if self._probe is not None:
            # Not the first batch: what the device waits for it is start-up.
            self._left = 1 + self._gap()
            self._probe.ask = self.ask

    def _record(self) -> None:
        if self._asked is not None:
            self._finish()
            return
        self._read()
        self._left = 1
        if len(self._pending) >= MAX_PENDING or self._probe is None or self._timeline is None:
            self._left = self._gap()
            return
        probe = self._probe
        self._batch = probe.next_batch
        self._asked = self._timeline.record()
        if self._asked is None:
            self._left = self._gap()
            return
        self._due_ns, probe.due_ns = probe.due_ns, SAMPLED

    def _record_got(self) -> None:
        if self._timeline is not None and self._asked is not None:
            self._got = self._timeline.record()

    def _finish(self) -> None:
        """Record the end of the sampled step."""
        assert self._timeline is not None
        self._left = self._gap()
        ended = self._timeline.record() if self._got is not None else None
        if ended is None:
            self._forget_events()
            return
        self._pending.append(Sample(self._batch, self._asked, self._got, ended))
        self._asked = self._got = None

    def _gap(self) -> int:
        # Steps often come in rounds (accumulated gradients, a log line every tenth): an even gap would see
        # the same step of each round. The mean is `_every`; the two steps that a sample takes are in it.
        return self._random.randint(1, 2 * self._every - 3)

    def _read(self) -> None:
        """Store the samples that the device has come past, oldest first."""
        while self._pending and self._timeline is not None:
            sample = self._pending[0]
            if not self._timeline.is_passed(sample.ended):
                return
            self._pending.popleft()
            self._store(sample, self._timeline)

    def _store(self, sample: Sample, timeline: Timeline) -> None:
        idle = timeline.nanoseconds(sample.asked, sample.got)
        busy = timeline.nanoseconds(sample.got, sample.ended)
        self._release(sample.asked, sample.got, sample.ended)
        if idle is None or busy is None or idle < 0 or busy < 0:
            return
        self._writer.store(ring.DeviceTiming(sample.batch, idle, busy))
        if self._probe is not None and sample.batch >= self._probe.begin:
            sums = self._sums
            self._sums = Sums(sums.steps + 1, sums.idle_ns + idle, sums.busy_ns + busy)

    def _forget_events(self) -> None:
        self._release(self._asked, self._got)
        self._asked = self._got = None

    def _release(self, *events: object | None) -> None:
        for event in events:
            if event is not None and self._timeline is not None:
                self._timeline.release(event)

    def _guarded(self, action: Callable[[], None]) -> None:
        if self._is_given_up:
            return
        try:
            action()
        except Exception:
            self._is_given_up = True
            self._pending.clear()
            self._asked = self._got = None
            if self._probe is not None:
                self._probe.ask = perf_counter_ns
            log.absorbed("measuring the device")
