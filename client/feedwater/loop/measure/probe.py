"""The probe that an iterator carries: it collects the stamps of batches and stores them in the ring."""

from __future__ import annotations

from array import array
from collections.abc import Callable
from time import perf_counter_ns
from typing import Protocol

from feedwater import ring

LONG_WAIT_NS = 200_000
"""A wait above which the queue depth is read, for 0.75 µs; a batch that is ready takes 10 to 50 µs."""
STORE_NS = 100_000_000
"""Longest time that stamps stay in the process before they are stored in the ring together. Three stores into
shared memory at each batch cost 0.35 µs in all, two appends to a list 0.2 (3.11); storing them together costs
6 µs, with cold caches 15, ten times a second. The relay reads once a second; a trainer that is killed takes
the last 0.1 s of stamps with it."""
STORE_BATCHES = 128
"""Batches stored together at most, by the pace so far: storing them takes 6 µs; ten times as many would show
in the 99.9th percentile. The ring has 8,192 slots, which is far above also where the pace quadruples."""
NEVER = 1 << 62
SAMPLED = -1
"""Value of `Probe.due_ns` while the step of the present batch is sampled on the device."""


class EpochObserver(Protocol):
    """Receives what happens to the iterator of a probe."""

    def on_end(self, probe: Probe, teardown_ns: int, stamp_ns: int) -> None:
        """The iterator raised ``StopIteration``, in a call that took ``teardown_ns``."""

    def on_roll_over(self, probe: Probe, stamp_ns: int) -> None:
        """The iterator gave more batches than the loader's length: an epoch ended before the last one."""

    def on_exception(self, probe: Probe, error: BaseException) -> None:
        """The iterator raised another exception."""

    def on_progress(self, probe: Probe) -> None:
        """Stamps were stored, and the epoch has as many batches as `Probe.report_progress_after` asks for."""


class StepSampler(Protocol):
    """Samples steps on the device: `feedwater.loop.measure.device.DeviceSampler`."""

    def detect(self) -> None:
        """Detect the device, which may be in use since the last call."""

    def record_arrival(self) -> int:
        """Record the arrival of the batch of a sampled step; return when the stamps are due."""


