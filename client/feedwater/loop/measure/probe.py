"""What an iterator carries: where to store its batches' stamps, and what to do when a wait is long."""

from __future__ import annotations

from array import array
from collections.abc import Callable
from time import perf_counter_ns
from typing import Protocol

from feedwater import ring

LONG_WAIT_NS = 200_000
"""Above this a wait is worth the 0.75 µs of reading the queue depth; a ready batch takes 10 to 50 µs."""
STORE_NS = 100_000_000
"""How long stamps wait in the process before they go to the ring together. Three stores into shared memory at
each batch cost 0.35 µs in all, two appends to a list 0.2 (3.11); storing them together costs 6 µs, with cold
caches 15, ten times a second. The relay looks once a second; a trainer that is killed takes the last 0.1 s of
stamps with it."""
STORE_BATCHES = 128
"""And how many at most, by the pace so far: storing these takes 6 µs, ten times as many would show in the
99.9th percentile. Far below the ring's 8,192 slots, also where the pace quadruples."""
NEVER = 1 << 62
SAMPLED = -1
"""In place of the time when stamps are due: this batch is one whose step is sampled on the device."""


class EpochKeeper(Protocol):
    """Whom a probe tells what its iterator came to."""

    def finished(self, probe: Probe, teardown_ns: int, stamp_ns: int) -> None:
        """``StopIteration``: the call that ended the epoch took ``teardown_ns``."""

    def rolled_over(self, probe: Probe, stamp_ns: int) -> None:
        """One batch more than the loader's length: the iterator never ends, a new epoch began before it."""

    def failed(self, probe: Probe, error: BaseException) -> None:
        """Another exception left ``next()``."""

    def far_along(self, probe: Probe) -> None:
        """So many batches of the epoch were stored that it says something before its end."""


class Sampler(Protocol):
    """Whom a probe tells what concerns the device: `feedwater.loop.measure.device.Device`."""

    def look(self) -> None:
        """Some time has passed: there may be a device now."""

    def got(self) -> int:
        """The batch of a sampled step came; returns when the stamps are due."""


