"""What an iterator carries: where to store its batches' stamps, and what to do when a wait is long."""

from __future__ import annotations

from collections.abc import Callable
from time import perf_counter_ns
from typing import Protocol

from feedwater import ring

LONG_WAIT_NS = 200_000
"""Above this a wait is worth the 0.75 µs of reading the queue depth; a ready batch takes 10 to 50 µs."""
FOLD_BATCHES = 2048
"""How often the sums of an epoch are taken from the ring: 80 µs each time, seldomer than one batch in a
thousand, and long before the ring's 8,192 slots come round."""
NEVER = 1 << 62


class EpochKeeper(Protocol):
    """Whom a probe tells what its iterator came to."""

    def finished(self, probe: Probe, teardown_ns: int, stamp_ns: int) -> None:
        """``StopIteration``: the call that ended the epoch took ``teardown_ns``."""

    def rolled_over(self, probe: Probe, stamp_ns: int) -> None:
        """One batch more than the loader's length: the iterator never ends, a new epoch began before it."""

    def failed(self, probe: Probe, error: BaseException) -> None:
        """Another exception left ``next()``."""


class Probe:
    """Counts and sums of one epoch of one iterator, and where its stamps go.

    The loop's own code (`feedwater.loop.hooks`) stores stamps and moves `head`; the methods here are called
    when `head` reaches `limit` or a wait was long.
    """

    __slots__ = (
        "asked_ns",
        "begin",
        "fold_at",
        "folded",
        "head",
        "keeper",
        "limit",
        "on_long_wait",
        "roll_at",
        "start_up_ns",
        "wait_ns",
        "words",
    )

    def __init__(self, words: memoryview, head: int, keeper: EpochKeeper, asked_ns: int) -> None:
        self.words = words
        self.head = head
        """Batches stored over the life of the loader."""
        self.keeper = keeper
        self.on_long_wait: Callable[[object, int], None] = self.read_ready
        self.roll_at = NEVER
        self.begin_epoch(head, asked_ns)

    def begin_epoch(self, head: int, asked_ns: int) -> None:
        """Start the sums anew at batch ``head``; the epoch was asked for at ``asked_ns``."""
        self.begin = self.folded = head
        self.asked_ns = asked_ns
        self.start_up_ns = 0
        self.wait_ns = 0
        # The first batch is a milestone of its own: it ends the start-up.
        self.fold_at = head + 1
        self.limit = min(self.fold_at, self.roll_at)

    def roll_after(self, batches: int) -> None:
        """Expect the epoch to end after ``batches``; one more is a new epoch."""
        self.roll_at = self.begin + batches + 1
        self.limit = min(self.fold_at, self.roll_at)

    @property
    def batches(self) -> int:
        """Batches of this epoch so far."""
        return self.head - self.begin

    def noticed(self, iterator: object, wait_ns: int) -> None:
        """Deal with the batch just stored, number ``head - 1``: a milestone, or a long wait."""
        if self.head >= self.limit:
            self._milestone()
        if wait_ns > LONG_WAIT_NS:
            self.on_long_wait(iterator, wait_ns)

    def _milestone(self) -> None:
        if self.head >= self.roll_at:
            self._roll_over()
        self.fold()
        self.fold_at = self.head + FOLD_BATCHES
        self.limit = min(self.fold_at, self.roll_at)

    def _roll_over(self) -> None:
        enter_ns = self._stamp(self.head - 1)
        # The batch in hand belongs to the next epoch.
        self.head -= 1
        length = self.batches
        self.fold()
        self.keeper.rolled_over(self, enter_ns)
        self.begin_epoch(self.head, enter_ns)
        self.head += 1
        self.roll_after(length)

    def fold(self) -> None:
        """Add what was stored since the last time to the epoch's sums."""
        if self.head == self.folded:
            return
        if self.folded == self.begin:
            self.start_up_ns = self._stamp(self.begin, 1) - self.asked_ns
            self.folded += 1
        while self.folded < self.head:
            self.folded = self._fold_run(self.folded)

    def _fold_run(self, first: int) -> int:
        slot = first % ring.MAIN_SLOTS
        run = min(self.head - first, ring.MAIN_SLOTS - slot)
        at = ring.MAIN_AT + slot * ring.MAIN_WORDS
        stamps = self.words[at : at + run * ring.MAIN_WORDS]
        self.wait_ns += sum(stamps[1::2]) - sum(stamps[0::2])
        return first + run

    def _stamp(self, batch: int, which: int = 0) -> int:
        at = ring.MAIN_AT + batch % ring.MAIN_SLOTS * ring.MAIN_WORDS
        return int(self.words[at + which])

    def read_ready(self, iterator: object, wait_ns: int) -> None:
        """Store how many batches lie ready in the main process, from PyTorch's own counts (constant time)."""
        tasks = getattr(iterator, "_task_info", None)
        if tasks is None:
            return
        ready = len(tasks) - getattr(iterator, "_tasks_outstanding", 0)
        batch = self.head - 1
        self.words[ring.READY_AT + batch % ring.MAIN_SLOTS] = ((batch + 1) << 16) | (ready & 0xFFFF)

    def last_exit_ns(self) -> int:
        """Return when the last batch of the epoch came; when the epoch was asked for, if none did."""
        return self._stamp(self.head - 1, 1) if self.batches else self.asked_ns

    def stopped(self, enter_ns: int) -> None:
        """The iterator raised ``StopIteration``."""
        now = perf_counter_ns()
        self.fold()
        self.keeper.finished(self, now - enter_ns, now)