class Probe:
    """Counts and sums of the present epoch of one iterator, and the stamps that are not stored yet.

    `feedwater.loop.attach.hooks` appends to `stamps` at each batch, and calls `inspect_batch` only when a
    stamp is later than `due_ns` or a wait was long.
    """

    __slots__ = (
        "asked_ns",
        "begin",
        "device",
        "due_ns",
        "enter_clock",
        "head",
        "is_open",
        "observer",
        "on_long_wait",
        "progress_at",
        "roll_over_at",
        "stamps",
        "start_up_ns",
        "stored_ns",
        "wait_ns",
        "words",
    )

    def __init__(self, words: memoryview, head: int, observer: EpochObserver, asked_ns: int) -> None:
        self.words = words
        self.head = head
        """Batches stored over the life of the loader."""
        self.stamps: list[int] = []
        """Not stored yet: when ``next()`` was entered, left, entered, left, …"""
        self.enter_clock: Callable[[], int] = perf_counter_ns
        """Returns the time before each ``next()``: the clock itself, or a `StepSampler`'s in its place."""
        self.device: StepSampler | None = None
        self.due_ns = 0
        """When the stamps are due to be stored; 0: at the first batch of an iterator."""
        self.stored_ns = asked_ns
        self.is_open = True
        self.observer = observer
        self.on_long_wait: Callable[[object, int], None] = self.read_ready
        self.roll_over_at = NEVER
        self.progress_at = NEVER
        self.begin_epoch(head, asked_ns)

    def begin_epoch(self, head: int, asked_ns: int) -> None:
        """Reset the sums at batch ``head``, for an epoch whose iterator was requested at ``asked_ns``."""
        self.begin = head
        self.asked_ns = asked_ns
        self.start_up_ns = 0
        self.wait_ns = 0

    def roll_over_after(self, batches: int) -> None:
        """Expect the epoch to end after ``batches``; one more is a new epoch."""
        self.roll_over_at = self.begin + batches

    def report_progress_after(self, batches: int) -> None:
        """Call `EpochObserver.on_progress` whenever stamps are stored, once the epoch has ``batches``."""
        self.progress_at = self.begin + batches

    @property
    def is_whole(self) -> bool:
        """As many batches came as the loader has, whether or not ``StopIteration`` was raised."""
        return self.head >= self.roll_over_at

    @property
    def batches(self) -> int:
        """Batches of this epoch that are stored."""
        return self.head - self.begin

    @property
    def next_batch(self) -> int:
        """Number of the next batch, over the life of the loader."""
        return self.head + len(self.stamps) // 2

    def inspect_batch(self, iterator: object, wait_ns: int) -> None:
        """Handle a batch that is sampled, whose wait was long, or at which the stamps are due."""
        if self.due_ns == SAMPLED and self.device is not None:
            self.due_ns = self.device.record_arrival()
        if wait_ns > LONG_WAIT_NS:
            self.on_long_wait(iterator, wait_ns)
        if self.stamps and self.stamps[-1] >= self.due_ns:
            self.flush()

    def flush(self) -> None:
        """Store the stamps in the ring and add them to the epoch's sums."""
        # In place: the hook holds a reference to the list.
        stamps = self.stamps.copy()
        self.stamps.clear()
        if len(stamps) % 2:  # Ctrl-C came between its two appends.
            stamps.pop()
        if not stamps or not self.is_open:
            return
        while self.head + len(stamps) // 2 > self.roll_over_at:
            self._roll_over(stamps)
        self._store(stamps)
        self._schedule_flush(stamps[-1], len(stamps) // 2)
        if self.device is not None:
            self.device.detect()
        if self.head >= self.progress_at:
            self.observer.on_progress(self)

    def close(self) -> None:
        """Store nothing more: the epoch has ended, and another iterator may be using the ring."""
        self.is_open = False

    def _roll_over(self, stamps: list[int]) -> None:
        """Store the last batches of the present epoch, and begin the next with the batch after them."""
        count = (self.roll_over_at - self.head) * 2
        if count:
            self._store(stamps[:count])
            del stamps[:count]
        length, progress_after, enter_ns = self.batches, self.progress_at - self.begin, stamps[0]
        self.observer.on_roll_over(self, enter_ns)
        self.begin_epoch(self.head, enter_ns)
        self.roll_over_after(length)
        self.report_progress_after(progress_after)

    def _store(self, stamps: list[int]) -> None:
        first = 0
        if self.head == self.begin:
            self.start_up_ns = stamps[1] - self.asked_ns
            first = 2
        self.wait_ns += sum(stamps[first + 1 :: 2]) - sum(stamps[first::2])
        words, slot = self.words, self.head % ring.MAIN_SLOTS
        self.head += len(stamps) // 2
        # Where they are more than the ring holds, the oldest are overwritten; the reader counts them as lost.
        while stamps:
            run = min(len(stamps), (ring.MAIN_SLOTS - slot) * ring.MAIN_WORDS)
            at = ring.MAIN_AT + slot * ring.MAIN_WORDS
            words[at : at + run] = memoryview(array("q", stamps[:run]))
            stamps, slot = stamps[run:], 0
        words[1] = self.head

    def _schedule_flush(self, now_ns: int, batches: int) -> None:
        spent_ns = max(1, now_ns - self.stored_ns)
        self.stored_ns = now_ns
        # At most four times the last interval: the first batches say little of the pace to come.
        self.due_ns = now_ns + min(STORE_NS, 4 * spent_ns, spent_ns * STORE_BATCHES // batches)

    def _stamp(self, batch: int, which: int = 0) -> int:
        at = ring.MAIN_AT + batch % ring.MAIN_SLOTS * ring.MAIN_WORDS
        return int(self.words[at + which])

    def read_ready(self, iterator: object, wait_ns: int) -> None:
        """Store how many batches are ready in the main process, by PyTorch's own counts (constant time)."""
        tasks = getattr(iterator, "_task_info", None)
        if tasks is None:
            return
        ready = len(tasks) - getattr(iterator, "_tasks_outstanding", 0)
        if ready < 0:
            # The counts are wrong: a worker whose shards are exhausted leaves its tasks outstanding.
            return
        batch = self.head + len(self.stamps) // 2 - 1
        self.words[ring.READY_AT + batch % ring.MAIN_SLOTS] = ((batch + 1) << 16) | (ready & 0xFFFF)

    def newest_exit_ns(self) -> int:
        """Return when the newest batch came, stored or not; safe in any thread."""
        stamps = self.stamps
        return stamps[-1] if stamps else self.last_exit_ns()

    def last_exit_ns(self) -> int:
        """Return when the last stored batch of the epoch came; when the epoch was requested if none did."""
        return self._stamp(self.head - 1, 1) if self.batches else self.asked_ns

    def on_stop_iteration(self, enter_ns: int) -> None:
        """Store the last stamps, and end the epoch, because the iterator raised ``StopIteration``."""
        stamp_ns = perf_counter_ns()
        self.flush()
        self.observer.on_end(self, stamp_ns - enter_ns, stamp_ns)