class Probe:
    """Counts and sums of one epoch of one iterator, and where its stamps go.

    The loop's own code (`feedwater.loop.attach.hooks`) appends to `stamps`; the methods here are called when
    it is past `due_ns` or a wait was long.
    """

    __slots__ = (
        "ask",
        "asked_ns",
        "begin",
        "device",
        "due_ns",
        "far_at",
        "head",
        "is_open",
        "keeper",
        "on_long_wait",
        "roll_at",
        "stamps",
        "start_up_ns",
        "stored_ns",
        "wait_ns",
        "words",
    )

    def __init__(self, words: memoryview, head: int, keeper: EpochKeeper, asked_ns: int) -> None:
        self.words = words
        self.head = head
        """Batches stored over the life of the loader."""
        self.stamps: list[int] = []
        """Not stored yet: entered, left, entered, left, …"""
        self.ask: Callable[[], int] = perf_counter_ns
        """Called before each ``next()`` for the time: the clock, or a `Sampler`'s in its place."""
        self.device: Sampler | None = None
        self.due_ns = 0
        """When the stamps are to be stored; 0 stores the first batch of an iterator at once."""
        self.stored_ns = asked_ns
        self.is_open = True
        self.keeper = keeper
        self.on_long_wait: Callable[[object, int], None] = self.read_ready
        self.roll_at = NEVER
        self.far_at = NEVER
        self.begin_epoch(head, asked_ns)

    def begin_epoch(self, head: int, asked_ns: int) -> None:
        """Start the sums anew at batch ``head``; the epoch was asked for at ``asked_ns``."""
        self.begin = head
        self.asked_ns = asked_ns
        self.start_up_ns = 0
        self.wait_ns = 0

    def roll_after(self, batches: int) -> None:
        """Expect the epoch to end after ``batches``; one more is a new epoch."""
        self.roll_at = self.begin + batches

    def look_after(self, batches: int) -> None:
        """Let the keeper look at the epoch, from ``batches`` on, each time that stamps are stored."""
        self.far_at = self.begin + batches

    @property
    def is_whole(self) -> bool:
        """All batches of the loader's length came, whether or not anybody asked for the end."""
        return self.head >= self.roll_at

    @property
    def batches(self) -> int:
        """Batches of this epoch that are stored."""
        return self.head - self.begin

    @property
    def next_batch(self) -> int:
        """Number of the batch that is asked for next, over the life of the loader."""
        return self.head + len(self.stamps) // 2

    def noticed(self, iterator: object, wait_ns: int) -> None:
        """Deal with the batch just stamped: it is sampled, its wait was long, or the stamps are due."""
        if self.due_ns == SAMPLED and self.device is not None:
            self.due_ns = self.device.got()
        if wait_ns > LONG_WAIT_NS:
            self.on_long_wait(iterator, wait_ns)
        if self.stamps and self.stamps[-1] >= self.due_ns:
            self.fold()

    def fold(self) -> None:
        """Store the stamps in the ring and add them to the epoch's sums."""
        # In place: the loop holds on to the list.
        stamps = self.stamps.copy()
        self.stamps.clear()
        if len(stamps) % 2:  # Ctrl-C between the two.
            stamps.pop()
        if not stamps or not self.is_open:
            return
        while self.head + len(stamps) // 2 > self.roll_at:
            self._roll_over(stamps)
        self._store(stamps)
        self._settle_pace(stamps[-1], len(stamps) // 2)
        if self.device is not None:
            self.device.look()
        if self.head >= self.far_at:
            self.keeper.far_along(self)

    def close(self) -> None:
        """Store nothing more: the epoch has ended, and another iterator may have the ring by now."""
        self.is_open = False

    def _roll_over(self, stamps: list[int]) -> None:
        """Store what belongs to the present epoch, and begin the next with the batch after that."""
        left = (self.roll_at - self.head) * 2
        if left:
            self._store(stamps[:left])
            del stamps[:left]
        length, far, enter_ns = self.batches, self.far_at - self.begin, stamps[0]
        self.keeper.rolled_over(self, enter_ns)
        self.begin_epoch(self.head, enter_ns)
        self.roll_after(length)
        self.look_after(far)

    def _store(self, stamps: list[int]) -> None:
        first = 0
        if self.head == self.begin:
            self.start_up_ns = stamps[1] - self.asked_ns
            first = 2
        self.wait_ns += sum(stamps[first + 1 :: 2]) - sum(stamps[first::2])
        words, slot = self.words, self.head % ring.MAIN_SLOTS
        self.head += len(stamps) // 2
        # More than the ring holds: the oldest are lost, which its reader counts.
        while stamps:
            run = min(len(stamps), (ring.MAIN_SLOTS - slot) * ring.MAIN_WORDS)
            at = ring.MAIN_AT + slot * ring.MAIN_WORDS
            words[at : at + run] = memoryview(array("q", stamps[:run]))
            stamps, slot = stamps[run:], 0
        words[1] = self.head

    def _settle_pace(self, now_ns: int, batches: int) -> None:
        spent_ns = max(1, now_ns - self.stored_ns)
        self.stored_ns = now_ns
        # Four times the last interval at most: the first ones say little of the pace to come.
        self.due_ns = now_ns + min(STORE_NS, 4 * spent_ns, spent_ns * STORE_BATCHES // batches)

    def _stamp(self, batch: int, which: int = 0) -> int:
        at = ring.MAIN_AT + batch % ring.MAIN_SLOTS * ring.MAIN_WORDS
        return int(self.words[at + which])

    def read_ready(self, iterator: object, wait_ns: int) -> None:
        """Store how many batches lie ready in the main process, from PyTorch's own counts (constant time)."""
        tasks = getattr(iterator, "_task_info", None)
        if tasks is None:
            return
        ready = len(tasks) - getattr(iterator, "_tasks_outstanding", 0)
        if ready < 0:
            # A worker whose shards are exhausted leaves its tasks outstanding: the counts say nothing then.
            return
        batch = self.head + len(self.stamps) // 2 - 1
        self.words[ring.READY_AT + batch % ring.MAIN_SLOTS] = ((batch + 1) << 16) | (ready & 0xFFFF)

    def newest_exit_ns(self) -> int:
        """Return when the newest batch came, stored or not; any thread may ask, not the loop's alone."""
        stamps = self.stamps
        return stamps[-1] if stamps else self.last_exit_ns()

    def last_exit_ns(self) -> int:
        """Return when the last stored batch of the epoch came; when it was asked for, if none did."""
        return self._stamp(self.head - 1, 1) if self.batches else self.asked_ns

    def stopped(self, enter_ns: int) -> None:
        """The iterator raised ``StopIteration``."""
        now = perf_counter_ns()
        self.fold()
        self.keeper.finished(self, now - enter_ns, now)
